"""What Flora does with the ids of a workspace and of a project in a request."""

from __future__ import annotations

import re

from airflow_provider_flora.emulator.http.errors import ApiError
from airflow_provider_flora.emulator.state.workspace import WORKSPACE_ID

WORKSPACE_ID_NEEDED = "Must be a workspace id, which starts with ws_"
_WORKSPACE_IDS = re.compile(r"ws_\S+")  # the pattern of Flora's published schema
_PROJECT_IDS = re.compile(r"prj_\S+")


def is_workspace_id(text: str) -> bool:
    """Whether a workspace could have this id."""
    return _WORKSPACE_IDS.fullmatch(text) is not None


def is_own_workspace(text: str | None) -> bool:
    """Whether a list for this workspace shows anything.

    :param text: the query's ``workspace_id``; ``None`` when it has none.
    :raises ApiError: 400 when no workspace could have this id.
    """
    if text is not None and not is_workspace_id(text):
        raise ApiError(400, fields=[("workspace_id", WORKSPACE_ID_NEEDED)])
    return text in (None, WORKSPACE_ID)


def check_project_id(text: str | None) -> None:
    """Refuse an id that no project could have.

    :param text: the ``project_id``; ``None`` when there is none.
    :raises ApiError: 500 without a reason, which is what Flora was measured to answer.
    """
    if text is not None and not _PROJECT_IDS.fullmatch(text):
        raise ApiError(500)
