"""Uses of the decorator that a type checker accepts, and mistakes that it finds. `make check` reads this file.

Where a mistake is no longer found, mypy reports its `type: ignore` as unused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow.sdk import XComArg, task
from typing_extensions import assert_type

from airflow_provider_flora.api.inputs import Inputs
from airflow_provider_flora.decorators.flora import flora_technique


@flora_technique(technique_id="editorial-still", max_run_cost=0.5, retries=2)
def still(what: str, light: str = "dusk") -> dict[str, str]:
    return {"prompt": f"{what} at {light}"}


@flora_technique(technique_id="editorial-still")
def as_list(what: str) -> list[dict[str, str]]:
    return [{"id": "prompt", "type": "text", "value": what}]


assert_type(still("a cup"), XComArg)
assert_type(still.expand(what=["a cup", "a jug"]), XComArg)
assert_type(still.override(task_id="other")("a cup", light="noon"), XComArg)
function: Callable[..., Inputs] = still.function
still(7)  # type: ignore[arg-type]
still(wat="a cup")  # type: ignore[call-arg]


@flora_technique(technique_id="editorial-still")  # type: ignore[arg-type]
def no_inputs() -> str:
    return "a cup"


flora_technique(technique="editorial-still")  # type: ignore[call-overload]
flora_technique(technique_id="editorial-still", poll_interval="soon")  # type: ignore[call-overload]


# Airflow's own types know no provider's decorators: this one takes everything.
@task.flora_technique(technique_id="editorial-still", poll_interval="soon")
def by_name(what: str) -> dict[str, Any]:
    return {"prompt": what}
