"""A process that starts many runs fetches a technique once a minute."""

from __future__ import annotations

import pytest
from watching_flora import Flora

from airflow_provider_flora.api.client import FloraClient
from airflow_provider_flora.runs import techniques
from airflow_provider_flora.runs.techniques import technique_of


def fetched(flora: Flora) -> int:
    return flora.requests_since()["getTechnique"]


def test_a_technique_is_fetched_once_for_many_tasks(flora: Flora) -> None:
    for _ in range(3):
        with FloraClient(flora.settings) as client:
            assert technique_of(client, "editorial-still").run_cost == 0.09
            assert client.clock_skew is not None
    assert fetched(flora) == 1


def test_it_is_fetched_again_after_a_minute(flora: Flora, monkeypatch: pytest.MonkeyPatch) -> None:
    with FloraClient(flora.settings) as client:
        technique_of(client, "editorial-still")
        monkeypatch.setattr(techniques, "KEPT_FOR", 0.0)
        technique_of(client, "editorial-still")
    assert fetched(flora) == 2


def test_each_key_and_id_has_its_own(flora: Flora) -> None:
    with FloraClient(flora.settings) as client:
        technique_of(client, "editorial-still")
        technique_of(client, "tagline-writer")
    flora.api_key = "sk_test_another"
    with FloraClient(flora.settings) as client:
        technique_of(client, "editorial-still")
    assert fetched(flora) == 3


def test_not_more_are_kept_than_fit(flora: Flora, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(techniques, "MAX_KEPT", 2)
    with FloraClient(flora.settings) as client:
        for technique_id in ("editorial-still", "tagline-writer", "press-kit"):
            technique_of(client, technique_id)
        assert len(techniques._kept) == 2
        technique_of(client, "editorial-still")
    assert fetched(flora) == 4
