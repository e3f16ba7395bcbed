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
    return Request("listWorkspaces", "GET", "/workspaces")


def get_technique(technique_id: str) -> Request:
    """``getTechnique``: by id or slug."""
    path = f"/techniques/{_segment(technique_id)}"
    return Request("getTechnique", "GET", path, subject=f"technique {technique_id!r}")


def get_technique_run(technique_id: str, run_id: str) -> Request:
    """``getTechniqueRun``."""
    path = f"/techniques/{_segment(technique_id)}/runs/{_segment(run_id)}"
    subject = f"run {run_id!r} of technique {technique_id!r}"
    return Request("getTechniqueRun", "GET", path, subject=subject)


def list_techniques(query: str | None, workspace_id: str | None, page_size: int) -> Pages[Technique]:
    """``listTechniques``."""
    return Pages(
        "listTechniques",
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
        "listTechniqueRuns",
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
    path = f"/techniques/{_segment(technique_id)}/runs"
    subject = f"technique {technique_id!r}"
    return Request("startTechniqueRun", "POST", path, body=body, spends_money=True, subject=subject)


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
    body: dict[str, Any] = {
        "workspace_id": workspace_id,
        **{name: value for name, value in details.items() if value},
    }
    idempotency_key = idempotency_key or new_idempotency_key()
    file = source if isinstance(source, SmallFile) else None
    if file is None:
        body = {"source": source, **body}
    subject = f"workspace {workspace_id!r}" + (f" or project {project_id!r}" if project_id else "")
    return Request(
        "createAsset", "POST", "/assets", body=body, file=file, idempotency_key=idempotency_key, subject=subject
    )


def complete_asset(asset_id: str) -> Request:
    """``POST /assets/{assetId}/complete`` (SDK)."""
    return _change_asset("completeAsset", asset_id, "complete")


def retry_asset(asset_id: str) -> Request:
    """``POST /assets/{assetId}/retry`` (SDK)."""
    return _change_asset("retryAsset", asset_id, "retry")


def get_asset(asset_id: str) -> Request:
    """``GET /assets/{assetId}`` (SDK)."""
    return Request("getAsset", "GET", f"/assets/{_segment(asset_id)}", subject=f"asset {asset_id!r}")


def _change_asset(operation: str, asset_id: str, action: str) -> Request:
    path = f"/assets/{_segment(asset_id)}/{action}"
    subject = f"asset {asset_id!r}"
    return Request(operation, "POST", path, idempotency_key=new_idempotency_key(), subject=subject)


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
        "listAssets",
        "/assets",
        lambda response: read(response, FloraAssetPage),
        {"query": query, "workspace_id": workspace_id, "project_id": project_id},
        page_size,
    )
