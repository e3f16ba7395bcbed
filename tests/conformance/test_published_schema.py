"""The emulator keeps the vendor's contract for valid and invalid requests from `flora.openapi.yaml`.

What Flora's own client judges is in `test_flora_client.py`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from itertools import cycle
from pathlib import Path
from unittest.mock import patch

import pytest
import requests
import schemathesis
from schemathesis.core.parameters import ParameterLocation
from schemathesis.specs.openapi import checks

from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.emulator.http.errors import ApiError
from airflow_provider_flora.emulator.operations import assets

JUDGED = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
    checks.negative_data_rejection,
]
PROJECT_ID = re.compile(r"prj_\S+")

contract = schemathesis.openapi.from_path(
    Path(__file__).parent / "flora.openapi.yaml",
    config=schemathesis.Config.from_dict(
        {
            "seed": 1,
            "generation": {
                "max-examples": 50,
                "deterministic": True,
                "database": "none",
                # Without its key a request is refused for that alone, whatever else is wrong with it.
                "with-security-parameters": False,
            },
        }
    ),
)


class Flora:
    """An emulator in which there is one of everything, and what it answered."""

    def __init__(self, emulator: Emulator) -> None:
        self.base_url = emulator.base_url
        self.answers: defaultdict[str, Counter[int]] = defaultdict(Counter)
        self.session = requests.Session()
        self.session.trust_env = False
        self.headers = {"authorization": f"Bearer {emulator.api_key}"}
        emulator.order_fault("fail_asset")
        self.there = {
            "techniqueId": cycle(["tagline-writer", "tech_tagline-writer"]),
            "runId": cycle([*emulator.seed_runs(2, technique_id="tagline-writer"), "run_missing"]),
            "assetId": cycle([self._asset("failed"), self._asset("ready"), self._asset()]),
        }

    def _asset(self, file: str | None = None) -> str:
        """A reservation, or an asset that has its bytes."""
        form = {"data": {"workspace_id": "ws_emulator"}, "files": {"file": ("a.png", file)}}
        reservation = {"json": {"workspace_id": "ws_emulator", "source": "signed-url"}}
        answer = self.session.post(
            f"{self.base_url}/assets", headers=self.headers, timeout=60, **(form if file else reservation)
        )
        return answer.json()["asset_id"]

    def judge(self, case: schemathesis.Case) -> None:
        """Send the request, to something that is there unless its address is what is wrong with it."""
        address = case.meta.components.get(ParameterLocation.PATH)
        if address is not None and not address.mode.is_negative:
            for name in case.path_parameters:
                case.path_parameters[name] = next(self.there[name])
        answer = case.call_and_validate(self.base_url, self.session, self.headers, JUDGED, timeout=60)
        self.answers[case.operation.label][answer.status_code] += 1
        if answer.status_code == 500:
            # Measured: not the 400 that the pages would let one expect. Nothing else may answer 500.
            given = [part["project_id"] for part in (case.query, case.body) if names_project(part)]
            assert given, "no project id was sent"
            assert not any(isinstance(one, str) and PROJECT_ID.fullmatch(one) for one in given)


def names_project(part: object) -> bool:
    return isinstance(part, dict) and "project_id" in part


async def fetch_nothing(url: str, *rest: object) -> None:
    raise ApiError(400, fields=[("source", "Nothing is fetched here")])


@pytest.fixture(scope="module")
def flora():
    with (
        # No request may leave this machine for a URL that was made up.
        patch.object(assets, "fetch", fetch_nothing),
        Emulator(run_seconds=0.02) as emulator,
    ):
        flora = Flora(emulator)
        yield flora
    for operation, answers in flora.answers.items():
        assert answers[200], f"{operation}: no request was right, so that nothing but refusals was judged"
        assert len(answers) > 1, f"{operation}: no request was wrong"


@contract.parametrize()
def test_every_answer_is_one_that_flora_publishes(case, flora):
    flora.judge(case)
