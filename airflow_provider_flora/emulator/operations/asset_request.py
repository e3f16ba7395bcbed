"""Reads the body of ``POST /assets``, JSON or form, and reports everything that is wrong with it at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from airflow_provider_flora.emulator.http.bodies import Problems, read_object, read_text, unknown_keys
from airflow_provider_flora.emulator.http.errors import ApiError
from airflow_provider_flora.emulator.http.forms import Part, read_form
from airflow_provider_flora.emulator.media.file_types import (
    EXTENSIONS,
    UNKNOWN_TYPE,
    UNSUPPORTED,
    decided_type,
    named_type,
)
from airflow_provider_flora.emulator.operations.scope import WORKSPACE_ID_NEEDED, check_project_id, is_workspace_id
from airflow_provider_flora.emulator.state.workspace import PROJECT_ID, WORKSPACE_ID

MAX_DIRECT = 4 * 1024 * 1024
SIGNED = "signed-url"
BODY_KEYS = ("workspace_id", "content_type", "file_name", "folder", "project_id")


@dataclass(frozen=True)
class AssetRequest:
    """A valid body.

    :param source: ``signed-url``, a URL, or the file itself.
    :param content_type: the file's declared type; ``None`` when it is not known.
    :param file_name: the file's name.
    :param folder: the client's folder for it.
    :param project_id: the project whose canvas shows it.
    """

    source: str | bytes
    content_type: str | None
    file_name: str | None
    folder: str | None
    project_id: str | None


def read_asset_request(body: bytes, content_type: str) -> AssetRequest:
    """Read the request in this body.

    :param body: the body.
    :param content_type: the header.
    :raises ApiError: 400 with every field that is wrong; 403 for another workspace; 404 for another project.
    """
    problems: Problems = []
    source: str | bytes
    if content_type.lower().startswith("multipart/form-data"):
        parts = read_form(body, content_type)
        file = parts.pop("file", None)
        words: dict[str, Any] = {name: part.content.decode(errors="replace") for name, part in parts.items()}
        problems += unknown_keys(words, BODY_KEYS)
        source = _read_file(file, problems)
    else:
        words, file = read_object(body), None
        problems += unknown_keys(words, ("source", *BODY_KEYS))
        source = read_text(words, "source", problems, required=True) or ""
    workspace_id = read_text(words, "workspace_id", problems, required=True)
    if workspace_id and not is_workspace_id(workspace_id):
        problems.append(("workspace_id", WORKSPACE_ID_NEEDED))
    asked_type, name, folder, project_id = (
        read_text(words, key, problems) for key in ("content_type", "file_name", "folder", "project_id")
    )
    kind = _decide_type(asked_type, name, file)
    if kind not in EXTENSIONS and (kind != UNKNOWN_TYPE or file):
        problems.append(("content_type" if asked_type or not file else "file", UNSUPPORTED))
    if problems:
        raise ApiError(400, fields=problems)
    if workspace_id != WORKSPACE_ID:
        raise ApiError(403)
    check_project_id(project_id)
    if project_id not in (None, PROJECT_ID):
        raise ApiError(404)
    name = name or (file.file_name if file else None)
    return AssetRequest(source, kind if kind != UNKNOWN_TYPE else None, name, folder, project_id)


def _decide_type(asked_type: str | None, name: str | None, file: Part | None) -> str:
    declared = (file.content_type, named_type(file.file_name)) if file else (None, None)
    return decided_type(asked_type, declared[0], named_type(name), declared[1])


def _read_file(part: Part | None, problems: Problems) -> bytes:
    if part is None:
        problems.append(("file", "Required"))
        return b""
    if not part.content:
        problems.append(("file", "Must not be empty"))
    if len(part.content) > MAX_DIRECT:
        problems.append(("file", f"Must be at most {MAX_DIRECT} bytes; send a larger one by signed upload"))
    return part.content
