"""A person chooses a variation, or rejects all with a note, which goes into the next prompt: three times at most.

Needs Airflow 3.1 or newer. A DAG has no loops, so each round has its own tasks. Once a person has chosen, the
other rounds are skipped, and cost nothing.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow import __version__ as airflow_version

from airflow_provider_flora.operators.choose import FloraChooseOutputOperator
from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

try:
    from airflow.sdk import Param, dag, task
except ImportError:  # Airflow 2.11
    from airflow.decorators import dag, task
    from airflow.models.param import Param

ROUNDS = 3
LIGHTS = ["golden hour", "overcast", "candlelight"]


@dag(
    schedule=None,
    tags=["flora", "example"],
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    params={"prompt": Param("A paper lantern on a wooden table", type="string")},
)
def flora_choose_again():
    # [START howto_flora_choose_again]
    @task
    def prompts(choices: list[dict[str, Any]], params: dict[str, Any] | None = None) -> list[dict[str, str]]:
        """Return the inputs of a round, with all notes so far. There are none once a variation is chosen."""
        assert params is not None
        if any(choice["chosen"] for choice in choices):
            return []
        notes = [f" {choice['note']}." for choice in choices if choice["note"]]
        return [{"prompt": f"{params['prompt']}, {light}.{''.join(notes)}"} for light in LIGHTS]

    @task(trigger_rule="none_failed_min_one_success")
    def videos(choices: list[dict[str, Any] | None]) -> list[dict[str, str]]:
        """Return the inputs of a video of the chosen variation. There are none if all were rejected."""
        chosen = [output for choice in choices if choice for output in choice["chosen"]]
        return [{"photo": output["url"], "motion": "slow push in"} for output in chosen]

    choices: list[Any] = []
    for number in range(1, ROUNDS + 1):
        variation = FloraRunTechniqueOperator.partial(
            task_id=f"variation_{number}", technique_id="editorial-still", deferrable=True, poll_interval=2
        ).expand(inputs=prompts.override(task_id=f"prompts_{number}")(choices[:]))
        choose = FloraChooseOutputOperator(
            task_id=f"choose_{number}",
            subject=f"Which one becomes a video? Round {number} of {ROUNDS}",
            outputs=variation.output,
            labels=LIGHTS,
            on_reject="return",
            response_timeout=timedelta(days=2),  # without an answer, no further round is paid
        )
        choices.append(choose.output)

    FloraRunTechniqueOperator.partial(
        task_id="video", technique_id="product-motion", deferrable=True, poll_interval=2
    ).expand(inputs=videos(choices))
    # [END howto_flora_choose_again]


if not airflow_version.startswith(("2.", "3.0.")):
    flora_choose_again()
