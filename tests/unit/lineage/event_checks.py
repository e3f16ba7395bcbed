"""Whether events of OpenLineage are valid by its own JSON schemas, and what is in them. Imports nothing of Airflow.

``schemas`` has those that Airflow's provider for OpenLineage and this one use. The docs have that of ``flora_run``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

STORED = sorted((Path(__file__).parent / "schemas").glob("*.json"))
OWN = json.loads((Path(__file__).parents[3] / "docs/_static/FloraRunFacet-1-0-0.json").read_text())
OWN_FIELDS = set(OWN["$defs"]["FloraRunFacet"]["allOf"][1]["properties"])
SCHEMAS = [OWN, *(json.loads(path.read_text()) for path in STORED)]
REGISTRY: Any = Registry().with_resources((schema["$id"], Resource.from_contents(schema)) for schema in SCHEMAS)


def flora_of(event: dict[str, Any]) -> dict[str, Any]:
    """The facet ``flora_run`` of an event, without what every facet has."""
    facet = event["run"]["facets"]["flora_run"]
    return {name: value for name, value in facet.items() if not name.startswith("_")}


def names_of(datasets: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(dataset["namespace"], dataset["name"]) for dataset in datasets]


def check_event(event: dict[str, Any]) -> None:
    """Check an event of a run, and each facet in it, against the schema that it names."""
    validate(event, event["schemaURL"])
    for facet in _facets_in(event):
        validate(facet, facet["_schemaURL"])
    if "flora_run" in event["run"]["facets"]:
        assert event["run"]["facets"]["flora_run"]["_schemaURL"] == f"{OWN['$id']}#/$defs/FloraRunFacet"
        assert set(flora_of(event)) <= OWN_FIELDS


def _facets_in(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        for entry in value:
            yield from _facets_in(entry)
    elif isinstance(value, dict):
        if "_schemaURL" in value:
            yield value
        for entry in value.values():
            yield from _facets_in(entry)


def validate(value: Any, url: str) -> None:
    """Check a value against a stored schema.

    :raises jsonschema.ValidationError: it is not valid.
    """
    validator = Draft202012Validator(
        {"$ref": url}, registry=REGISTRY, format_checker=Draft202012Validator.FORMAT_CHECKER
    )
    validator.validate(value)
