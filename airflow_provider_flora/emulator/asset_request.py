"""Reads the body of ``POST /assets``, JSON or form, and says everything that is wrong with it at once."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from airflow_provider_flora.emulator.errors import ApiError
from airflow_provider_flora.emulator.file_types import (
    EXTENSIONS,
    UNKNOWN_TYPE,
    UNSUPPORTED,
    decided_type,
    named_type,
)
from airflow_provider_flora.emulator.forms import Part, read_form
from airflow_provider_flora.emulator.runs import PROJECT_ID, WORKSPACE_ID

MAX_DIRECT = 4 * 1024 * 1024
SIGNED = "signed-url"
BODY_KEYS = ("workspace_id", "content_type", "file_name", "folder", "project_id")
_WORKSPACE_ID = re.compile(r"ws_[A-Za-z0-9]+")
_PUBLIC_PROJECT_ID = re.compile(r"prj_[A-Za-z0-9]+")

Problems = list[tuple[str, str]]


@dataclass(frozen=True)
class AssetRequest:
    """A valid body.

    :param source: ``signed-url``, a URL, or the file itself.
    :param content_type: What the file is said to be; for a file itself, what it is.
    :param file_name: What it is called.
    :param folder: Where the client wants it.
    :param project_id: The project whose canvas is to show it.
    """

    source: str | bytes
    content_type: str | None
    file_name: str | None
    folder: str | None
    project_id: str | None


def read_asset_request(body: bytes, content_type: str) -> AssetRequest:
    """The request in this body.

    :param body: As it came.
    :param content_type: The header.
    :raises ApiError: 400 with every field that is wrong; 403 for another workspace; 404 for another project.
    """
    problems: Problems = []
    source: str | bytes
    if content_type.lower().startswith("multipart/form-data"):
        parts = read_form(body, content_type)
        file = parts.pop("file", None)
        words: dict[str, Any] = {name: part.content.decode(errors="replace") for name, part in parts.items()}
        problems += _unknown(words, BODY_KEYS)
        source = _file(file, problems)
    else:
        words, file = _json(body), None
        problems += _unknown(words, ("source", *BODY_KEYS))
        source = _text(words, "source", problems, required=True) or ""
    workspace_id = _text(words, "workspace_id", problems, required=True)
    if workspace_id and not _WORKSPACE_ID.fullmatch(workspace_id):
        problems.append(("workspace_id", "Must start with ws_"))
    asked_type, name, folder, project_id = (
        _text(words, key, problems) for key in ("content_type", "file_name", "folder", "project_id")
    )
    kind = _kind(asked_type, name, file)
    if kind not in EXTENSIONS and (kind != UNKNOWN_TYPE or file):
        problems.append(("content_type" if asked_type or not file else "file", UNSUPPORTED))
    if problems:
        raise ApiError(400, fields=problems)
    if workspace_id != WORKSPACE_ID:
        raise ApiError(403)
    if project_id is not None and not _PUBLIC_PROJECT_ID.fullmatch(project_id):
        raise ApiError(500)  # As opaque as Flora's own.
    if project_id not in (None, PROJECT_ID):
        raise ApiError(404)
    name = name or (file.file_name if file else None)
    return AssetRequest(source, kind if kind != UNKNOWN_TYPE else None, name, folder, project_id)


def _kind(asked_type: str | None, name: str | None, file: Part | None) -> str:
    declared = (file.content_type, named_type(file.file_name)) if file else (None, None)
    return decided_type(asked_type, declared[0], named_type(name), declared[1])


def _json(body: bytes) -> dict[str, Any]:
    try:
        words = json.loads(body)
    except ValueError:
        raise ApiError(400, "invalid_json", "The body is not valid JSON.") from None
    if not isinstance(words, dict):
        raise ApiError(400, fields=[("body", "Expected an object")])
    return words


def _file(part: Part | None, problems: Problems) -> bytes:
    if part is None:
        problems.append(("file", "Required"))
        return b""
    if not part.content:
        problems.append(("file", "Must not be empty"))
    if len(part.content) > MAX_DIRECT:
        problems.append(("file", f"Must be at most {MAX_DIRECT} bytes; send a larger one by signed upload"))
    return part.content


def _unknown(words: dict[str, Any], known: tuple[str, ...]) -> Problems:
    return [(key, "Unrecognized key") for key in words if key not in known]


def _text(words: dict[str, Any], key: str, problems: Problems, *, required: bool = False) -> str | None:
    value = words.get(key)
    if key not in words:
        problems += [(key, "Required")] if required else []
        return None
    if not isinstance(value, str) or not value:
        problems.append((key, "Expected a non-empty string"))
        return None
    return value
