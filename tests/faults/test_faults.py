"""Any process may die: each execution is charged once, and each task has the outputs of its own inputs.

`make test` runs one, a real kill; `make test-airflow`, a part that has each kind of fault; `make faults`, all of
them, and it writes a report.
All scenarios of one Airflow run together, so a single one costs as much as its Airflow's start: `pytest -k`.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from scripts.local_airflow import LocalAirflow
from tests.faults.fault_report import write_report
from tests.faults.fault_running import Runner, Scenario, Verdict
from tests.faults.fault_scenarios import ALL, FAULTS, SCENARIOS

REPOSITORY = Path(__file__).parents[2]
DAGS = Path(__file__).parent / "dags"
DATABASES = REPOSITORY / ".airflow" / "empty-databases"
LEAVE_NOTHING_OUT = bool(os.environ.get("FLORA_TESTS_LEAVE_NOTHING_OUT"))
POSTGRES = ("127.0.0.1", 5432)
REDIS = ("127.0.0.1", 6379)
REDIS_DATABASE = 11
KEY_PREFIX = f"flora_faults_{os.getpid()}_"
DATABASE_URL = "postgresql+psycopg2://postgres@127.0.0.1:5432/flora_faults_{}"
PART = [scenario for scenario in SCENARIOS if scenario.in_part]
ONE = next(scenario for scenario in PART if scenario.fault == "2" and scenario.mode == "deferrable")
CHOSEN = {"all": SCENARIOS, "part": PART}.get(FAULTS or "", [ONE])

# A task whose worker is gone, and a component that is, are noticed in minutes by default.
NOTICE_SOON: Mapping[str, str] = {
    "AIRFLOW__CORE__PARALLELISM": "24",
    "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "64",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
}


def _listens(address: tuple[str, int]) -> bool:
    with socket.socket() as caller:
        caller.settimeout(1)
        return caller.connect_ex(address) == 0


@pytest.fixture(scope="module")
def verdicts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Verdict]:
    """What came of every chosen scenario."""
    selected = {item.name for item in request.session.items}
    chosen = [one for one in CHOSEN if f"{test_each_execution_is_charged_once.__name__}[{one.name}]" in selected]
    capture = request.config.pluginmanager.getplugin("capturemanager")
    one_by_one = threading.Lock()

    def report(words: str) -> None:
        """Report progress, past pytest's capture: all of it happens in this one fixture."""
        with one_by_one, capture.global_and_fixture_disabled():
            print(f"\n{time.strftime('%H:%M:%S')} {words}", end="", flush=True)

    with_postgres = _listens(POSTGRES)
    chosen = chosen if with_postgres else _one_of_each(chosen)
    found: list[Verdict] = []
    places: list[str] = []
    began = time.monotonic()
    for celery in (False, True):
        scenarios = [scenario for scenario in chosen if scenario.celery == celery]
        if not scenarios or (celery and not (with_postgres and _listens(REDIS))):
            continue
        home = tmp_path_factory.mktemp("celery" if celery else "faults")
        executor = "CeleryExecutor with Redis" if celery else "LocalExecutor"
        places.append(f"{executor} and {'PostgreSQL' if with_postgres else 'SQLite'}")
        report(places[-1])
        try:
            with _airflow(home, report, celery=celery, with_postgres=with_postgres) as airflow:
                found += Runner(airflow, home / "marks", report, 7 if with_postgres else 2).run(scenarios)
        except Exception as error:
            judged = [verdict.scenario for verdict in found]
            problem = f"Airflow: {type(error).__name__}: {error}"
            found += [Verdict(one, problems=[problem]) for one in scenarios if one not in judged]
        finally:
            if celery:
                _clear_redis()
    took = time.monotonic() - began
    report(f"all scenarios took {took:.0f} s")
    if ALL and {verdict.scenario.name for verdict in found} == {scenario.name for scenario in SCENARIOS}:
        found.sort(key=lambda verdict: SCENARIOS.index(verdict.scenario))
        write_report(REPOSITORY / "docs" / "reliability_results.rst", found, places, took)
    return {verdict.scenario.name: verdict for verdict in found}


def _clear_redis() -> None:
    """What a killed worker has left there."""
    from redis import Redis

    with Redis(*REDIS, db=REDIS_DATABASE) as redis:
        for key in redis.scan_iter(f"{KEY_PREFIX}*"):
            redis.delete(key)


def _one_of_each(scenarios: Sequence[Scenario]) -> list[Scenario]:
    """What SQLite can take: one scenario of each fault, and those that run together with it."""
    first: dict[str, Scenario] = {}
    for scenario in scenarios:
        first.setdefault(scenario.fault, scenario)
    groups = {scenario.together for scenario in first.values()} - {None}
    return [one for one in scenarios if one in first.values() or one.together in groups]


def _airflow(home: Path, report: Callable[[str], None], *, celery: bool, with_postgres: bool) -> LocalAirflow:
    marks = home / "marks"
    marks.mkdir()
    celerys_own: dict[str, Any] = {
        "executor": "CeleryExecutor",
        "celery_workers": 1,
        "broker_url": f"redis://{REDIS[0]}:{REDIS[1]}/{REDIS_DATABASE}",
        "triggerers": 2,
    }
    env = {
        **NOTICE_SOON,
        "FLORA_FAULTS_MARKS": str(marks),
        "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__GLOBAL_KEYPREFIX": KEY_PREFIX,
    }
    return LocalAirflow(
        home / "airflow",
        DAGS,
        env=env,
        database_url=DATABASE_URL.format(os.getpid()) if with_postgres else None,
        database_cache=DATABASES,
        report=lambda step: report(f"  {step}"),
        **(celerys_own if celery else {}),
    )


@pytest.mark.parametrize("scenario", CHOSEN, ids=lambda scenario: scenario.name)
def test_each_execution_is_charged_once(scenario: Scenario, verdicts: Mapping[str, Verdict]) -> None:
    if scenario.name not in verdicts:
        needs = "Redis and PostgreSQL" if scenario.celery else "PostgreSQL, for SQLite bears one fault of each kind"
        reason = f"it needs {needs}, on this machine's usual ports"
        pytest.fail(reason) if LEAVE_NOTHING_OUT else pytest.skip(reason)
    verdict = verdicts[scenario.name]
    assert verdict.problems == [], verdict.line()


def test_the_part_has_every_fault() -> None:
    assert {scenario.fault for scenario in SCENARIOS if scenario.in_part} == {str(n) for n in range(1, 18)}
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
