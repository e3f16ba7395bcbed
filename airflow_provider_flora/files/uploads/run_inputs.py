"""The files among the inputs of a run: finds, checks and uploads them.

Only a start needs them. So neither a storage nor the state store is read before a method is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_flora.api.errors import FloraFileError
from airflow_provider_flora.api.file_types import content_type_of
from airflow_provider_flora.api.inputs import MEDIA_INPUT_TYPES, names_a_file
from airflow_provider_flora.files.storage import as_text
from airflow_provider_flora.files.uploads.source import SourceFile

if TYPE_CHECKING:
    from airflow_provider_flora.api.client import FloraClient
    from airflow_provider_flora.api.inputs import Inputs
    from airflow_provider_flora.api.models import RunInput, Technique
    from airflow_provider_flora.files.uploads.record import UploadRecord
    from airflow_provider_flora.task.log import Log

_LONGEST_PATH = 4096


class InputFiles:
    """The files among a task's inputs.

    :param inputs: the task's inputs, as the user named them. The attribute holds paths as texts: plain JSON.
    :param client: client for uploads.
    :param record: record of earlier uploads.
    :param seed: text that is unique to this execution, for idempotency keys.
    :param log: the task's log.
    """

    def __init__(self, inputs: Inputs, client: FloraClient, record: UploadRecord, seed: str, log: Log) -> None:
        self.inputs = with_texts(inputs)
        self._client = client
        self._record = record
        self._seed = seed
        self._log = log
        self._files: dict[str, SourceFile] = {}
        self._gone: dict[str, str] = {}
        """SHA-256 of files that an earlier attempt uploaded and that no longer exist."""
        self._uploaded: list[RunInput] | None = None

    def compute_digests(self) -> dict[str, str]:
        """Return the SHA-256 by name of the files among the inputs.

        The types of the inputs are not known here, so a text that names an existing image counts too. A file that
        no longer exists counts with its content at its upload.

        :raises FloraFileError: a file cannot be read now.
        """
        return {name: digest for name in possible_files(self.inputs) if (digest := self._compute_digest(name))}

    def find_problem(self, name: str, input_type: str) -> str | None:
        """Return the problem of a file for an input type, or ``None`` if there is none.

        :raises FloraFileError: the file cannot be read now.
        """
        try:
            return problem_of(self._file(name), input_type)
        except FloraFileError as error:
            if error.remedy.retryable:
                raise
            return None if self._is_gone(name) else str(error)

    def upload(self, entries: Sequence[RunInput], technique: Technique) -> list[RunInput]:
        """Upload each file that is not at Flora yet. Return the inputs with URLs in place of files.

        :raises FloraFileError: a file cannot be read, or Flora does not accept it.
        :raises FloraUploadError: an upload failed.
        """
        if self._uploaded is None:
            slots = {slot.id: slot for slot in technique.inputs}
            self._uploaded = [
                entry.model_copy(update={"value": self._get_url(entry.value)})
                if entry.type in MEDIA_INPUT_TYPES and names_a_file(entry.value, slots.get(entry.id))
                else entry
                for entry in entries
            ]
        return self._uploaded

    def _get_url(self, name: str) -> str:
        from airflow_provider_flora.files.uploads.uploader import Place, Uploader, workspace_of

        uploader = Uploader(self._client, self._record, self._log, seed=self._seed)
        place = Place(workspace_of(self._client))
        if self._is_gone(name):
            place = Place(place.workspace_id, content_type=content_type_of(name))
            asset = uploader.find_uploaded(self._gone[name], place)
            if asset is None:
                raise FloraFileError(f"The file {name!r} does not exist, and Flora has no asset of it.")
        else:
            asset = uploader.upload(self._file(name), place, by_name=False)
        return str(asset.url)

    def _file(self, name: str) -> SourceFile:
        return self._files.setdefault(name, SourceFile(name))

    def _is_gone(self, name: str) -> bool:
        """Whether a file no longer exists, and an earlier attempt has uploaded it."""
        self._compute_digest(name)
        return name in self._gone

    def _compute_digest(self, name: str) -> str | None:
        try:
            return self._file(name).compute_digest()
        except FloraFileError as error:
            if error.remedy.retryable:
                raise
        earlier = self._record.sha256_of(name)
        if earlier is not None:
            self._gone[name] = earlier
        return earlier


def problem_of(file: SourceFile, input_type: str) -> str | None:
    """Return the problem of a file's type for an input type, or ``None`` if there is none.

    :raises FloraFileError: the file cannot be read, or Flora does not accept it.
    """
    content_type = file.check()
    return (
        None if content_type.startswith(MEDIA_INPUT_TYPES[input_type]) else f"{file.location!r} is {content_type}"
    )


def with_texts(inputs: Any) -> Any:
    """Return inputs of either form as plain JSON, with paths as texts."""
    if isinstance(inputs, Mapping):
        return {name: as_text(value) for name, value in inputs.items()}
    if isinstance(inputs, (list, tuple)):
        return [_with_text(entry) for entry in inputs]
    return inputs


def _with_text(entry: Any) -> Any:
    from airflow_provider_flora.api.models import RunInput

    if isinstance(entry, RunInput):
        return entry.model_dump()
    return {**entry, "value": as_text(entry["value"])} if isinstance(entry, Mapping) and "value" in entry else entry


def possible_files(inputs: Any) -> Iterable[str]:
    """Return the values that look like file names of images or videos, without web URLs."""
    for value in possible_media(inputs):
        kind = content_type_of(value) or ""
        if (
            kind.startswith(tuple(MEDIA_INPUT_TYPES.values()))
            and names_a_file(value, None)
            and len(value) <= _LONGEST_PATH
            and "\n" not in value
        ):
            yield value


def possible_media(inputs: Any) -> Iterable[str]:
    """Return the texts among the values of inputs, each once, without those whose type is known to be ``text``."""
    if isinstance(inputs, Mapping):
        values = [*inputs.values()]
    elif isinstance(inputs, list):
        entries = [entry for entry in inputs if isinstance(entry, Mapping)]
        values = [entry.get("value") for entry in entries if entry.get("type") != "text"]
    else:
        values = []
    return dict.fromkeys(value for value in values if isinstance(value, str))
