"""The link from a task to its technique's page in Flora."""

from __future__ import annotations

import pytest

from airflow_provider_flora.api.settings import ClientSettings
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.links.flora import FloraTechniqueLink, technique_url
from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator
from tests.unit.operators.still import life_of, still

pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.parametrize(
    ("base_url", "technique", "url"),
    [
        ("https://app.flora.ai/api/v1", "editorial-still", "https://app.flora.ai/techniques/editorial-still"),
        ("http://127.0.0.1:8765", "a/b c", "http://127.0.0.1:8765/techniques/a%2Fb%20c"),
        ("http://[::1]:8765", "x", "http://[::1]:8765/techniques/x"),
        ("http://localhost", "x", "http://localhost/techniques/x"),
    ],
)
def test_a_techniques_page_is_on_the_connections_origin(base_url: str, technique: str, url: str) -> None:
    assert technique_url(ClientSettings("key", base_url), technique) == url


def test_the_link_is_what_the_task_pushed_when_it_began(flora: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    life = life_of(still(technique_id="tech_editorial-still"))
    life.run()
    xcoms = life.ti.xcoms
    monkeypatch.setattr("airflow_provider_flora.links.flora.XCom.get_value", lambda *, ti_key, key: xcoms.get(key))
    link = FloraRunTechniqueOperator.operator_extra_links[0]
    assert link.get_link(life.operator, ti_key=None) == f"{flora.origin}/techniques/editorial-still"
    xcoms.clear()
    assert FloraTechniqueLink().get_link(life.operator, ti_key=None) == ""
