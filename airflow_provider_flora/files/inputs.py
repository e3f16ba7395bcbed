"""The files among the inputs of a run: told apart, checked, and uploaded when nothing else can stop the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_flora.api.assets import content_type_of
from airflow_provider_flora.api.errors import FloraFileError
from airflow_provider_flora.api.inputs import MEDIA_INPUT_TYPES, names_a_file
from airflow_provider_flora.files.source import SourceFile, as_text

if TYPE_CHECKING:
    from airflow_provider_flora.api.client import FloraClient
    from airflow_provider_flora.api.inputs import Inputs
    from airflow_provider_flora.api.models import RunInput, Technique
    from airflow_provider_flora.files.remembering import AssetMemory
    from airflow_provider_flora.runs.starting import Log

_LONGEST_PATH = 4096


class InputFiles:
    """The files among a task's inputs.

    :param given: the inputs as the user gave them.
    :param memory: knows what earlier tries have uploaded.
    :param seed: what tells this task instance from all others.
    """

    def __init__(self, given: Inputs, client: FloraClient, memory: AssetMemory, seed: str, log: Log) -> None:
        self.given = _with_texts(given)
        self._client = client
        self._memory = memory
        self._seed = seed
        self._log = log
        self._files: dict[str, SourceFile] = {}
        self._gone: dict[str, str] = {}
        """SHA-256 of the content of files that an earlier try uploaded, and that are there no longer."""
        self._uploaded: list[RunInput] | None = None

    def digested(self) -> object:
        """Return what two starts must share to be the same: the inputs, and what is in the files they name.

        Read before the technique is known, so without knowing which input is a text: a text that is the name of an
        existing image counts with its content too, which does no harm.

        :raises FloraFileError: a file cannot be read now.
        """
        digests = {name: digest for name in _possible_files(self.given) if (digest := self._digest_of(name))}
        return [self.given, digests] if digests else self.given

    def problem(self, name: str, input_type: str) -> str | None:
        """Tell what is wrong with a file for an input of a type.

        :raises FloraFileError: it cannot be looked at now.
        """
        if name in self._gone:
            return None
        wanted = MEDIA_INPUT_TYPES[input_type]
        try:
            content_type = self._file(name).check()
        except FloraFileError as error:
            if error.remedy.retryable:
                raise
            return str(error)
        if not content_type.startswith(wanted):
            return f"{name!r} is {content_type}"
        return None

    def uploaded(self, entries: Sequence[RunInput], technique: Technique) -> list[RunInput]:
        """Return the inputs with the URL of an asset in place of each file; uploads what is not there yet.

        :raises FloraFileError: a file cannot be read, or Flora would not take it.
        :raises FloraUploadError: a file did not become an asset.
        """
        if self._uploaded is None:
            slots = {slot.id: slot for slot in technique.inputs}
            self._uploaded = [
                entry.model_copy(update={"value": self._url_of(entry.value)})
                if entry.type in MEDIA_INPUT_TYPES and names_a_file(entry.value, slots.get(entry.id))
                else entry
                for entry in entries
            ]
        return self._uploaded

    def _url_of(self, name: str) -> str:
        from airflow_provider_flora.files.uploading import Place, Uploader, workspace_of

        uploader = Uploader(self._client, self._memory, self._log, seed=self._seed)
        place = Place(workspace_of(self._client))
        if name in self._gone:
            place = Place(place.workspace_id, content_type=content_type_of(name))
            asset = uploader.remembered(self._gone[name], place)
            if asset is None:
                raise FloraFileError(f"There is no file {name!r}, and Flora has no asset of it.")
        else:
            asset = uploader.upload(self._file(name), place, under_its_name=False)
        return str(asset.url)

    def _file(self, name: str) -> SourceFile:
        return self._files.setdefault(name, SourceFile(name))

    def _digest_of(self, name: str) -> str | None:
        try:
            return self._file(name).digest()
        except FloraFileError as error:
            if error.remedy.retryable:
                raise
        earlier = self._memory.sha256_of(name)
        if earlier is not None:
            self._gone[name] = earlier
        return earlier


def _with_texts(given: Any) -> Any:
    """Return inputs with the text of each path among their values."""
    if isinstance(given, Mapping):
        return {name: as_text(value) for name, value in given.items()}
    if isinstance(given, (list, tuple)):
        return [
            {**entry, "value": as_text(entry["value"])}
            if isinstance(entry, Mapping) and "value" in entry
            else entry
            for entry in given
        ]
    return given


def _possible_files(given: Any) -> Iterable[str]:
    """Return the values that have the name of an image or a film, and are no web URLs."""
    if isinstance(given, Mapping):
        values = [*given.values()]
    elif isinstance(given, (list, tuple)):
        values = [
            entry.get("value") if isinstance(entry, Mapping) else getattr(entry, "value", None)
            for entry in given
            if (entry.get("type") if isinstance(entry, Mapping) else getattr(entry, "type", None)) != "text"
        ]
    else:
        values = []
    for value in dict.fromkeys(value for value in values if isinstance(value, str)):
        kind = content_type_of(value) or ""
        if (
            kind.startswith(tuple(MEDIA_INPUT_TYPES.values()))
            and names_a_file(value, None)
            and len(value) <= _LONGEST_PATH
            and "\n" not in value
        ):
            yield value
