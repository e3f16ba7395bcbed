"""An error that travels through a database comes out as it went in."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from airflow_provider_flora.api import errors
from airflow_provider_flora.api.error_dicts import copy_error, describe_error, rebuild_error
from airflow_provider_flora.api.errors import FloraError, Remedy
from airflow_provider_flora.api.models import Run
from tests.unit.api.scripted_flora import run_json

ERRORS: list[FloraError] = [
    FloraError("x"),
    errors.FloraSettingsError("There is no connection 'flora_default'."),
    errors.FloraParameterError("'..' is not an id."),
    errors.FloraPriceError("tech_1", 0.18, 0.1, "max_run_cost"),
    errors.FloraLimitError("too much", "max_daily_cost", Remedy.RETRY_LATER),
    errors.FloraCreditsError("empty"),
    errors.FloraAPICreditsError(402, "Empty.", code="insufficient_credits"),
    errors.FloraRunCreditsError(Run.model_validate(run_json("failed", error_code="BILLING_NEW")), "tech_1"),
    errors.FloraInputError("tech_1", ["'foto' is not an input", "'photo' is missing"]),
    errors.FloraFileError("no such file", retryable=True),
    errors.FloraUploadError("broken", transient=True, spent=True),
    errors.FloraConnectionError("reset"),
    errors.FloraTimeoutError("slow"),
    errors.FloraAnswerError("not JSON", request_id="req_1"),
    errors.FloraAnswerError("a redirect", transient=False),
    errors.FloraAnswerSizeError(1 << 24),
    errors.FloraAPIError(422, "No.", code="input_validation_error", fields={"a": "b"}, request_id="req_1"),
    errors.FloraAPIError(429, "Slow down.", retry_after=7.5),
    errors.FloraRunFailedError(Run.model_validate(run_json("failed", error_code="LLM_REFUSAL")), "tech_1"),
    errors.FloraRunTimeoutError("run_1", "tech_1", "within 60 s", last_error="reset"),
    errors.FloraUnknownStartError("An earlier attempt sent a start and never saw the answer."),
    errors.FloraNotStoredError("Run run_1 was started, but its id could not be stored."),
    errors.FloraWaitError("The event cannot be read.", "run_1"),
    errors.FloraDownloadError("cut", transient=True, gone=True, retry_after=2.0),
    errors.FloraStorageError("no such bucket"),
    errors.FloraBatchError("1 of 5 rows did not complete", Remedy.RETRY_LATER),
    errors.FloraBudgetError("More than max_dag_run_cost.", Remedy.RETRY_LATER),
    errors.FloraInternalError(TypeError("x")),
]
NAMES = ("kind", "transient", "remedy", "code", "status", "run_id", "technique_id", "request_id", "attempts")


def all_kinds(kind: type[FloraError] = FloraError) -> Iterator[type[FloraError]]:
    yield kind
    for subclass in kind.__subclasses__():
        yield from all_kinds(subclass)


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_an_error_comes_out_as_it_went_in(error: FloraError) -> None:
    error.attempts = 3
    again = rebuild_error(json.loads(json.dumps(describe_error(error))))

    assert type(again) is type(error)
    assert str(again) == str(error)
    assert {name: getattr(again, name) for name in NAMES} == {name: getattr(error, name) for name in NAMES}
    plain = {name: value for name, value in vars(error).items() if name != "run"}
    assert {name: getattr(again, name) for name in plain} == plain


def test_every_kind_of_error_is_distinct_and_tested_here() -> None:
    # Not the classes that a task makes of them for Airflow.
    kinds = [kind for kind in set(all_kinds()) if getattr(errors, kind.__name__, None) is kind]

    assert len({kind.kind for kind in kinds}) == len(kinds)
    assert {type(error) for error in ERRORS} == set(kinds)


def test_a_remedy_that_was_set_on_the_error_itself_travels_with_it() -> None:
    error = errors.FloraAPIError(404, "No.", code="not_found")
    error.remedy = Remedy.RETRY_LATER

    assert rebuild_error(describe_error(error)).remedy is Remedy.RETRY_LATER


def test_what_is_not_as_expected_is_left_out() -> None:
    error = rebuild_error({"kind": "api", "message": None, "status": "many", "run_id": 7, "details": [], "x": 1})

    assert type(error) is errors.FloraAPIError
    assert (error.status, error.run_id, error.remedy) == (None, None, Remedy.RETRY_LATER)
    assert str(error) == "an error without a message"


def test_a_copy_is_another_error_with_the_same_cause() -> None:
    error = errors.FloraInternalError(TypeError("x"))
    error.__cause__ = TypeError("x")
    copied = copy_error(error)

    assert copied is not error
    assert copied.__cause__ is error.__cause__
    assert str(copied) == str(error)
