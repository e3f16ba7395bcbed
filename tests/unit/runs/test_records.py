"""Records as releases have written them: what is stored is read forever, and read leniently."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_flora.runs.record import Record, digest_of, digests_differ

OF_0_1: dict[str, Any] = {
    "version": 1,
    "key": "airflow-0c3cb2f64b2bb2b3bb0b4ae0b5d6b6b2e7a6a1c0",
    "generation": 1,
    "digest": "1:2beaa759f60959a35a68a70f9cac87d89e32a25f14b04b534abc2b31c8499919",
    "files": {"s3://shop/cup.png": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"},
    "technique_id": "product-relight",
    "history_id": "tech_product-relight",
    "max_tries": 2,
    "clear_number": 0,
    "sent": [[1768986439.5, 1768986559.5]],
    "run_id": "run_a3b96e000002",
    "delivered": False,
    "past": ["run_a3b96e000001"],
}
"""What the first release has written. Never change it."""


def test_a_record_of_the_first_release_is_read() -> None:
    record = Record.from_plain(OF_0_1)
    assert record is not None
    assert record.run_id == "run_a3b96e000002"
    assert record.sent == ((1768986439.5, 1768986559.5),)
    assert record.past == ("run_a3b96e000001",)
    assert record.to_plain() == {**OF_0_1, "presumed": False, "resendable": True, "adopted": False, "left": []}


def test_a_record_is_stored_whole() -> None:
    record = Record(
        key="airflow-1",
        sent=((1.0, 2.0),),
        past=("run_1",),
        left=("run_1",),
        presumed=True,
        resendable=False,
        adopted=True,
    )
    assert Record.from_plain(record.to_plain()) == record


def test_what_a_newer_release_adds_is_ignored() -> None:
    newer = {**OF_0_1, "version": 2, "budget": {"spent": 3}, "paid_by": "somebody"}
    assert Record.from_plain(newer) == Record.from_plain(OF_0_1)


@pytest.mark.parametrize("missing", [name for name in OF_0_1 if name != "key"])
def test_what_an_older_release_did_not_have_gets_its_default(missing: str) -> None:
    older = {name: value for name, value in OF_0_1.items() if name != missing}
    record = Record.from_plain(older)
    assert record is not None
    assert record.key == OF_0_1["key"]


@pytest.mark.parametrize(
    "garbage", [None, "", [], {}, {"key": 3}, {**OF_0_1, "sent": [["a", "b"]], "run_id": None}]
)
def test_what_is_no_record_counts_as_lost(garbage: object) -> None:
    assert Record.from_plain(garbage) is None


def test_digests_of_two_releases_are_not_compared() -> None:
    assert not digests_differ("1:a", "2:b")
    assert digests_differ("1:a", "1:b")


def test_the_digest_of_this_release_stays_what_it_is() -> None:
    reported = digest_of("product-relight", {"photo": "s3://shop/cup.png", "light": "neon"}, None)
    assert reported == "1:5025ef0785441491367c777a444e54de31a3a5fc6abef65797a11f6dbccb481e"


def test_inputs_whose_keys_cannot_be_sorted_have_a_digest_too() -> None:
    assert digest_of("t", {1: "a", "b": "c"}, None) != digest_of("t", {1: "a", "b": "d"}, None)


@pytest.mark.parametrize("sent", [[["a", "b"]], [[1768986439.5]], "long ago", [[1768986439.5, 1.8e9, "more"]]])
def test_a_run_that_is_known_is_not_lost_with_its_windows(sent: object) -> None:
    record = Record.from_plain({**OF_0_1, "sent": sent})
    assert record is not None
    assert record.run_id == "run_a3b96e000002"
