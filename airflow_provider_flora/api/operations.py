"""The request of each operation of the Flora API. No I/O."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_provider_flora.api.answers import read
from airflow_provider_flora.api.errors import FloraParameterError
from airflow_provider_flora.api.exchange import Request, SmallFile
from airflow_provider_flora.api.models import FloraAsset, FloraAssetPage, Run, RunPage, Technique, TechniquePage
from airflow_provider_flora.api.pages import Pages

if TYPE_CHECKING:
    from airflow_provider_flora.api.models import RunInput


def list_workspaces() -> Request:
    """``GET /workspaces`` (SDK)."""
    return Request("GET", "/workspaces")


def get_technique(technique_id: str) -> Request:
    """``getTechnique``: by id or slug."""
    return Request("GET", f"/techniques/{_segment(technique_id)}")


def get_technique_run(technique_id: str, run_id: str) -> Request:
    """``getTechniqueRun``."""
    return Request("GET", f"/techniques/{_segment(technique_id)}/runs/{_segment(run_id)}")


def list_techniques(query: str | None, workspace_id: str | None, page_size: int) -> Pages[Technique]:
    """``listTechniques``."""
    return Pages(
        "/techniques",
        lambda response: read(response, TechniquePage),
        {"query": query, "workspace_id": workspace_id},
        page_size,
    )


def list_technique_runs(
    technique_id: str | None,
    status: str | None,
    workspace_id: str | None,
    project_id: str | None,
    page_size: int,
    *,
    in_workspace: bool = True,
) -> Pages[Run]:
    """``listTechniqueRuns``: newest first.

    :param in_workspace: narrow it down to the connection's workspace where ``workspace_id`` names none.
    """
    return Pages(
        "/technique-runs",
        lambda response: read(response, RunPage),
        {
            "technique_id": technique_id,
            "status": status,
            "workspace_id": workspace_id,
            "project_id": project_id,
        },
        page_size,
        in_workspace=in_workspace,
    )


def start_technique_run(
    technique_id: str,
    inputs: Sequence[RunInput],
    mode: str,
    callback_url: str | None,
    idempotency_key: str | None,
) -> Request:
    """``startTechniqueRun``, always with an idempotency key, so that it can be sent again.

    The key is in the body: Flora ignores the header for technique runs (measured by the vendor).
    """
    body: dict[str, Any] = {
        "inputs": [entry.model_dump() for entry in inputs],
        "mode": mode,
        "idempotency_key": idempotency_key or new_idempotency_key(),
    }
    if callback_url is not None:
        body["callback_url"] = callback_url
    return Request("POST", f"/techniques/{_segment(technique_id)}/runs", body=body, spends_money=True)


SIGNED_UPLOAD = "signed-url"
"""The ``source`` of a Flora asset with a signed upload."""


def create_asset(
    workspace_id: str,
    source: str | SmallFile,
    file_name: str | None,
    content_type: str | None,
    folder: str | None,
    project_id: str | None,
    idempotency_key: str | None,
) -> Request:
    """``POST /assets`` (SDK), always with an idempotency key, so that it can be sent again."""
    details = {"file_name": file_name, "content_type": content_type, "folder": folder, "project_id": project_id}
    body = {"workspace_id": workspace_id, **{name: value for name, value in details.items() if value}}
    idempotency_key = idempotency_key or new_idempotency_key()
    if isinstance(source, SmallFile):
        return Request("POST", "/assets", body=body, file=source, idempotency_key=idempotency_key)
    return Request("POST", "/assets", body={"source": source, **body}, idempotency_key=idempotency_key)


def complete_asset(asset_id: str) -> Request:
    """``POST /assets/{assetId}/complete`` (SDK)."""
    return Request("POST", f"/assets/{_segment(asset_id)}/complete", idempotency_key=new_idempotency_key())


def retry_asset(asset_id: str) -> Request:
    """``POST /assets/{assetId}/retry`` (SDK)."""
    return Request("POST", f"/assets/{_segment(asset_id)}/retry", idempotency_key=new_idempotency_key())


def get_asset(asset_id: str) -> Request:
    """``GET /assets/{assetId}`` (SDK)."""
    return Request("GET", f"/assets/{_segment(asset_id)}")


def new_idempotency_key() -> str:
    """Make a unique idempotency key."""
    return f"airflow-{uuid.uuid4()}"


def _segment(value: str) -> str:
    try:
        segment = quote(value, safe="")
    except (UnicodeEncodeError, TypeError):  # half of a surrogate pair; not a text
        segment = ""
    if segment in ("", ".", ".."):
        raise FloraParameterError(f"{value!r} is not a valid Flora id.")
    return segment


def list_assets(
    query: str | None, workspace_id: str | None, project_id: str | None, page_size: int
) -> Pages[FloraAsset]:
    """``GET /assets`` (SDK)."""
    return Pages(
        "/assets",
        lambda response: read(response, FloraAssetPage),
        {"query": query, "workspace_id": workspace_id, "project_id": project_id},
        page_size,
    )
