"""`runs`, `run` and `wait`: the history, one run, and the wait for one."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from airflow_provider_flora.cli import runs
from airflow_provider_flora.cli.command import moment
from airflow_provider_flora.emulator import Emulator
from tests.unit.cli.a_terminal import Terminal
from tests.unit.cli.conftest import Run
from tests.unit.cli.stand_in import StandIn
from tests.unit.waiting import LONG, later, later_once, wait_until

NOW = datetime.now(timezone.utc)


def a_run(number: int, created: datetime = NOW, **fields: object) -> dict[str, object]:
    return {
        "run_id": f"run_{number}",
        "status": "completed",
        "created_at": created.timestamp() * 1000,
        "completed_at": created.timestamp() * 1000 + 4000,
        "charged_cost": 0.1,
        "technique": {"technique_id": "tech_a", "name": "A"},
        **fields,
    }


def test_a_line_has_run_technique_status_times_and_charge(run: Run, flora_key: Emulator) -> None:
    (run_id,) = flora_key.seed_runs(1)
    flora_key.seed_runs(1, technique_id="wonder-fy", status="failed")
    flora_key.seed_runs(1, technique_id="wonder-fy", status="running")
    ran = run("runs")
    assert ran.code == 0
    assert ran.rows[0] == "RUN TECHNIQUE STATUS CREATED (UTC) TOOK USD ERROR".split()  # noqa: SIM905
    active, failed, completed = ran.rows[1:]
    assert active[1:3] + active[5:] == ["Wonder(fy)", "running", "-", "-"]
    assert failed[1:3] + failed[6:] == ["Wonder(fy)", "failed", "s", "-", "provider_error", "(retry", "later)"]
    assert completed[:4] + completed[8:] == [run_id, "Editorial", "Still", "completed", "0.09"]
    assert ran.err == "3 runs\n"


def test_filters(run: Run, flora_key: Emulator) -> None:
    flora_key.seed_runs(2)
    flora_key.seed_runs(1, technique_id="wonder-fy", status="failed")
    assert len(run("runs", "--technique", "wonder-fy").rows) == 2
    assert len(run("runs", "--status", "completed", "--json").json) == 2
    assert run("runs", "--status", "lost").code == 2
    unknown = run("runs", "--technique", "no-such")
    assert (unknown.code, unknown.out) == (1, "")
    assert "Technique 'no-such' was not found" in unknown.err


def test_since_looks_no_further_back_than_it_must(
    stand_in: StandIn, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(timezone.utc)
    stand_in.runs = [a_run(number, now - timedelta(hours=number)) for number in range(300)]
    asked = []
    answer = stand_in.answer
    monkeypatch.setattr(stand_in, "answer", lambda url: (asked.append(url), answer(url))[1])
    assert [one["run_id"] for one in run("runs", "--since", "90m", "--json").json] == ["run_0", "run_1"]
    assert len(asked) == 1
    assert len(run("runs").rows) == 1 + 168, "seven days by default"
    assert len(run("runs", "--since", "2020-01-01").rows) == 301
    assert run("runs", "--since", "2999-01-01").out == ""
    assert run("runs", "--since", "0d").out == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-01", "2026-11-01T00:00:00+00:00"),
        ("2026-11-01T06:30", "2026-11-01T06:30:00+00:00"),
        ("2026-11-01T06:30:00Z", "2026-11-01T06:30:00+00:00"),
        ("2026-11-01T00:00:00+02:00", "2026-10-31T22:00:00+00:00"),
        ("0001-01-01", "0001-01-01T00:00:00+00:00"),
    ],
)
def test_a_date_is_one_in_utc(text: str, expected: str) -> None:
    assert moment(text).isoformat() == expected


@pytest.mark.parametrize("text", ["90m", "24h", "7d", "2w"])
def test_a_period_is_that_long_ago(text: str) -> None:
    seconds = {"m": 60, "h": 3600, "d": 86400, "w": 604800}[text[-1]] * int(text[:-1])
    assert abs((datetime.now(timezone.utc) - moment(text)).total_seconds() - seconds) < 60


@pytest.mark.parametrize(
    "text", ["", "7", "d", "-1d", "7 d", "1y", "999999w", "yesterday", "0001-01-01T00:00+14:00"]
)
def test_any_other_time_is_a_mistake(run: Run, text: str) -> None:
    for command in ("runs", "spend"):
        ran = run(command, f"--since={text}")
        assert (ran.code, ran.out) == (2, "")
        assert "is neither a period such as 90m, 24h, 7d or 2w, nor a date" in " ".join(ran.err.split())


def test_odd_runs_are_listed(stand_in: StandIn, run: Run) -> None:
    stand_in.runs = [
        a_run(1, status="teleported", completed_at=None, charged_cost=None),
        a_run(2, created_at=None, completed_at=None, technique=None, charged_cost=None),
        a_run(3, status="failed", error_code=None),
        a_run(4, status="failed", error_code="X" * 200, error_message="\x1b[2J\u202e"),
    ]
    ran = run("runs")
    assert [row[:3] for row in ran.rows[1:3]] == [["run_1", "A", "teleported"], ["run_2", "-", "completed"]]
    assert ran.rows[3][-4:] == ["no", "code", "(retry", "now)"]
    assert ran.rows[4][-3:] == ["X" * 200, "(retry", "now)"]
    assert "\x1b" not in ran.out


def test_a_line_fits_eighty_columns(flora_key: Emulator) -> None:
    flora_key.seed_runs(1, technique_id="product-lookbook-grid")
    flora_key.seed_runs(1, technique_id="tagline-writer")
    with Terminal("runs", "--technique", "tagline-writer", columns=80) as terminal:
        assert terminal.end() == 0
    _, line, count = terminal.lines
    assert max(map(len, terminal.lines)) <= 80
    assert (line.split()[3], count) == ("completed", "1 run")
    assert "\x1b[32mcompleted" in terminal.seen


def test_a_run_shows_its_outputs_and_charge(run: Run, flora_key: Emulator) -> None:
    run_id, _ = flora_key.seed_runs(2)
    ran = run("run", run_id)
    assert ran.code == 0
    assert f"Run        {run_id}\n" in ran.out
    assert "Charged    0.09 USD\n" in ran.out
    assert f"still      imageUrl  {flora_key.origin}/media/{run_id}/still.png\n" in ran.out
    as_json = run("run", run_id, "--json").json
    assert (as_json["technique_id"], as_json["outputs"][0]["output_id"]) == ("tech_editorial-still", "still")


def test_a_failed_run_shows_error_and_remedy(run: Run, flora_key: Emulator) -> None:
    (run_id,) = flora_key.seed_runs(1, status="failed")
    ran = run("run", run_id)
    assert ran.code == 0, "it was found"
    assert "Error      provider_error: The provider failed" in ran.out
    assert "Remedy     retry later\n" in ran.out
    assert run("run", run_id, "--json").json["remedy"] == "retry later"


def test_the_technique_spares_the_search_and_may_be_a_slug(run: Run, flora_key: Emulator) -> None:
    (run_id,) = flora_key.seed_runs(1)
    ran = run("run", run_id, "--technique", "editorial-still", "--json")
    assert ran.json["technique_id"] == "tech_editorial-still"
    assert "listTechniqueRuns" not in flora_key.ledger()["requests"]


@pytest.mark.parametrize("command", ["run", "wait", "download"])
def test_a_run_that_is_not_there_is_said_so(
    run: Run, flora_key: Emulator, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    oldest, *_ = flora_key.seed_runs(300)
    folder = ["/no/such/folder"] * (command == "download")
    monkeypatch.setattr(runs, "LOOKED_THROUGH", 200)
    ran = run(command, oldest, *folder)
    assert (ran.code, ran.out) == (1, "")
    assert f"'{oldest}' is not among the latest 200 runs" in ran.err
    assert "--technique" in ran.err
    elsewhere = run(command, oldest, *folder, "--technique", "wonder-fy")
    assert (elsewhere.code, elsewhere.out) == (1, "")
    assert f"Run '{oldest}'" in elsewhere.err
    assert "was not found" in elsewhere.err


def start_one(flora: Emulator, run: Run) -> str:
    ran = run("start", "tagline-writer", "-i", "brief=a", "--yes", "--timeout", "0.1")
    assert ran.code == 1
    return str(flora.ledger()["runs"][0]["run_id"])


def test_wait_shows_progress_and_then_the_run(
    run: Run, flora_key: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    flora_key.order_fault("slow_run", seconds=LONG)
    run_id = start_one(flora_key, run)
    polls = flora_key.ledger()["requests"]["getTechniqueRun"]
    with later_once(lambda: flora_key.ledger()["requests"]["getTechniqueRun"] >= polls + 2, flora_key, monkeypatch):
        ran = run("wait", run_id)
    assert ran.code == 0
    assert f"{run_id} is completed, 100 %\n" in ran.err
    assert "Status     completed\n" in ran.out


def test_wait_for_a_run_that_failed_ends_with_one(run: Run, flora_key: Emulator) -> None:
    (run_id,) = flora_key.seed_runs(1, status="failed")
    ran = run("wait", run_id, "--json")
    assert (ran.code, ran.json["status"]) == (1, "failed")
    assert "failed with provider_error" in ran.err


def test_a_wait_that_ends_too_early_says_how_to_come_back(run: Run, flora_key: Emulator) -> None:
    flora_key.order_fault("stall_run")
    run_id = start_one(flora_key, run)
    ran = run("wait", run_id, "--timeout", "0.2", "--json")
    assert (ran.code, ran.out) == (1, "")
    assert f"wait {run_id} --technique tech_tagline-writer" in ran.err


def two_polls_failed(flora: Emulator) -> bool:
    return bool(flora.ledger()["faults_fired"].get("status") == 2)


def test_polls_that_fail_are_told_and_end_no_wait(
    run: Run, flora_key: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    flora_key.order_fault("slow_run", seconds=LONG)
    run_id = start_one(flora_key, run)
    flora_key.order_fault("status", status=503, operation="getTechniqueRun", skip=1, times=2)
    with later_once(lambda: two_polls_failed(flora_key), flora_key, monkeypatch):
        ran = run("wait", run_id, "--technique", "tagline-writer")
    assert ran.code == 0
    assert "Flora cannot be reached: Flora answered 503" in ran.err
    assert "Flora answers again" in ran.err


def test_polls_that_fail_are_told_beside_the_bar(
    run: Run, flora_key: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    flora_key.order_fault("slow_run", seconds=LONG)
    run_id = start_one(flora_key, run)
    flora_key.order_fault("status", status=503, operation="getTechniqueRun", skip=1, times=2)
    with Terminal("wait", run_id, "--technique", "tagline-writer", columns=200) as terminal:
        wait_until(lambda: two_polls_failed(flora_key))
        later(flora_key, monkeypatch)
        assert terminal.end() == 0
    assert "The wait goes on." in terminal.seen
    assert "Flora answers again." in terminal.seen
