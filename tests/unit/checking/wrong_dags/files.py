"""Files of inputs: one that is not there, one that is no image, one whose content is none."""

# MISTAKE missing: 'photo' takes the https:// URL of an image, or a file of one: There is no file
#    '{folder}/mug.png' on the worker. Use its full path, or a storage that all workers reach.
# MISTAKE document: 'photo' takes the https:// URL of an image, or a file of one: '{folder}/files.py' has the
#    name 'files.py', whose extension Flora does not support. Flora accepts {types}. Convert the file, or
#    correct its extension.
# MISTAKE damaged: 'photo' takes the https:// URL of an image, or a file of one: '{folder}/text.png' is
#    image/png by its name, but its content is of no known type: it begins with b'not a picture'. Use the
#    right file, or correct its name.

from __future__ import annotations

from pathlib import Path

from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

try:
    from airflow.sdk import DAG
except ImportError:  # Airflow 2.11
    from airflow.models.dag import DAG

FOLDER = Path(__file__).parent

with DAG("files", schedule=None):
    for name, file in {"missing": "mug.png", "document": "files.py", "damaged": "text.png"}.items():
        FloraRunTechniqueOperator(task_id=name, technique_id="product-motion", inputs={"photo": FOLDER / file})
