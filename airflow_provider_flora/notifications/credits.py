"""FloraCreditsNotifier: one alert for all tasks that fail since Flora is out of credits."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from airflow_provider_flora.airflow_compat import BaseNotifier, conf

if TYPE_CHECKING:
    from airflow_provider_flora.airflow_compat import Context

ONE_IN = 3600.0
"""Seconds in which one alert is sent."""


class FloraCreditsNotifier(BaseNotifier):
    """A notifier that sends another one's message when Flora is out of credits, at most once an hour.

    For ``on_failure_callback``. The tasks of one machine and one connection send one alert together, through each
    class of notifier. Other errors send none. If sending fails, the next task that fails sends it.

    :param notifier: sends the message, for example Slack's. Its templates may use ``{{ exception }}``, which has
        Flora's words.
    """

    def __init__(self, notifier: BaseNotifier) -> None:
        super().__init__()
        self.notifier = notifier

    def notify(self, context: Context) -> None:
        """Send the message of a task that has failed, unless it failed for another reason or one was just sent.

        :raises FloraStorageError: another task has been sending for too long.
        """
        from airflow_provider_flora.api.errors import FloraCreditsError
        from airflow_provider_flora.runs.shared_files import SharedFile

        if not isinstance(context.get("exception"), FloraCreditsError):
            return
        # Several Airflows of one user may have connections of the same name.
        deployment = conf.get("core", "dags_folder", fallback="")
        conn_id = getattr(context.get("task"), "flora_conn_id", "")
        # A task may tell a chat and a pager.
        channel = f"{type(self.notifier).__module__}.{type(self.notifier).__qualname__}"
        sent = SharedFile("alerts", [str(deployment), conn_id, channel], ONE_IN)
        with sent.locked():
            if sent.read() is not None:
                return
            # Not by calling it: that would hide an error, and the alert would count as sent.
            self.notifier.render_template_fields(context)
            self.notifier.notify(context)
            sent.write(b"sent", time.time())
