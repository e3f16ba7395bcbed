"""The command line, ``python -m airflow_provider_flora``, and as ``airflow flora`` on Airflow 3.2 and later.

One module has a command, or a few that share a subject; ``main`` lists them. A command reads its arguments, uses
``api`` and prints through ``terminal``. Airflow is imported only for a connection or a storage of Airflow's, for
downloads and for ``check``: its start takes longer than most commands.
"""
