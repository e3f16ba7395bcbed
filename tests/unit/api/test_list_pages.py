"""A list is walked page by page, no further than asked, and never forever."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_flora.api import answers, exchange, operations
from airflow_provider_flora.api.errors import FloraAnswerError, FloraAnswerSizeError, FloraAPIError
from airflow_provider_flora.emulator import Emulator
from tests.unit.api.both_clients import MakeClient
from tests.unit.api.scripted_flora import Received, ScriptedFlora, answer, error, run_json


def page(*names: str, cursor: Any = None) -> bytes:
    techniques = [{"technique_id": name, "name": name} for name in names]
    runs = [run_json() | {"run_id": name} for name in names]
    return answer({"techniques": techniques, "technique_runs": runs, "meta": {"next_cursor": cursor}})


def asked(request: Received) -> dict[str, list[str]]:
    return parse_qs(urlsplit(request.target).query)


def test_a_list_goes_on_through_all_its_pages_with_the_same_question(make_client: MakeClient) -> None:
    with ScriptedFlora(page("a", "b", cursor="c/1+ &="), page("c", cursor="2"), page("d")) as flora:
        techniques = list(make_client(flora.base_url).list_techniques("soap & glory", page_size=2))

    assert [technique.technique_id for technique in techniques] == ["a", "b", "c", "d"]
    assert [asked(request).get("cursor") for request in flora.requests] == [None, ["c/1+ &="], ["2"]]
    for request in flora.requests:
        assert (asked(request)["query"], asked(request)["limit"]) == (["soap & glory"], ["2"])


def test_the_history_is_walked_alike(make_client: MakeClient) -> None:
    with ScriptedFlora(page("a", cursor="1"), page("b")) as flora:
        runs = list(make_client(flora.base_url).list_technique_runs("tech_1", "failed"))

    assert [run.run_id for run in runs] == ["a", "b"]
    assert asked(flora.requests[1]) == {
        "technique_id": ["tech_1"],
        "status": ["failed"],
        "limit": ["100"],
        "cursor": ["1"],
    }


def test_a_page_is_asked_for_when_it_is_needed_and_not_before(make_client: MakeClient) -> None:
    with ScriptedFlora(page("a", "b", cursor="1"), page("c")) as flora:
        techniques = make_client(flora.base_url).list_techniques()
        assert flora.requests == []
        assert len(list(islice(techniques, 2))) == 2
        assert len(flora.requests) == 1
        assert next(techniques).technique_id == "c"
        assert len(flora.requests) == 2


def test_an_empty_page_with_a_cursor_is_not_the_end(make_client: MakeClient) -> None:
    with ScriptedFlora(page(cursor="1"), page(cursor="2"), page("a")) as flora:
        assert len(list(make_client(flora.base_url).list_techniques())) == 1


@pytest.mark.parametrize("end", [{"next_cursor": None}, {"next_cursor": ""}, {}, None])
def test_a_list_ends_where_no_next_page_is_named(end: Any, make_client: MakeClient) -> None:
    with ScriptedFlora(answer({"techniques": [], "meta": end})) as flora:
        assert list(make_client(flora.base_url).list_techniques()) == []

    assert len(flora.requests) == 1


@pytest.mark.parametrize("cursors", [["1", "1"], ["1", "2", "1"], ["1", "2", "3", "2"]])
def test_a_repeated_cursor_is_an_error_and_not_a_loop(cursors: list[str], make_client: MakeClient) -> None:
    with ScriptedFlora(*(page("a", cursor=cursor) for cursor in cursors)) as flora:
        techniques = make_client(flora.base_url).list_techniques()
        with pytest.raises(FloraAnswerError, match=f"/techniques links back to its page '{cursors[-1]}'") as caught:
            list(islice(techniques, 100))

    assert not caught.value.transient
    assert len(flora.requests) == len(cursors)


def test_a_transient_error_between_two_pages_neither_loses_nor_repeats_an_item(make_client: MakeClient) -> None:
    with ScriptedFlora(page("a", cursor="1"), error(503), answer(b"{"), page("b", cursor="2"), page("c")) as flora:
        techniques = list(make_client(flora.base_url).list_techniques())

    assert [technique.technique_id for technique in techniques] == ["a", "b", "c"]


def test_an_error_on_a_later_page_is_raised_after_what_came_before(make_client: MakeClient) -> None:
    with ScriptedFlora(page("a", cursor="1"), error(403)) as flora:
        techniques = make_client(flora.base_url).list_techniques()
        assert next(techniques).technique_id == "a"
        with pytest.raises(FloraAPIError, match="403"):
            next(techniques)


@pytest.mark.parametrize("page_size", [1, 100])
def test_the_limits_of_a_page_can_be_asked_for(page_size: int, make_client: MakeClient) -> None:
    with ScriptedFlora(page()) as flora:
        list(make_client(flora.base_url).list_technique_runs(page_size=page_size))

    assert asked(flora.requests[0])["limit"] == [str(page_size)]


@pytest.mark.parametrize("page_size", [0, -1, 101, 10_000])
def test_a_page_size_that_flora_refuses_is_refused_at_once(page_size: int, make_client: MakeClient) -> None:
    with ScriptedFlora() as flora:
        client = make_client(flora.base_url)
        for list_ in (client.list_techniques, client.list_technique_runs):
            with pytest.raises(ValueError, match=f"page_size takes 1 to 100.*not {page_size}"):
                list_(page_size=page_size)

    assert flora.requests == []


@given(st.lists(st.text(min_size=1), max_size=6))
def test_a_walk_over_any_cursors_ends(cursors: list[str]) -> None:
    pages = operations.list_techniques(None, None, 100)
    steps = 0
    try:
        while pages.request is not None:
            cursor = cursors[steps] if steps < len(cursors) else None
            wire = {"techniques": [], "meta": {"next_cursor": cursor}}
            steps += 1
            pages.read(exchange.Response(200, {}, json.dumps(wire).encode()))
    except FloraAnswerError:
        assert len(set(cursors)) < len(cursors)
    assert steps <= len(cursors) + 1


def test_the_emulators_whole_catalogue_and_history_come_through_small_pages(
    emulator: Emulator, make_client: MakeClient
) -> None:
    seeded = emulator.seed_runs(7)
    client = make_client(emulator.base_url)

    assert len({technique.technique_id for technique in client.list_techniques(page_size=5)}) == 19
    assert [run.run_id for run in client.list_technique_runs(page_size=3)] == seeded[::-1]
    assert emulator.ledger()["connections"] == 1


def test_a_page_that_is_too_large_is_asked_for_in_smaller_pieces(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Emulator(run_seconds=0) as emulator:
        run_ids = emulator.seed_runs(30)
        monkeypatch.setattr(answers, "MAX_ANSWER_BYTES", 8000)
        runs = list(make_client(emulator.base_url, api_key=emulator.api_key).list_technique_runs())

    assert [run.run_id for run in runs] == run_ids[::-1]


def test_an_item_that_is_too_large_alone_is_an_error(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "MAX_ANSWER_BYTES", 50)
    with ScriptedFlora(page("a", "b")) as flora:
        with pytest.raises(FloraAnswerSizeError, match="is larger than"):
            list(make_client(flora.base_url).list_technique_runs(page_size=5))
        assert [asked(request)["limit"] for request in flora.requests] == [["5"], ["2"], ["1"]]
