"""Whole tasks that meet what is a little out of order: inputs, answers, refusals, the connection."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_flora.airflow_compat import AirflowFailException
from airflow_provider_flora.api.errors import FloraRunFailedError
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.hooks.flora import FloraHook
from tests.unit.operators.still import MODES, life_of, posts_to, still

pytestmark = pytest.mark.usefixtures("quick")


def critique(flora: Emulator, **given: Any) -> Any:
    """A task whose technique gives a text and an image."""
    inputs = {"asset": f"{flora.origin}/media/samples/poster.png", "brief": "for a café"}
    return life_of(still(technique_id="art-directors-critique", inputs=inputs, **given))


# --- answers ----------------------------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("A cup, and a \ud83d", "A cup, and a \ufffd"),
        ("A cup\0, and no more", "A cup\ufffd, and no more"),
        ("\udf75\ud83d", "\ufffd\ufffd"),
    ],
)
def test_a_text_that_cannot_be_stored_is_handed_over_as_one_that_can(
    flora: Emulator, deferrable: bool, text: str, stored: str
) -> None:
    flora.order_fault(kind="set_output", output_id="critique", url=text)
    value = critique(flora, deferrable=deferrable).run()

    assert {output["output_id"]: output["url"] for output in value["outputs"]}["critique"] == stored
    json.dumps(value, ensure_ascii=False).encode()


@MODES
def test_an_output_whose_url_is_still_null_hides_neither_its_run_nor_the_others(
    flora: Emulator, deferrable: bool
) -> None:
    flora.order_fault(kind="set_output", output_id="redesign", url=None)
    value = critique(flora, deferrable=deferrable).run()

    assert value["status"] == "completed"
    urls = {output["output_id"]: output["url"] for output in value["outputs"]}
    assert urls["redesign"] is None
    assert urls["critique"]


def test_a_run_in_the_history_with_half_an_emoji_hides_no_other(flora: Emulator) -> None:
    flora.order_fault(kind="set_output", url="\ud83d")
    runs = [life_of(still()).run()["run_id"] for _ in range(3)]

    assert [run.run_id for run in FloraHook().list_technique_runs()] == runs[::-1]


# --- refusals ---------------------------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize(
    ("message", "is_refusal"),
    [
        ("NSFW content detected. Try running it again, or try a different prompt.", True),
        ("finishReason: PROHIBITED_CONTENT", True),
        ("Blocked by content filter", True),
        ("Your prompt was flagged: it goes against our guidelines", True),
        ("fair-use policy: too many concurrent generations", False),
        ("You exceeded your current quota, please check your plan and billing details.", False),
    ],
)
def test_a_refusal_is_not_paid_again_and_what_is_none_is_retried(
    flora: Emulator, deferrable: bool, message: str, is_refusal: bool
) -> None:
    flora.order_fault(kind="fail_run", error_code="GPU_PROVIDER_ERROR", error_message=message)
    with pytest.raises(FloraRunFailedError) as caught:
        life_of(still(deferrable=deferrable)).run()

    assert isinstance(caught.value, AirflowFailException) is is_refusal


# --- inputs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize(
    ("inputs", "reported"),
    [
        ({"prompt": ["a", "b"]}, "'prompt' takes a text, not .*An input takes one value"),
        ({5: "x", "prompt": "a"}, "inputs has the key 5, but ids of inputs are texts"),
        ({None: 1, ("a",): 2, "prompt": "a"}, "inputs has the key None"),
    ],
)
def test_inputs_that_cannot_be_a_runs_are_reported_and_nothing_is_spent(
    flora: Emulator, validate: bool, inputs: Any, reported: str
) -> None:
    with pytest.raises(AirflowFailException, match=reported):
        life_of(still(inputs=inputs, validate_inputs=validate)).run()

    assert posts_to(flora) == 0


def test_a_text_that_a_template_found_nothing_for_is_not_paid(flora: Emulator) -> None:
    with pytest.raises(AirflowFailException, match="'prompt' is the text 'None'"):
        life_of(still(inputs={"prompt": "{{ params.get('wish') }}"})).run(render=True)

    assert posts_to(flora) == 0


# --- the connection ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extra", "reported"),
    [
        (
            {"verify": "/no/such/ca.pem"},
            "'flora_default' cannot be used: verify names the CA certificates",
        ),
        ({"max_retry": 3}, "'flora_default' cannot be used: .*Did you mean 'max_retries'"),
        ({"proxies": "socks5://me:hush@proxy:1080"}, "'flora_default' cannot be used: .*SOCKS is not supported"),
    ],
)
def test_a_connection_that_cannot_be_meant_ends_the_task_at_once(
    flora: Emulator, connect: Callable[..., None], extra: dict[str, Any], reported: str
) -> None:
    connect(flora, **extra)
    with pytest.raises(AirflowFailException, match=reported) as caught:
        life_of(still()).run()

    assert "hush" not in str(caught.value)
    assert flora.ledger()["requests"] == {}
