"""Send one alert when Flora is out of credits, however many tasks fail for it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow_provider_flora.notifications.credits import FloraCreditsNotifier
from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

try:
    from airflow.sdk import BaseNotifier, Param, dag, task
except ImportError:  # Airflow 2.11
    from airflow.decorators import dag, task
    from airflow.models.param import Param
    from airflow.notifications.basenotifier import BaseNotifier


# [START howto_flora_credits_alert]
class Message(BaseNotifier):
    """In your DAG: the notifier of Slack, PagerDuty or whatever reaches the people who top up the credits."""

    template_fields = ("text",)

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def notify(self, context: Any) -> None:
        """Called by Airflow when a task has failed."""
        self.log.error("%s", self.text)


# [END howto_flora_credits_alert]


@dag(
    schedule=None,
    tags=["flora", "example"],
    # No credits is not retried. A retry resumes the run of the attempt before it.
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    params={"pictures": Param(3, type="integer", minimum=1, maximum=100)},
)
def flora_credits_alert():
    @task
    def prompts(pictures: str) -> list[dict[str, str]]:
        """Return the inputs of each run."""
        return [{"prompt": f"A paper boat, number {number}"} for number in range(1, int(pictures) + 1)]

    # [START howto_flora_credits_alert_task]
    FloraRunTechniqueOperator.partial(
        task_id="picture",
        technique_id="editorial-still",
        deferrable=True,
        on_failure_callback=FloraCreditsNotifier(Message("Flora is out of credits: {{ exception }}")),
    ).expand(inputs=prompts("{{ params.pictures }}"))
    # [END howto_flora_credits_alert_task]


flora_credits_alert()
