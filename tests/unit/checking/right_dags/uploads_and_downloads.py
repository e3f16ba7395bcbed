"""Uploads and downloads: they cost nothing, and files that another machine may have are left for run time."""

# LEFT stored: 's3://shop/mug.png' is in a storage; it is read at run time
# LEFT of_a_connection: 'shop/mug.png' is in a storage; it is read at run time
# LEFT elsewhere: '/nowhere/mug.png' is not looked for: this machine has no folder '/nowhere'; it is read at
#    run time
# LEFT of_a_task: 'file' comes from the task 'paint' at run time
# LEFT typed: 'content_type' is a template: {{ var.value.type }}
# LEFT written: '{folder}/new.png' is not there yet: a task before this one may write it; it is read at run time
# LEFT download: 'download_to' is a template: s3://shop/{{ ds }}/
# LEFT download: 'file_name' is a template: {{ ds }}.{ext}
# COST uploads_and_downloads: 0.00 USD

from __future__ import annotations

from pathlib import Path

from airflow_provider_flora.operators.downloads import FloraDownloadOutputsOperator
from airflow_provider_flora.operators.uploads import FloraUploadAssetOperator

try:
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2.11
    from airflow.decorators import task
    from airflow.models.dag import DAG

FOLDER = Path(__file__).parent


@task
def paint() -> str:
    return str(FOLDER / "new.png")


with DAG("uploads_and_downloads", schedule=None):
    painted = paint()
    for name, parameters in {
        "there": {"file": FOLDER / "mug.png"},
        "url": {"file": "https://shop.example.com/mug", "content_type": "image/png", "workspace_id": "ws_shop"},
        "stored": {"file": "s3://shop/mug.png"},
        "of_a_connection": {"file": "shop/mug.png", "conn_id": "shop"},
        "elsewhere": {"file": "/nowhere/mug.png"},
        "of_a_task": {"file": painted},
        "typed": {"file": FOLDER / "mug.png", "content_type": "{{ var.value.type }}"},
    }.items():
        FloraUploadAssetOperator(task_id=name, **parameters)
    painted >> FloraUploadAssetOperator(task_id="written", file=FOLDER / "new.png")
    FloraDownloadOutputsOperator(
        task_id="download",
        technique_id="editorial-still",
        run_id="run_1",
        download_to="s3://shop/{{ ds }}/",
        file_name="{{ ds }}.{ext}",
    )
