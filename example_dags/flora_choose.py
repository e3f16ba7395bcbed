"""A person chooses one of three variations, and it becomes a video.

Needs Airflow 3.1 or newer. The person sees the pictures and answers in Airflow's UI, under Required Actions.
"""

from __future__ import annotations

from datetime import timedelta

from airflow import __version__ as airflow_version

from airflow_provider_flora.operators.choose import FloraChooseOutputOperator
from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

try:
    from airflow.sdk import Param, dag
except ImportError:  # Airflow 2.11
    from airflow.decorators import dag
    from airflow.models.param import Param

LIGHTS = ["golden hour", "overcast", "candlelight"]


@dag(
    schedule=None,
    tags=["flora", "example"],
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    params={"prompt": Param("A paper lantern on a wooden table", type="string")},
)
def flora_choose():
    # [START howto_operator_flora_choose]
    variation = FloraRunTechniqueOperator.partial(
        task_id="variation", technique_id="editorial-still", deferrable=True, poll_interval=2
    ).expand(inputs=[{"prompt": "{{ params.prompt }}, " + light} for light in LIGHTS])

    choose = FloraChooseOutputOperator(
        task_id="choose",
        subject="Which one becomes a video?",
        outputs=variation.output,
        labels=LIGHTS,
        response_timeout=timedelta(days=2),
        defaults=FloraChooseOutputOperator.REJECT,  # then there is no video
    )

    video = FloraRunTechniqueOperator(
        task_id="video",
        technique_id="product-motion",
        inputs={
            "photo": "{{ ti.xcom_pull(task_ids='choose')['chosen'][0]['url'] }}",
            "motion": "slow push in",
        },
        deferrable=True,
        poll_interval=2,
    )
    choose >> video
    # [END howto_operator_flora_choose]


if not airflow_version.startswith(("2.", "3.0.")):
    flora_choose()
