"""A local Flora to develop and test against without paying. Other code imports :class:`Emulator` from here.

The emulator imports nothing of Airflow and nothing of the rest of this package: a mistake in the client is never
mirrored here. An *asset* in the emulator is always a Flora asset. Its folders import one way; from the top down:

    server, service, control, __main__   one object, the way of a request, the control endpoints, the command line
    connection                           the Airflow connection to it
    operations                           what Flora's endpoints answer
    faults                               what can be ordered to go wrong
    state                                techniques, runs, Flora assets, the ledger, the time
    media, http                          the making of files; the form of requests and answers

A new endpoint of Flora's is a method in ``operations``, a route in ``service.py`` and a name in
``faults/kinds.py``.
"""

from airflow_provider_flora.emulator.server import Emulator

__all__ = ["Emulator"]
