"""DAG files of a technique, for ``technique --dag`` and ``technique --batch``. No I/O."""

from __future__ import annotations

import keyword
import re
import textwrap
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from airflow_provider_flora.api.errors import FloraError
from airflow_provider_flora.api.inputs import RUN_INPUT_TYPES, check_inputs, details_of
from airflow_provider_flora.cli.terminal import plain, usd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_provider_flora.api.models import Slot, Technique
    from airflow_provider_flora.api.settings import ClientSettings

# At the address at which MDN keeps the media of its pages.
_SAMPLES = {
    "imageUrl": "https://mdn.github.io/shared-assets/images/examples/grapefruit-slice.jpg",
    "videoUrl": "https://mdn.github.io/shared-assets/videos/flower.mp4",
}
_EMULATORS_SAMPLES = {"imageUrl": "/media/samples/lamp.png", "videoUrl": "/media/samples/clip.mp4"}
_TEXTS = {"language": "Portuguese", "light": "golden hour", "script": "A paper boat sails across a puddle."}
_TEXT = "A paper boat on a calm lake, in the first light of the day"

_WIDTH = 110
_LONGEST_NAME = 100  # of a DAG; Airflow takes 250 characters

_DAG = '''"""{about}

{price}
The inputs are samples: put yours in their place.
"""

from datetime import timedelta

from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

try:
    from airflow.sdk import dag
except ImportError:  # Airflow 2.11
    from airflow.decorators import dag


@dag(schedule=None, tags=["flora"], default_args={{"retries": 2, "retry_delay": timedelta(minutes=1)}})
def {name}():
    FloraRunTechniqueOperator(
        task_id="run_technique",
        technique_id={technique},
        inputs={inputs},{limit}
    )


{name}()
'''

_BATCH = '''"""{about}

{price}
Save this table as {rows} beside this file. It has a column for each input that is needed:

{csv}

What became of each row is written to a manifest beside it. What is there completed and unchanged is not paid again.
"""

from datetime import timedelta
from pathlib import Path

from airflow_provider_flora.operators.batch import FloraRunTechniqueBatchOperator

try:
    from airflow.sdk import dag
except ImportError:  # Airflow 2.11
    from airflow.decorators import dag

FOLDER = Path(__file__).parent


@dag(schedule=None, tags=["flora"], default_args={{"retries": 2, "retry_delay": timedelta(minutes=1)}})
def {name}_batch():
    FloraRunTechniqueBatchOperator(
        task_id="run_rows",
        technique_id={technique},
        rows=str(FOLDER / "{rows}"),
        manifest=str(FOLDER / "{name}.manifest.jsonl"),
        row_id="{row_id}",
        inputs={inputs},{limit}
    )


{name}_batch()
'''

_UNFIT = re.compile(r"[{}%#\\\"]")
"""What Airflow's templates, a batch's ``{column}``, a CSV or a docstring may read as their own."""


def dag_file(technique: Technique, settings: ClientSettings) -> str:
    """Return a DAG file that runs a technique with a sample for each input.

    :raises FloraInputError: the technique needs an input that Flora's API does not take.
    :raises FloraError: its id, or that of an input, may be read as a template.
    """
    samples = _samples_of(technique, settings)
    return _DAG.format(**_words(technique), inputs=_entries(samples))


def batch_file(technique: Technique, settings: ClientSettings) -> str:
    """Return a DAG file that runs a technique for each row of a CSV file. Its docstring has a CSV to begin with.

    :raises FloraInputError: the technique needs an input that Flora's API does not take.
    :raises FloraError: its id, or that of an input, may be read as a template.
    """
    samples = _samples_of(technique, settings)
    words = _words(technique)
    columns = {slot.id: value for slot, value in samples if not slot.optional}
    row_id = "id" if all(slot.id != "id" for slot, _ in samples) else "row"
    rows = [[row_id, *columns], ["1", *columns.values()]]
    csv = "\n".join("    " + ",".join(map(_csv_cell, row)) for row in rows)
    inputs = _entries([(slot, f"{{{slot.id}}}") for slot, _ in samples])
    return _BATCH.format(**words, rows=f"{words['name']}.csv", row_id=row_id, csv=csv, inputs=inputs)


def _samples_of(technique: Technique, settings: ClientSettings) -> list[tuple[Slot, str]]:
    """Return a sample for each input that a run takes."""
    origin = "{0.scheme}://{0.netloc}".format(urlsplit(settings.base_url))
    media = {kind: origin + path for kind, path in _EMULATORS_SAMPLES.items()} if settings.on_loopback else _SAMPLES
    samples = [
        (slot, media.get(slot.type) or _TEXTS.get(slot.id, _TEXT))
        for slot in technique.inputs
        if slot.type in RUN_INPUT_TYPES
    ]
    check_inputs({slot.id: value for slot, value in samples}, technique, on_own_origin=settings.on_own_origin)
    for name in (_address(technique), *(slot.id for slot, _ in samples)):
        if _UNFIT.search(name) or not name.isprintable():
            raise FloraError(
                f"The id {name!r} cannot be in a printed DAG file, where it may be read as a template."
            )
    return samples


def _address(technique: Technique) -> str:
    return technique.slug or technique.technique_id


def _words(technique: Technique) -> dict[str, str]:
    name = re.sub(r"\W+", "_", _address(technique), flags=re.ASCII).strip("_").lower()[:_LONGEST_NAME]
    if not name or name[0].isdigit() or keyword.iskeyword(name):
        name = f"flora_{name}".rstrip("_")
    cost = technique.run_cost
    price = "Flora names no price" if cost is None else f"A run costs {usd(cost)} USD"
    about = f"{technique.name or name}: {technique.description or 'a technique of Flora'}"
    return {
        "name": name,
        "about": _in_docstring(about),
        "price": _in_docstring(f"{price}. Printed for the technique {technique.technique_id}"),
        "technique": _quote(_address(technique)),
        "limit": "" if cost is None else f"\n        max_run_cost={cost!r},  # USD; a higher price is not paid",
    }


def _entries(values: Sequence[tuple[Slot, str]]) -> str:
    """Return a dict of inputs as Python writes it. What is optional is a comment."""
    lines = []
    for slot, value in values:
        entry = f"            {'# ' * slot.optional}{_quote(slot.id)}: {_quote(value)},"
        notes = ["optional"] * slot.optional + details_of(slot) + [slot.description or ""]
        comment = textwrap.shorten(
            plain("; ".join(filter(None, notes))), max(20, _WIDTH - len(entry)), placeholder=" …"
        )
        lines.append(f"{entry}  # {comment}" if comment else entry)
    return "\n".join(["{", *lines, "        }"]) if lines else "{}"


def _quote(text: str) -> str:
    """Return a text as a Python literal, with double quotes where it has none of its own."""
    literal = repr(text)
    return literal if '"' in literal or "\\" in literal else f'"{literal[1:-1]}"'


def _in_docstring(text: str) -> str:
    """Return a sentence of Flora's that cannot end a docstring, nor be read as an escape, in lines that fit."""
    sentence = plain(text).replace("\\", "/").replace('"', "'").strip()
    sentence += "" if sentence.endswith((".", "!", "?")) else "."
    return textwrap.fill(sentence, _WIDTH, break_on_hyphens=False)


def _csv_cell(text: str) -> str:
    text = text.replace("\\", "/").replace('"', "'")
    return f'"{text}"' if "," in text else text
