"""Values that no input takes: empty, of another type, several, not a public URL."""

# MISTAKE empty: 'prompt' is empty: it takes a text
# MISTAKE none: 'prompt' is the text 'None'. Its template probably found no value
# MISTAKE number: 'prompt' takes a text, not 5
# MISTAKE several: 'photo' takes the https:// URL of an image, not ['https://a.example/1.png']. An input takes
#    one value: start a separate run, with its own charge, for each value
# MISTAKE http: 'photo' takes the https:// URL of an image, not 'http://a.example/1.png'
# MISTAKE type: 'prompt' is of type 'text', not 'imageUrl'
# MISTAKE not_inputs: inputs takes {input_id: value} or a list of {id, type, value}, not 'a prompt'
# MISTAKE not_inputs: 'prompt' is missing: it takes a text

from __future__ import annotations

from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

try:
    from airflow.sdk import DAG
except ImportError:  # Airflow 2.11
    from airflow.models.dag import DAG

with DAG("unfit_values", schedule=None):
    for name, inputs in {
        "empty": {"prompt": " "},
        "none": {"prompt": "None"},
        "number": {"prompt": 5},
        "type": [{"id": "prompt", "type": "imageUrl", "value": "https://a.example/1.png"}],
        "not_inputs": "a prompt",
    }.items():
        FloraRunTechniqueOperator(task_id=name, technique_id="editorial-still", inputs=inputs)
    for name, photo in {"several": ["https://a.example/1.png"], "http": "http://a.example/1.png"}.items():
        FloraRunTechniqueOperator(task_id=name, technique_id="product-motion", inputs={"photo": photo})
