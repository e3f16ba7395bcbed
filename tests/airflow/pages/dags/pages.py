"""DAGs that give the pages something to show. A guest may read the first, and none of the others."""

from __future__ import annotations

import os

from airflow.sdk import DAG

from airflow_provider_flora.operators.batch import FloraRunTechniqueBatchOperator
from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

FOLDER = os.environ["FLORA_PAGES_FOLDER"]  # a local folder
STORE = os.environ["FLORA_PAGES_STORE"]  # an S3
CLIP = f"{os.environ['FLORA_MEDIA_BASE']}/clip.mp4"

with DAG("pages_seen", schedule=None) as seen:
    FloraRunTechniqueOperator(
        task_id="picture",
        technique_id="editorial-still",
        inputs={"prompt": "<script>alert(1)</script>"},
        download_to=f"file://{FOLDER}/picture/",
    )
    for task_id, technique_id, inputs in (
        ("clip", "clip-recut", {"clip": CLIP}),
        ("speech", "voice-over", {"script": "Hello"}),
        ("document", "press-kit", {"announcement": "a shoe"}),
    ):
        FloraRunTechniqueOperator(
            task_id=task_id, technique_id=technique_id, inputs=inputs, download_to=f"file://{FOLDER}/{task_id}/"
        )
    FloraRunTechniqueOperator.partial(task_id="each", technique_id="editorial-still").expand(
        inputs=[{"prompt": "a cup"}, {"prompt": "a jug"}, {"prompt": "a can"}]
    )
    FloraRunTechniqueBatchOperator(
        task_id="table",
        technique_id="editorial-still",
        rows=[{"row_id": f"row-{number}", "prompt": "a mug"} for number in range(3)],
        row_id="row_id",
        inputs={"prompt": "{prompt}"},
        manifest=f"{STORE}/table/manifest.jsonl",
        download_to=f"{STORE}/table/files/",
    )
    FloraRunTechniqueOperator(
        task_id="refused", technique_id="editorial-still", inputs={"nonsense": "a cup"}, retries=0
    )

with DAG("pages_slow", schedule=None) as slow:
    FloraRunTechniqueOperator(
        task_id="still",
        technique_id="editorial-still",
        inputs={"prompt": "a cup"},
        flora_conn_id="slow_flora",
        deferrable=True,
    )

with DAG("pages_hidden", schedule=None) as hidden:
    FloraRunTechniqueOperator(task_id="secret", technique_id="editorial-still", inputs={"prompt": "a secret"})
