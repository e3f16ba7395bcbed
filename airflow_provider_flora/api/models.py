"""Flora's requests and answers as models. No rules, no I/O.

Reading is lenient, as ``lenient`` defines it. Only ids and statuses are required. An entry of a list without them
is left out. Any other unreadable field counts as absent. Unknown fields are ignored. Unknown statuses, types and
codes stay as they are.

Sources: the vendor's API pages; ``accepts_element``, ``allow_multiple`` and ``optional`` from the vendor's SDK;
``slug`` from the vendor's developer site; assets from the SDK.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from airflow_provider_flora.api import lenient
from airflow_provider_flora.api.lenient import Else


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)


def _items(value: object) -> object:
    return [] if value is None else value


def _object(value: object) -> object:
    return {} if value is None else value


def _words(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _only_objects(value: object) -> object:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


Id = Annotated[str, Field(min_length=1)]
_PUBLIC_ID = r"^[A-Za-z0-9_.-]{1,200}$"
Text = Annotated[str | None, Else(lenient.text)]
Message = Annotated[Annotated[str, Field(max_length=lenient.LONGEST_MESSAGE)] | None, Else(lenient.message)]
"""What a person reads: whoever sent megabytes of it did not mean them to be stored and logged."""
Flag = Annotated[bool, Else(lenient.no)]
# Strict: otherwise pydantic reads true as a price of 1.
_Number = Annotated[float, Field(strict=True, ge=0)]
_WholeNumber = Annotated[int, Field(strict=True, ge=0)]
Number = Annotated[_Number | None, Else(lenient.number)]
Count = Annotated[_WholeNumber | None, Else(lenient.count)]
_Time = Annotated[int, Field(strict=True, ge=0, le=lenient.LAST_MILLISECOND)]
_FineTime = Annotated[float, Field(strict=True, ge=0, le=lenient.LAST_MILLISECOND)]
_AnyTime = Annotated[_Time | _FineTime, Field(union_mode="left_to_right")]
Milliseconds = Annotated[_AnyTime | None, Else(lenient.milliseconds)]
"""Unix time in milliseconds (the SDK says so for webhooks; the API's pages say "number")."""


class Slot(_Wire):
    """An input or output that a technique declares.

    :param id: id that a run's input or output refers to.
    :param type: ``imageUrl``, ``videoUrl``, ``audioUrl``, ``text`` or ``documentUrl``; others may follow.
    :param optional: whether a run may leave it out.
    :param accepts_element: whether the id of an element may replace a URL.
    :param allow_multiple: "multiple values may be provided for this input (one run per value)" (SDK). One run still
        has one value for each input.
    :param specified_duration: required duration in seconds.
    """

    id: Id
    type: str
    name: Text = None
    description: Text = None
    optional: Flag = False
    accepts_element: Flag = False
    allow_multiple: Flag = False
    specified_aspect_ratio: Text = None
    specified_duration: Number = None


class Technique(_Wire):
    """A saved creative workflow. An unreadable input is an error here, since inputs decide what is paid for.

    :param run_cost: price of one run in USD; ``None`` if Flora did not name one.
    """

    technique_id: Id
    name: Annotated[str, Else(lenient.words)] = ""
    run_cost: Number = None
    inputs: Annotated[list[Slot], BeforeValidator(_items)] = Field(default_factory=list)
    outputs: Annotated[list[Annotated[Slot, Else(lenient.leave_out)]], Else(lenient.empty_list)] = Field(
        default_factory=list
    )
    description: Text = None
    slug: Text = None


class RunInput(_Wire):
    """One input of a run: ``{"id": ..., "type": ..., "value": ...}``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    type: str
    value: str


class RunOutput(_Wire):
    """One output of a run. It is paid for, so no field is required.

    :param url: a URL, or *the text itself* when ``type`` is ``text``; ``None`` if Flora has not sent it yet.
    """

    output_id: Annotated[str, Else(lenient.words)] = ""
    type: Annotated[str, Else(lenient.words)] = ""
    url: Text = None


class RunTechnique(_Wire):
    """The technique of a run in the history."""

    technique_id: Id
    name: Text = None


class Run(_Wire):
    """One execution of a technique.

    Only ``status`` shows the state of a run: a failed one has ``progress`` 100 and ``completed_at`` too.

    :param status: ``pending``, ``running``, ``completed`` or ``failed``. Any other status counts as active until
        ``completed_at`` is set.
    :param progress: 0 to 100.
    :param charged_cost: USD. Before completion a quote, after it absent for a while, then the amount charged.
    :param technique: sent in the history only, like ``workspace_id`` and ``project_id``.
    :param request_id: request id of the answer that contained the run, for Flora's support.
    """

    run_id: Id
    status: str
    progress: Annotated[float, Field(strict=True, ge=0, le=100), Else(lenient.progress)] = 0
    created_at: Milliseconds = None
    started_at: Milliseconds = None
    completed_at: Milliseconds = None
    charged_cost: Number = None
    error_code: Text = None
    error_message: Message = None
    outputs: Annotated[list[Annotated[RunOutput, Else(lenient.leave_out)]], Else(lenient.empty_list)] = Field(
        default_factory=list
    )
    technique: Annotated[RunTechnique | None, Else(lenient.nothing)] = None
    workspace_id: Text = None
    project_id: Text = None
    request_id: Text = None

    @property
    def completed(self) -> bool:
        """Whether the run has completed."""
        return self.status == "completed"

    @property
    def failed(self) -> bool:
        """Whether the run has ended without completing: it failed, or has an unknown final status."""
        if self.status in ("pending", "running", "completed"):
            return False
        return self.status == "failed" or self.completed_at is not None

    @property
    def finished(self) -> bool:
        """Whether the run has completed or failed."""
        return self.completed or self.failed

    @property
    def settled(self) -> bool:
        """Whether the run will not change any more: it failed, or it completed and its cost is known."""
        return self.failed or (self.completed and self.charged_cost is not None)


class WebhookRun(_Wire):
    """The run that a webhook is about.

    :param run_type: ``technique`` or ``generation``.
    """

    run_id: Annotated[str, Field(pattern=_PUBLIC_ID)]
    run_type: Text = None
    workspace_id: Text = None
    error_code: Text = None
    error_message: Message = None


class Webhook(_Wire):
    """A webhook: a run has ended. Its outputs are not in it.

    :param id: ``whd_…``, the same in each delivery of this webhook.
    :param type: ``run.completed``, ``run.failed``, or a type that is new.
    :param data: the run; ``None`` if there is none, as a new type may have it.
    """

    id: Annotated[str, Field(pattern=_PUBLIC_ID)]
    type: str
    data: Annotated[WebhookRun | None, Else(lenient.nothing)] = None

    @property
    def status(self) -> str | None:
        """``completed`` or ``failed``; ``None`` if this is not the end of a run."""
        return {"run.completed": "completed", "run.failed": "failed"}.get(self.type)


class UploadTarget(_Wire):
    """The presigned form of a signed upload. It grants write access, so its repr does not show it.

    :param form_fields: fields that come before the file.
    """

    url: str = Field(repr=False)
    method: str = "POST"
    file_field: str = "file"
    form_fields: dict[str, str] = Field(default_factory=dict, repr=False)


class FloraAsset(_Wire):
    """A file at Flora.

    :param status: ``pending_upload``, ``ready`` or ``failed``. Any other status counts as not ready.
    :param url: URL for a run's media input, once the asset is ready.
    :param uploaded_via: ``direct``, ``signed_url`` or ``url``.
    :param upload: form to send the bytes with. Only answers to reservations have it.
    :param upload_url: URL to ``PUT`` the bytes to, if there is no form.
    :param replayed: whether Flora repeated its answer to an earlier request with the same idempotency key.
    """

    asset_id: Id
    status: str
    url: Text = None
    name: Text = None
    content_type: Text = None
    size_bytes: Count = None
    width: Count = None
    height: Count = None
    workspace_id: Text = None
    uploaded_via: Text = None
    failure_message: Message = None
    upload: Annotated[UploadTarget | None, Else(lenient.nothing)] = Field(default=None, repr=False)
    upload_url: Text = Field(default=None, repr=False)
    replayed: bool = False

    @property
    def ready(self) -> bool:
        """Whether the ``url`` can be used."""
        return self.status == "ready"

    @property
    def failed(self) -> bool:
        """Whether Flora could not process the file."""
        return self.status == "failed"


class Workspace(_Wire):
    """A workspace of an API key. One key belongs to one workspace (developer site)."""

    workspace_id: Id
    name: Text = None
    role: Text = None


class Meta(_Wire):
    """The link to the next page of a list. The last page has no ``next_cursor``, null or an empty one."""

    next_cursor: str | None = None


PageMeta = Annotated[Meta, BeforeValidator(_object)]


class TechniquePage(_Wire):
    """One page of ``GET /techniques``."""

    techniques: list[Annotated[Technique, Else(lenient.leave_out)]]
    meta: PageMeta = Meta()

    @property
    def items(self) -> list[Technique]:
        """The items of the page."""
        return self.techniques


class RunPage(_Wire):
    """One page of ``GET /technique-runs``, newest first."""

    technique_runs: list[Annotated[Run, Else(lenient.leave_out)]]
    meta: PageMeta = Meta()

    @property
    def items(self) -> list[Run]:
        """The items of the page."""
        return self.technique_runs


class FloraAssetPage(_Wire):
    """One page of ``GET /assets``. Assets without an id, which the SDK's types allow, are left out."""

    assets: list[Annotated[FloraAsset, Else(lenient.leave_out)]]
    meta: PageMeta = Meta()

    @property
    def items(self) -> list[FloraAsset]:
        """The items of the page."""
        return self.assets


class WorkspaceList(_Wire):
    """The answer to ``GET /workspaces``."""

    workspaces: list[Annotated[Workspace, Else(lenient.leave_out)]]


class FieldError(_Wire):
    """Flora's error message for one field of a request."""

    field: Annotated[str, BeforeValidator(_words)] = ""
    message: Annotated[str, BeforeValidator(_words)] = ""


def _code(value: object) -> object:
    return value or None if isinstance(value, str) else None


class ErrorWords(_Wire):
    """The code and texts of an error. A proxy in front of Flora may send anything, so no field is required."""

    code: Annotated[str | None, BeforeValidator(_code)] = None
    message: Annotated[
        str, BeforeValidator(lambda value: lenient.message(value) if isinstance(value, str) else "")
    ] = ""
    fields: Annotated[list[FieldError], BeforeValidator(_only_objects)] = Field(default_factory=list)


class ErrorAnswer(_Wire):
    """The body of an error."""

    error: ErrorWords
