"""The page about lineage shows an event that is valid, and each field and name that there is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import attr

from airflow_provider_flora.lineage.datasets import name_of
from airflow_provider_flora.lineage.facet import PRODUCER, SCHEMA_URL, FloraRunFacet
from tests.docs.test_docs import blocks_of
from tests.unit.lineage.event_checks import OWN_FIELDS, validate

PAGE = Path(__file__).parents[2] / "docs" / "lineage.rst"
FIELDS = {field.name for field in attr.fields(FloraRunFacet) if not field.name.startswith("_")}


def test_the_event_on_the_page_has_a_valid_facet() -> None:
    [(_, text)] = blocks_of(PAGE, "json")
    facet = json.loads(text)["run"]["facets"]["flora_run"]
    validate({"_producer": PRODUCER, "_schemaURL": SCHEMA_URL, **facet}, SCHEMA_URL)


def test_the_page_and_the_schema_have_each_field_of_the_facet() -> None:
    table = PAGE.read_text().partition("The facet ``flora_run``\n")[2].partition("A field without a value")[0]
    first_column = "".join(re.findall(r"^   \* - (.*)$", table, re.MULTILINE))
    assert set(re.findall(r"``(\w+)``", first_column)) | {"inputsLeftOut", "outputsLeftOut"} == FIELDS
    assert OWN_FIELDS == FIELDS


def test_each_name_on_the_page_is_what_a_location_gets() -> None:
    rows = re.findall(r"^   \* - (``.+``)\n     - ``(\S+)``\n     - ``(\S+)``$", PAGE.read_text(), re.MULTILINE)
    locations = [(place, space, name) for cell, space, name in rows for place in re.findall(r"``(\S+?)``", cell)]
    assert len(locations) == 6
    for location, namespace, name in locations:
        assert name_of(location) == (namespace, name)
