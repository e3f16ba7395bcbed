"""`spend`: sums by day in UTC and by technique, as a table with a plot, and as JSON."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from airflow_provider_flora.emulator import Emulator
from tests.unit.cli.conftest import Run
from tests.unit.cli.stand_in import StandIn
from tests.unit.cli.test_runs import a_run

TODAY = datetime.now(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)


def day(ago: int) -> str:
    return (TODAY - timedelta(days=ago)).date().isoformat()


def test_each_day_of_the_last_thirty_has_a_line(run: Run, flora_key: Emulator) -> None:
    flora_key.seed_runs(2)
    flora_key.seed_runs(1, status="failed")
    flora_key.seed_runs(1, status="running")
    ran = run("spend")
    assert ran.code == 0
    assert [row[0] for row in ran.rows] == ["DAY", *(day(ago) for ago in range(30, -1, -1)), "total"]
    assert ran.rows[-2] == [day(0), "2", "1", "0.18", "█" * 24]
    assert ran.rows[-1] == ["total", "2", "1", "0.18"]
    assert ran.err == "Active runs, which are not charged yet: 1.\n"


def test_midnight_in_utc_is_where_a_day_begins(stand_in: StandIn, run: Run) -> None:
    yesterday = TODAY - timedelta(days=1)
    moments = [TODAY, TODAY - timedelta(milliseconds=1), yesterday, yesterday - timedelta(milliseconds=1)]
    stand_in.runs = [a_run(number, moment) for number, moment in enumerate(moments)]
    found = run("spend", "--since", day(2), "--json").json["day"]
    assert {name: one["completed"] for name, one in found.items()} == {day(2): 1, day(1): 2, day(0): 1}


def test_sums_have_no_error_of_floats(stand_in: StandIn, run: Run) -> None:
    stand_in.runs = [a_run(1, charged_cost=0.1), a_run(2, charged_cost=0.2)]
    assert 0.1 + 0.2 != 0.3
    ran = run("spend", "--json")
    assert ran.json["total"]["usd"] == 0.3 == ran.json["day"][day(0)]["usd"]
    assert run("spend").rows[-1] == ["total", "2", "0", "0.30"]


@pytest.mark.parametrize(
    ("cost", "shown"), [(0.0, "0.00"), (0.125, "0.125"), (1234567.5, "1234567.50"), (1e-6, "0.000001")]
)
def test_an_amount_has_two_to_six_decimals(stand_in: StandIn, run: Run, cost: float, shown: str) -> None:
    stand_in.runs = [a_run(1, charged_cost=cost)]
    assert run("spend").rows[-1][-1] == shown


def test_by_technique_the_dearest_is_first(run: Run, flora_key: Emulator) -> None:
    flora_key.seed_runs(3, technique_id="tagline-writer")
    flora_key.seed_runs(1, technique_id="ten-takes")
    ran = run("spend", "--by", "technique", "--since", "1d")
    assert ran.rows[1] == ["tech_ten-takes", "1", "0", "1.10", "█" * 24]
    assert ran.rows[2] == ["tech_tagline-writer", "3", "0", "0.03", "▋"]
    assert [*run("spend", "--by", "technique", "--json").json["technique"]] == [
        "tech_ten-takes",
        "tech_tagline-writer",
    ]


def test_a_charge_that_is_not_known_is_no_charge(stand_in: StandIn, run: Run) -> None:
    stand_in.runs = [a_run(1, charged_cost=None), a_run(2, created_at=None)]
    ran = run("spend", "--json")
    assert ran.json["total"] == {"completed": 2, "failed": 0, "active": 0, "unknown": 1, "usd": 0.1}
    assert ran.json["day"]["unknown"]["usd"] == 0.1
    assert "Completed runs whose charge is not known yet: 1." in run("spend").err


@pytest.mark.parametrize("by", ["day", "technique"])
def test_nothing_spent_is_a_table_of_nothing(run: Run, by: str) -> None:
    ran = run("spend", "--by", by)
    assert ran.rows[-1] == ["total", "0", "0", "0.00"]
    assert run("spend", "--by", by, "--json").json["total"]["usd"] == 0


def test_since_long_ago_begins_with_the_first_run(stand_in: StandIn, run: Run) -> None:
    stand_in.runs = [a_run(1), a_run(2, TODAY - timedelta(days=40))]
    assert [row[0] for row in run("spend", "--since", "0001-01-01").rows[1:-1]] == [
        day(ago) for ago in range(40, -1, -1)
    ]


def test_without_blocks_the_plot_has_number_signs(program: Run, flora_key: Emulator) -> None:
    flora_key.seed_runs(1)
    ran = program("spend", "--since", "1h", env={"PYTHONIOENCODING": "latin-1"})
    assert ran.rows[-2][-1] == "#" * 24
