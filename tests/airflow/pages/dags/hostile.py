"""A DAG whose outputs are attacks, and one with a large manifest. Its operators only store what a task would."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, BaseOperator

from tests.airflow.pages.attacks import CALL, FILES, GIF, IMAGE, SCRIPT, TEXTS, URLS
from tests.stored_file import store_file

FOLDER = Path(os.environ["FLORA_PAGES_FOLDER"])


def attacks() -> dict[str, Any]:
    """Return the value of a run all of whose outputs are attacks."""
    outputs = [{"output_id": f"{IMAGE}{n}", "type": "text", "url": text} for n, text in enumerate(TEXTS)]
    outputs += [{"output_id": f'"{IMAGE}{n}', "type": kind, "url": url} for n, (kind, url) in enumerate(URLS)]
    files = []
    for number, (kind, media_type, name, content) in enumerate(FILES):
        output_id = f"file {number}"
        outputs.append({"output_id": output_id, "type": kind, "url": "https://media.example/"})
        files.append(store_file(FOLDER / "hostile" / name, content, media_type, output_id))
    return {
        "run_id": f"run_{IMAGE}",
        "technique_id": SCRIPT,
        "status": f"completed{SCRIPT}",
        "outputs": outputs,
        "files": files,
    }


class FloraHostileOperator(BaseOperator):
    """Stores attacks wherever a task stores something."""

    template_fields = ("inputs",)

    def __init__(self, **parameters: Any) -> None:
        super().__init__(**parameters)
        self.inputs = {f"prompt{IMAGE}": SCRIPT, "photo": f"javascript:{CALL}//a.png"}

    def execute(self, context: Any) -> Any:
        """Store them."""
        error = {"code": SCRIPT, "message": f"{SCRIPT}{IMAGE}", "remedy": SCRIPT}
        for key, value in (("flora_error", error), ("flora_technique_url", f"javascript:{CALL}")):
            context["ti"].xcom_push(key=key, value=value)
        return attacks()


class FloraLargeOperator(BaseOperator):
    """Stores a manifest of 10,000 rows, each with a picture of the first task, and one row of attacks."""

    def execute(self, context: Any) -> None:
        """Store it."""
        file = store_file(FOLDER / "hostile" / "dot.gif", GIF, "image/gif", "still")
        output = {"output_id": "still", "type": "imageUrl", "url": "https://media.example/dot.gif"}
        lines = [
            {
                "row_id": f"sku-{number:05}",
                "status": "failed" if number % 100 == 7 else "completed",
                "run_id": f"run_{number}",
                "outputs": [] if number % 100 == 7 else [output],
                "files": [] if number % 100 == 7 else [file],
                "charged_cost": 0.09,
            }
            for number in range(9_999)
        ]
        lines.append({"row_id": IMAGE, "inputs": {SCRIPT: IMAGE}, "error": {"message": SCRIPT}, **attacks()})
        path = FOLDER / "large.jsonl"
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        context["ti"].xcom_push(key="manifest", value=f"file://{path}")


with DAG("pages_hostile", schedule=None) as hostile:
    FloraHostileOperator(task_id="attacks")
    FloraLargeOperator(task_id="large")
