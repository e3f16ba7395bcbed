"""What a day has cost: read from the history of an emulated Flora, at noon and around midnight by its clock."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_flora.api.client import FloraClient
from airflow_provider_flora.api.errors import FloraLimitError, FloraPriceError, FloraStorageError, Remedy
from airflow_provider_flora.api.models import Run, Technique
from airflow_provider_flora.api.settings import ClientSettings
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.runs import daily_cost, shared_files
from airflow_provider_flora.runs.daily_cost import DAY, DailyCost, Reading
from airflow_provider_flora.runs.techniques import RecentTechnique
from tests.unit.flora_key import API_KEY
from tests.unit.forks import CONTEXT

STILL = "editorial-still"
PRICE = 0.09
NOON, HOUR = DAY / 2, 3600_000


def skew_to(second: float) -> float:
    """By how many seconds a clock is ahead that shows a second of the day."""
    return second - time.time() % DAY


@pytest.fixture
def make_flora() -> Iterator[Callable[[float], Emulator]]:
    """Makes a Flora by whose clock it is a second of the day. What runs cost is known at once."""
    made = []

    def make(second: float = NOON) -> Emulator:
        made.append(Emulator(seed=0, run_seconds=0.05, cost_lag=0, clock_skew=skew_to(second), api_key=API_KEY))
        return made[-1].start()

    yield make
    for emulator in made:
        emulator.stop()


def cost_of(flora: Emulator, limit: float = 100.0, **settings: float) -> DailyCost:
    """The cost for a task of its own. It knows Flora's clock, from an answer that another task has cached."""
    client = FloraClient(ClientSettings(flora.api_key, flora.base_url, **settings))
    RecentTechnique(client, STILL).get()
    return DailyCost(client, limit, "flora_default")


def price(cost: float | None = PRICE) -> Technique:
    return Technique(technique_id="tech_1", name="A still", run_cost=cost)


def lists_of(flora: Emulator) -> int:
    return int(flora.ledger()["requests"].get("listTechniqueRuns", 0))


def kept(folder: Path) -> Reading:
    [file] = folder.glob("*.daily")
    return Reading.model_validate_json(file.read_bytes())


def make_old(folder: Path, seconds: float = 61.0) -> None:
    """Make a reading older than it is."""
    [file] = folder.glob("*.daily")
    reading = kept(folder)
    file.write_text(reading.model_copy(update={"read_at": reading.read_at - seconds}).model_dump_json())


def test_what_anybody_has_paid_since_midnight_counts(make_flora: Callable[..., Emulator]) -> None:
    flora = make_flora()
    flora.seed_runs(14, spacing_ms=HOUR)  # from 23:00 of the day before, to 12:00
    cost_of(flora, 14 * PRICE).check(price(), STILL)
    with pytest.raises(FloraLimitError) as caught:
        cost_of(flora, 14 * PRICE - 0.01).check(price(), STILL)
    error = caught.value
    assert (error.remedy, error.limit_name, error.technique_id) == (Remedy.GIVE_UP, "max_daily_cost", STILL)
    for words in ("'editorial-still' costs 0.09 USD", "since 20", "00:00 UTC would cost 1.26 USD", "1.17 USD"):
        assert words in str(error)
    assert "max_daily_cost=1.25 USD of the connection 'flora_default'" in str(error)
    assert "Clear the task after midnight UTC, or raise max_daily_cost" in str(error)


def test_the_first_and_the_last_moment_of_the_day_count_and_no_other(make_flora: Callable[..., Emulator]) -> None:
    flora = make_flora(NOON)
    flora.seed_runs(2, spacing_ms=11.9 * HOUR)
    flora.seed_runs(2, spacing_ms=12.1 * HOUR)
    assert cost_of(flora).read().charged == pytest.approx(3 * PRICE)


@pytest.mark.parametrize(
    ("status", "each"), [("completed", PRICE), ("failed", 0.0), ("running", PRICE), ("pending", PRICE)]
)
def test_a_run_counts_as_its_charge_or_its_quote_and_a_failed_one_as_nothing(
    make_flora: Callable[..., Emulator], status: str, each: float
) -> None:
    flora = make_flora()
    flora.seed_runs(3, status=status)
    assert cost_of(flora).read().charged == pytest.approx(3 * each)


def test_a_run_that_ended_with_a_status_nobody_knows_counts_as_its_price(
    make_flora: Callable[..., Emulator],
) -> None:
    flora = make_flora()
    flora.order_fault("end_run", status="expired")
    client = FloraClient(ClientSettings(flora.api_key, flora.base_url))
    run = client.start_technique_run(STILL, {"prompt": "a cup"}, idempotency_key="one")
    while not client.get_technique_run(STILL, run.run_id).failed:
        time.sleep(0.02)
    assert cost_of(flora).read().charged == pytest.approx(PRICE)


def test_a_charge_that_has_not_come_counts_as_the_techniques_price(make_flora: Callable[..., Emulator]) -> None:
    flora = make_flora()
    flora.cost_lag = 3600
    flora.seed_runs(2)
    flora.seed_runs(1, technique_id="tagline-writer")
    reading = cost_of(flora).read()
    assert reading.charged == pytest.approx(2 * PRICE + flora.change_technique("tagline-writer")["run_cost"])
    assert flora.ledger()["requests"]["getTechnique"] == 1 + 2  # the task's own, and each of these once


def test_a_run_of_unknown_price_counts_as_nothing_and_is_named(
    make_flora: Callable[..., Emulator], kept_techniques: Path
) -> None:
    flora = make_flora()
    flora.cost_lag = 3600
    flora.seed_runs(2)
    cost = cost_of(flora, 0.01)
    shutil.rmtree(kept_techniques)
    flora.change_technique(STILL, deleted=True)
    with pytest.raises(FloraLimitError, match=r"2 runs of unknown price are not counted"):
        cost.check(price(), STILL)


def test_the_history_is_read_once_a_minute(make_flora: Callable[..., Emulator], kept_techniques: Path) -> None:
    flora = make_flora()
    flora.seed_runs(3)
    for _ in range(3):
        assert cost_of(flora).read().charged == pytest.approx(3 * PRICE)
    read_once = lists_of(flora)
    flora.seed_runs(1)
    assert cost_of(flora).read().charged == pytest.approx(3 * PRICE)
    make_old(kept_techniques)
    assert cost_of(flora).read().charged == pytest.approx(4 * PRICE)
    assert lists_of(flora) == read_once * 2


def read_in_process(base_url: str, folder: Path, start: float) -> float:
    shared_files.FOLDER = folder
    time.sleep(max(0.0, start - time.time()))
    with FloraClient(ClientSettings(API_KEY, base_url)) as client:
        RecentTechnique(client, STILL).get()
        return DailyCost(client, 100.0, "flora_default").read().charged


def test_tasks_that_start_together_read_it_once(make_flora: Callable[..., Emulator], kept_techniques: Path) -> None:
    flora = make_flora()
    flora.seed_runs(5)
    flora.order_fault("slow_list", seconds=0.5, times=None)
    tasks = 8
    with CONTEXT.Pool(tasks) as pool:
        work = [(flora.base_url, kept_techniques, time.time() + 3.0)] * tasks
        assert pool.starmap(read_in_process, work) == [pytest.approx(5 * PRICE)] * tasks
    assert lists_of(flora) == 1


def test_what_is_settled_is_not_read_again(make_flora: Callable[..., Emulator], kept_techniques: Path) -> None:
    flora = make_flora()
    flora.seed_runs(2_000, spacing_ms=5_000)
    assert cost_of(flora).read().charged == pytest.approx(2_000 * PRICE)
    pages = lists_of(flora)
    assert pages >= 20
    for more in range(1, 4):
        make_old(kept_techniques)
        flora.seed_runs(1)
        assert cost_of(flora).read().charged == pytest.approx((2_000 + more) * PRICE)
    assert lists_of(flora) <= pages + 3 * 2


def test_a_run_from_the_future_hides_none_that_come_before_it(
    make_flora: Callable[..., Emulator], kept_techniques: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flora = make_flora()
    flora.seed_runs(3)
    cost = cost_of(flora)
    pages = [*cost._pages()]
    newest = pages[0][0]
    ahead = newest.model_copy(update={"created_at": (newest.created_at or 0.0) + 6 * HOUR})
    monkeypatch.setattr(cost, "_pages", lambda page_size=100: iter([[ahead, *pages[0][1:]]]))
    assert cost.read().charged == pytest.approx(3 * PRICE)
    make_old(kept_techniques)
    flora.seed_runs(50)
    assert cost_of(flora).read().charged == pytest.approx(53 * PRICE)


def test_a_run_that_is_open_is_read_again_until_it_has_ended(
    make_flora: Callable[..., Emulator], kept_techniques: Path
) -> None:
    flora = make_flora()
    flora.seed_runs(2, spacing_ms=HOUR)
    running = flora.seed_runs(2, status="running", spacing_ms=HOUR)[0]
    flora.seed_runs(2, spacing_ms=HOUR / 2)
    assert cost_of(flora).read().charged == pytest.approx(6 * PRICE)
    reading = kept(kept_techniques)
    assert reading.settled <= PRICE  # at most the one that is a moment older than the one that runs
    client = FloraClient(ClientSettings(flora.api_key, flora.base_url))
    assert reading.settled_until < (client.get_technique_run(STILL, running).created_at or 0.0)


def test_a_run_that_is_open_for_hours_keeps_no_others_from_being_settled(
    make_flora: Callable[..., Emulator], kept_techniques: Path
) -> None:
    flora = make_flora()
    flora.seed_runs(2, status="running", spacing_ms=3 * HOUR)
    flora.seed_runs(2, spacing_ms=HOUR)
    cost_of(flora).read()
    reading = kept(kept_techniques)
    assert reading.settled == pytest.approx(2 * PRICE)  # of 9:00 and 11:00
    flora.seed_runs(1)
    make_old(kept_techniques)
    assert cost_of(flora).read().charged == pytest.approx(5 * PRICE)


def test_a_run_without_a_time_is_not_lost_when_others_are_settled(
    make_flora: Callable[..., Emulator], kept_techniques: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flora = make_flora()
    flora.seed_runs(2, spacing_ms=HOUR)
    cost = cost_of(flora)
    pages_of = cost._pages

    def pages_without_first_times(page_size: int = 100) -> Iterator[list[Run]]:
        for page in pages_of(page_size):
            yield [page[0].model_copy(update={"created_at": None}), *page[1:]]

    monkeypatch.setattr(cost, "_pages", pages_without_first_times)
    for seeded in range(2, 5):
        assert cost.read().charged == pytest.approx(seeded * PRICE)
        make_old(kept_techniques)
        flora.seed_runs(1)
    assert kept(kept_techniques).settled == 0


@pytest.mark.parametrize("pages", ["stable", "offset"])
def test_a_run_on_two_pages_counts_once(pages: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Emulator(seed=0, run_seconds=0.05, cost_lag=0, clock_skew=skew_to(NOON), pages=pages) as flora:
        flora.seed_runs(250)
        cost = cost_of(flora)
        exchange = cost._client._exchange

        def exchange_while_others_start(request: Any) -> Any:
            flora.seed_runs(7, spacing_ms=0)
            return exchange(request)

        monkeypatch.setattr(cost._client, "_exchange", exchange_while_others_start)
        first_page = 257
        assert cost.read().charged == pytest.approx(first_page * PRICE)


def test_a_new_day_begins_at_floras_midnight(make_flora: Callable[..., Emulator], kept_techniques: Path) -> None:
    flora = make_flora(DAY - 30)
    flora.seed_runs(3)
    client = FloraClient(ClientSettings(flora.api_key, flora.base_url))
    assert DailyCost(client, 100.0, "flora_default").read().charged == pytest.approx(3 * PRICE)
    assert client.clock_skew is not None
    client.clock_skew += 40  # it is the next day
    assert DailyCost(client, 100.0, "flora_default").read().charged == 0


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"day": 1, "read_at": 0, "charged": 0}'])
def test_a_reading_that_cannot_be_read_is_made_anew(
    make_flora: Callable[..., Emulator], kept_techniques: Path, content: bytes
) -> None:
    flora = make_flora()
    flora.seed_runs(3)
    cost_of(flora).read()
    [file] = kept_techniques.glob("*.daily")
    file.write_bytes(content)
    assert cost_of(flora).read().charged == pytest.approx(3 * PRICE)


@pytest.mark.parametrize(("status", "code"), [(500, "internal_error"), (403, "forbidden"), (401, "unauthorized")])
def test_an_unread_history_can_be_retried(make_flora: Callable[..., Emulator], status: int, code: str) -> None:
    flora = make_flora()
    flora.order_fault("status", status=status, code=code, operation="listTechniqueRuns", times=None)
    with pytest.raises(FloraLimitError, match="Nothing was started: the run history cannot be read") as caught:
        cost_of(flora, max_retries=0).check(price(), STILL)
    assert caught.value.remedy is Remedy.RETRY_LATER
    assert caught.value.request_id


def test_a_history_without_end_is_given_up(
    make_flora: Callable[..., Emulator], monkeypatch: pytest.MonkeyPatch
) -> None:
    flora = make_flora()
    flora.seed_runs(301)
    monkeypatch.setattr(daily_cost, "MAX_PAGES", 3)
    with pytest.raises(FloraLimitError, match="has 300 runs since midnight UTC or more"):
        cost_of(flora).read()


def test_a_technique_without_a_price_is_refused(make_flora: Callable[..., Emulator]) -> None:
    with pytest.raises(FloraPriceError, match="max_daily_cost=100"):
        cost_of(make_flora()).check(price(None), STILL)


def test_without_a_folder_each_task_reads_it(
    make_flora: Callable[..., Emulator], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_files, "FOLDER", None)
    flora = make_flora()
    flora.seed_runs(1)
    for _ in range(2):
        assert cost_of(flora).read().charged == pytest.approx(PRICE)
    assert lists_of(flora) == 2


def test_a_task_does_not_wait_without_end_for_another(
    make_flora: Callable[..., Emulator], kept_techniques: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_files, "LOCK_WITHIN", 0.2)
    flora = make_flora()
    cost = cost_of(flora)
    with cost._file.locked(), pytest.raises(FloraStorageError, match="has locked") as caught:
        cost_of(flora).read()
    assert caught.value.remedy.retryable
    assert cost_of(flora).read().charged == 0  # it is free again
    assert all(file.stat().st_mode & 0o077 == 0 for file in kept_techniques.glob("*.lock-*"))
    assert API_KEY not in str([*kept_techniques.iterdir()])
