"""FloraCreditsNotifier: one alert for all tasks that fail since Flora is out of credits."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_flora.airflow_compat import BaseNotifier
from airflow_provider_flora.api.errors import FloraCreditsError, FloraUploadError
from airflow_provider_flora.notifications.credits import ONE_IN, FloraCreditsNotifier


class Messages(BaseNotifier):
    """Keeps what it would send."""

    template_fields = ("text",)

    def __init__(self, text: str = "{{ exception }}", pause: float = 0.0) -> None:
        super().__init__()
        self.text = text
        self.pause = pause
        self.sent: list[str] = []
        self.fails = False

    def notify(self, context: Any) -> None:
        time.sleep(self.pause)
        if self.fails:
            raise OSError("the chat is away")
        self.sent.append(self.text)


def failed(error: BaseException | None = None, conn_id: str = "flora_default") -> Any:
    """The context of a task that has failed."""
    error = FloraCreditsError("Top up the workspace.") if error is None else error
    return {"exception": error, "task": SimpleNamespace(flora_conn_id=conn_id), "dag": None}


def test_one_alert_has_floras_words_however_many_tasks_fail() -> None:
    messages = Messages()
    for _ in range(40):
        FloraCreditsNotifier(messages)(failed())
    assert messages.sent == ["Top up the workspace."]


def test_tasks_that_fail_at_the_same_moment_send_one() -> None:
    messages = Messages(pause=0.2)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: FloraCreditsNotifier(messages)(failed()), range(8)))
    assert len(messages.sent) == 1


@pytest.mark.parametrize("error", [FloraUploadError("away"), ValueError("x"), "a text"])
def test_another_error_sends_nothing_and_takes_no_alert_away(error: Any) -> None:
    messages = Messages()
    FloraCreditsNotifier(messages)(failed(error))
    FloraCreditsNotifier(messages)({"dag": None})
    assert messages.sent == []
    FloraCreditsNotifier(messages)(failed())
    assert len(messages.sent) == 1


def test_an_alert_that_could_not_be_sent_is_sent_by_the_next_task() -> None:
    messages = Messages()
    messages.fails = True
    with suppress(OSError):  # Airflow 2 logs it
        FloraCreditsNotifier(messages)(failed())
    messages.fails = False
    FloraCreditsNotifier(messages)(failed())
    assert len(messages.sent) == 1


def test_a_chat_and_a_pager_are_both_told() -> None:
    class Pages(Messages):
        pass

    chat, pager = Messages(), Pages()
    for _ in range(3):
        for notifier in (chat, pager):
            FloraCreditsNotifier(notifier)(failed())
    assert (len(chat.sent), len(pager.sent)) == (1, 1)


def test_each_connection_has_its_own_alert() -> None:
    messages = Messages()
    for conn_id in ("one", "other", "one"):
        FloraCreditsNotifier(messages)(failed(conn_id=conn_id))
    assert len(messages.sent) == 2


def test_each_airflow_of_a_machine_has_its_own_alert(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = Messages()
    for folder in ("/one/dags", "/other/dags", "/one/dags"):
        monkeypatch.setenv("AIRFLOW__CORE__DAGS_FOLDER", folder)
        FloraCreditsNotifier(messages)(failed())
    assert len(messages.sent) == 2


def test_an_hour_later_there_is_another(kept_techniques: Path) -> None:
    messages = Messages()
    FloraCreditsNotifier(messages)(failed())
    for file in kept_techniques.glob("*.alerts"):
        os.utime(file, (time.time() - ONE_IN, time.time() - ONE_IN))
    FloraCreditsNotifier(messages)(failed())
    assert len(messages.sent) == 2
