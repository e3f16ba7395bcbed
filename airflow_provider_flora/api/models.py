"""The wire: what Flora sends and takes, as models. No rules, no I/O.

Reading is tolerant where Flora may grow: unknown fields are left out, an unknown status, type or code is kept
as the string it is, and an absent optional field is ``None``. What a client cannot do without (an id, a status)
is required.

Sources: the vendor's API pages; ``accepts_element``, ``allow_multiple`` and ``optional`` from the vendor's SDK;
``slug`` from the vendor's developer site; assets from the SDK.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


def _flag(value: object) -> object:
    return False if value is None else value


def _items(value: object) -> object:
    return [] if value is None else value


def _object(value: object) -> object:
    return {} if value is None else value


def _words(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _only_objects(value: object) -> object:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _with_asset_id(value: object) -> object:
    if not isinstance(value, list):
        return value
    return [entry for entry in value if not (isinstance(entry, dict) and entry.get("asset_id") is None)]


Flag = Annotated[bool, BeforeValidator(_flag)]
Milliseconds = int | float | None
"""Unix time in milliseconds (the SDK says so of webhooks; the API's pages say "number")."""


class Slot(_Wire):
    """An input or output that a technique declares.

    :param id: what a run's input refers to.
    :param type: ``imageUrl``, ``videoUrl``, ``audioUrl``, ``text`` or ``documentUrl``; others may come.
    :param optional: may be left out of a run.
    :param accepts_element: takes the id of an element in place of a URL.
    :param allow_multiple: takes several values, *one run for each*.
    :param specified_duration: required duration in seconds.
    """

    id: str
    type: str
    name: str | None = None
    description: str | None = None
    optional: Flag = False
    accepts_element: Flag = False
    allow_multiple: Flag = False
    specified_aspect_ratio: str | None = None
    specified_duration: float | None = None


class Technique(_Wire):
    """A saved creative workflow.

    :param run_cost: price of one run in USD; ``None`` if Flora did not say.
    """

    technique_id: str
    name: str
    run_cost: float | None = None
    inputs: Annotated[list[Slot], BeforeValidator(_items)] = Field(default_factory=list)
    outputs: Annotated[list[Slot], BeforeValidator(_items)] = Field(default_factory=list)
    description: str | None = None
    slug: str | None = None


class RunInput(_Wire):
    """One value that a run is given: ``{"id": ..., "type": ..., "value": ...}``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    type: str
    value: str


class RunOutput(_Wire):
    """One thing that a run returned.

    :param url: a URL, or *the text itself* when ``type`` is ``text``.
    """

    output_id: str
    type: str
    url: str


class RunTechnique(_Wire):
    """The technique of a run, as the history names it."""

    technique_id: str
    name: str | None = None


class Run(_Wire):
    """One execution of a technique.

    Only ``status`` tells how a run stands: a failed one has ``progress`` 100 and ``completed_at`` too.

    :param status: ``pending``, ``running``, ``completed`` or ``failed``; any other counts as still active.
    :param progress: 0 to 100.
    :param charged_cost: USD. Before completion a quote; after it absent for a while, then what was charged.
    :param technique: in the history only, like ``workspace_id`` and ``project_id``.
    :param request_id: not the run's own: of the answer that brought it, for Flora's support.
    """

    run_id: str
    status: str
    progress: Annotated[float, BeforeValidator(lambda value: 0 if value is None else value)] = 0
    created_at: Milliseconds = None
    started_at: Milliseconds = None
    completed_at: Milliseconds = None
    charged_cost: float | None = None
    error_code: str | None = None
    error_message: str | None = None
    outputs: Annotated[list[RunOutput], BeforeValidator(_items)] = Field(default_factory=list)
    technique: RunTechnique | None = None
    workspace_id: str | None = None
    project_id: str | None = None
    request_id: str | None = None

    @property
    def completed(self) -> bool:
        """Whether the run ended well."""
        return self.status == "completed"

    @property
    def failed(self) -> bool:
        """Whether the run ended badly."""
        return self.status == "failed"

    @property
    def finished(self) -> bool:
        """Whether the run has ended, well or badly."""
        return self.status in ("completed", "failed")

    @property
    def settled(self) -> bool:
        """Whether nothing more is to come of the run: it failed, or it completed and its cost is known."""
        return self.failed or (self.completed and self.charged_cost is not None)


class UploadTarget(_Wire):
    """Where the bytes of a signed upload go: a presigned form. Whoever has it may write there, so no repr shows it.

    :param form_fields: to be sent before the file.
    """

    url: str = Field(repr=False)
    method: str = "POST"
    file_field: str = "file"
    form_fields: dict[str, str] = Field(default_factory=dict, repr=False)


class Asset(_Wire):
    """A file at Flora.

    :param status: ``pending_upload``, ``ready`` or ``failed``; any other counts as not ready yet.
    :param url: what a run's media input takes, once the asset is ready.
    :param uploaded_via: ``direct``, ``signed_url`` or ``url``.
    :param upload: where to send the bytes, in the answer to a reservation only, as is ``upload_url``: where to
        ``PUT`` them if there is no form.
    :param replayed: not the asset's own: Flora gave the answer to an earlier request with the same key again.
    """

    asset_id: str
    status: str
    url: str | None = None
    name: str | None = None
    content_type: str | None = None
    size_bytes: int | None = None
    width: int | None = None
    height: int | None = None
    workspace_id: str | None = None
    uploaded_via: str | None = None
    failure_message: str | None = None
    upload: UploadTarget | None = Field(default=None, repr=False)
    upload_url: str | None = Field(default=None, repr=False)
    replayed: bool = False

    @property
    def ready(self) -> bool:
        """Whether its ``url`` can be used."""
        return self.status == "ready"

    @property
    def failed(self) -> bool:
        """Whether Flora could not make anything of it."""
        return self.status == "failed"


class Workspace(_Wire):
    """A workspace that a key opens. One key belongs to one workspace (developer site)."""

    workspace_id: str
    name: str | None = None
    role: str | None = None


class Meta(_Wire):
    """Where a page of a list goes on: nowhere when ``next_cursor`` is absent, null or empty."""

    next_cursor: str | None = None


PageMeta = Annotated[Meta, BeforeValidator(_object)]


class TechniquePage(_Wire):
    """One page of ``GET /techniques``."""

    techniques: list[Technique]
    meta: PageMeta = Meta()

    @property
    def items(self) -> list[Technique]:
        """What the page holds."""
        return self.techniques


class RunPage(_Wire):
    """One page of ``GET /technique-runs``, newest first."""

    technique_runs: list[Run]
    meta: PageMeta = Meta()

    @property
    def items(self) -> list[Run]:
        """What the page holds."""
        return self.technique_runs


class AssetPage(_Wire):
    """One page of ``GET /assets``. What has no id yet, which the SDK's types allow for, is left out."""

    assets: Annotated[list[Asset], BeforeValidator(_with_asset_id)]
    meta: PageMeta = Meta()

    @property
    def items(self) -> list[Asset]:
        """What the page holds."""
        return self.assets


class WorkspaceList(_Wire):
    """The answer to ``GET /workspaces``."""

    workspaces: list[Workspace]


class FieldError(_Wire):
    """What Flora says is wrong with one field of a request."""

    field: Annotated[str, BeforeValidator(_words)] = ""
    message: Annotated[str, BeforeValidator(_words)] = ""


class ErrorWords(_Wire):
    """How Flora words an error. Of whatever else a proxy in front may put there, nothing is required."""

    code: Annotated[str | None, BeforeValidator(lambda value: value if isinstance(value, str) else None)] = None
    message: Annotated[str, BeforeValidator(lambda value: value if isinstance(value, str) else "")] = ""
    fields: Annotated[list[FieldError], BeforeValidator(_only_objects)] = Field(default_factory=list)


class ErrorAnswer(_Wire):
    """The body of an error."""

    error: ErrorWords
