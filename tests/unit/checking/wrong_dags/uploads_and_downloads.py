"""Uploads and downloads, which cost nothing, and fail all the same."""

# MISTAKE gone: There is no file '{folder}/gone.png' on the worker. Use its full path, or a storage that all workers
#    reach.
# MISTAKE document: '{folder}/files.py' has the name 'files.py', whose extension Flora does not support. Flora
#    accepts {types}. Convert the file, or correct its extension.
# MISTAKE typed: '{folder}/text.png' is image/jpeg by content_type, but its content is of no known type: it begins
#    with b'not a picture'. Use the right file, or correct content_type.
# MISTAKE http: Flora only fetches https:// URLs, not 'http://shop.example.com/mug.png'. Download it and upload the
#    file.
# MISTAKE page: 'https://shop.example.com/mug' has the content_type 'text/html'. Flora accepts {types}.
# MISTAKE empty: file takes a path, a storage's URI or an https:// URL, not ''.
# MISTAKE workspace: workspace_id takes an id that begins with ws_, not 'shop'.
# MISTAKE unknown: Flora answered 404 not_found: Not found. [request id REQUEST] Technique 'product-relite' was not
#    found with the key in FLORA_API_KEY. Check the id, and that the key belongs to the id's workspace.
# MISTAKE unknown: file_name='{nope}' is invalid: {nope} is not a field. The fields are technique, flora_run_id,
#    output_id, index, ext. The default is '{technique}-{flora_run_id}-{output_id}.{ext}'.
# MISTAKE relative: The folder 'covers' is a relative path. Use an absolute path or a URI such as s3://bucket/folder.

from __future__ import annotations

from pathlib import Path

from airflow_provider_flora.operators.downloads import FloraDownloadOutputsOperator
from airflow_provider_flora.operators.uploads import FloraUploadAssetOperator

try:
    from airflow.sdk import DAG
except ImportError:  # Airflow 2.11
    from airflow.models.dag import DAG

FOLDER = Path(__file__).parent
MUG = "https://shop.example.com/mug"

with DAG("uploads_and_downloads", schedule=None):
    for name, parameters in {
        "gone": {"file": FOLDER / "gone.png"},
        "document": {"file": str(FOLDER / "files.py")},
        "typed": {"file": FOLDER / "text.png", "content_type": "image/jpeg"},
        "http": {"file": "http://shop.example.com/mug.png"},
        "page": {"file": MUG, "content_type": "text/html"},
        "empty": {"file": ""},
        "workspace": {"file": MUG, "workspace_id": "shop"},
    }.items():
        FloraUploadAssetOperator(task_id=name, **parameters)
    FloraDownloadOutputsOperator(
        task_id="unknown",
        technique_id="product-relite",
        run_id="run_1",
        download_to="s3://shop/",
        file_name="{nope}",
    )
    FloraDownloadOutputsOperator(
        task_id="relative", technique_id="{{ var.value.technique }}", run_id="run_1", download_to="covers"
    )
