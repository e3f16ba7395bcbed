"""What DAG files expect of a check, in comments: ``# MISTAKE task: words``, and with LEFT or COST."""

from __future__ import annotations

import re
from pathlib import Path

from airflow_provider_flora.api.file_types import TYPES_IN_WORDS
from airflow_provider_flora.api.settings import ClientSettings
from airflow_provider_flora.checking.report import Report
from airflow_provider_flora.cli.check import cost_of
from airflow_provider_flora.emulator import Emulator

HERE = Path(__file__).parent
WRONG_DAGS, RIGHT_DAGS = HERE / "wrong_dags", HERE / "right_dags"
_COMMENT = re.compile(r"^# (?P<kind>[A-Z]+) (?P<about>\S*): (?P<text>.*(?:\n#    .*)*)", re.MULTILINE)
_REQUEST_ID = re.compile(r"request id \w+")


def settings_of(emulator: Emulator) -> ClientSettings:
    """The settings that a command has of the environment's key."""
    return ClientSettings(
        api_key=emulator.api_key, base_url=emulator.base_url, max_retries=0, key_name="the key in FLORA_API_KEY"
    )


def expected(kind: str, file: Path) -> list[tuple[str, str]]:
    """What a file expects: of which task, or of which DAG for COST, and in which words."""
    return sorted(
        (
            found["about"],
            _words(found["text"].replace("\n#", "\n"))
            .replace("{folder}", str(file.parent))
            .replace("{types}", TYPES_IN_WORDS),
        )
        for found in _COMMENT.finditer(file.read_text())
        if found["kind"] == kind
    )


def mistakes_of(report: Report) -> list[tuple[str, str]]:
    """What a check has found wrong."""
    return sorted((mistake.place.task_id or "", _words(mistake.message)) for mistake in report.mistakes)


def left_of(report: Report) -> list[tuple[str, str]]:
    """What a check has left for run time."""
    return sorted((finding.place.task_id or "", _words(finding.message)) for finding in report.left)


def costs_of(report: Report) -> list[tuple[str, str]]:
    """What a check says that DAG runs cost."""
    return sorted((dag.dag_id, cost_of(dag).replace("\N{MULTIPLICATION SIGN}", "x")) for dag in report.costs)


def _words(text: str) -> str:
    return " ".join(_REQUEST_ID.sub("request id REQUEST", text).split())
