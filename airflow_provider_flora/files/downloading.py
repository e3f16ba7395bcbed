"""The outputs of a run become files: which of them are there already, and how the others are brought there.

Where a file may come from is in ``fetching``, how it is put down whole in ``destination``, its name in ``naming``.

What is there already is not fetched again. Airflow's task state store (3.3 and later) keeps what this task has put
down: name, size, SHA-256 and the storage's own version of it. If the storage still says the same, nothing is asked
of anybody else. Without such a record, the head of Flora's answer is compared with the file that has its name: it
must have the length, and the checksum where the server gives one; else the name must stand for this output alone.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_flora.api import protocol
from airflow_provider_flora.api.errors import FloraError, FloraParameterError
from airflow_provider_flora.files.checksum import Sha256
from airflow_provider_flora.files.destination import Destination, FloraStorageError
from airflow_provider_flora.files.fetching import Answer, FloraDownloadError, MediaClient
from airflow_provider_flora.files.naming import (
    DEFAULT_FILE_NAME,
    TEXT,
    check_file_name,
    name_of,
    tells_outputs_apart,
    type_of,
)
from airflow_provider_flora.runs.parameters import given
from airflow_provider_flora.runs.task_state import keep

if TYPE_CHECKING:
    from airflow_provider_flora.api.models import Run, RunOutput
    from airflow_provider_flora.api.settings import ClientSettings
    from airflow_provider_flora.runs.starting import Log

AT_ONCE = 4
MAX_SECONDS = 2 * 3600.0
"""For one file, all its tries together. Airflow's ``execution_timeout`` ends it earlier."""
LARGE_BYTES = 16 * 1024 * 1024
"""From this size on the log tells of progress: each 10 %, or each 10 s."""
PROGRESS_SECONDS = 10.0
_GET = protocol.Request("GET", "")


@dataclass(frozen=True)
class OutputFile:
    """A file that an output became.

    :param uri: ``ObjectStoragePath(uri)`` opens it.
    :param sha256: in hex.
    """

    uri: str
    media_type: str
    bytes: int
    sha256: str
    output_id: str


class FilesRecord:
    """What a task has put down so far, in Airflow's task state store; without one, nothing.

    :param store: ``context["task_state_store"]``.
    :param of: what the record stands for: another run or folder has another.
    """

    _KEY = "flora_files"

    def __init__(self, store: Any, of: Sequence[str], log: Log) -> None:
        self._store = store
        self._of = list(of)
        self._log = log
        stored = store.get(self._KEY) if store is not None else None
        self._files: dict[str, dict[str, Any]] = {}
        if isinstance(stored, dict) and stored.get("of") == self._of:
            self._files = stored["files"]

    def get(self, output: str) -> dict[str, Any] | None:
        """Return what is known of an output's file."""
        return self._files.get(output)

    def add(self, output: str, file: OutputFile, version: str | None) -> None:
        """Keep a file. That it cannot be kept costs a later try some time, and nothing else."""
        if self._store is None or version is None:
            return
        self._files[output] = {**asdict(file), "version": version}
        try:
            keep(self._store, self._KEY, {"of": self._of, "files": self._files})
        except Exception as error:
            self._log.warning("Could not note that %s is there: %s", file.uri, error)


@dataclass(frozen=True)
class _Item:
    """An output to put down.

    :param key: the output's id, told apart from those of the same id.
    """

    output: RunOutput
    key: str
    index: int


class _Stopped(Exception):  # noqa: N818  it is no error of its own
    """The task ends."""


class Downloads:
    """Puts the outputs of a run into a folder.

    :param folder: where to; see :class:`~airflow_provider_flora.files.destination.Destination`.
    :param file_name: a format; see :mod:`~airflow_provider_flora.files.naming`. Default where a template finds
        nothing: ``DEFAULT_FILE_NAME``.
    :raises FloraParameterError: one of the two cannot be used. Made before a run is started, it costs nothing.
    """

    def __init__(self, folder: Any, file_name: str | None, log: Log) -> None:
        self._template = given(file_name) or DEFAULT_FILE_NAME
        check_file_name(self._template)
        self._destination = Destination(folder)
        self._log = log
        self._stop = threading.Event()

    def check_folder(self) -> None:
        """Try whether the folder can be written to.

        :raises FloraStorageError: it cannot.
        """
        self._destination.check()

    def fetch(
        self, run: Run, technique_id: str, settings: ClientSettings, store: Any = None
    ) -> list[dict[str, Any]]:
        """Put the outputs down and return their files, in the order of the outputs.

        One that fails does not keep the others from being put down.

        :param store: Airflow's task state store, if there is one.
        :raises FloraDownloadError: an output could not be fetched.
        :raises FloraStorageError: a file could not be stored.
        """
        items = list(_items(run.outputs))
        record = FilesRecord(store, [run.run_id, str(self._destination), self._template], self._log)
        one = _OneOutput(
            self._destination, self._template, run.run_id, technique_id, settings, self._log, self._stop
        )
        files: dict[str, OutputFile] = {}
        failures: dict[int, FloraError] = {}
        for item in items:
            if kept := self._kept(record.get(item.key)):
                one.claim(kept.uri.rpartition("/")[2], item.key)
                files[item.key] = kept
        missing = [item for item in items if item.key not in files]
        with closing(self._in_threads(one, missing)) as ended:
            for item, future in ended:
                try:
                    file, version = future.result()
                except FloraError as error:
                    failures[item.index] = error
                else:
                    files[item.key] = file
                    record.add(item.key, file, version)  # not in the thread: one alone talks to Airflow
        if failures:
            raise _all_in_one([failures[index] for index in sorted(failures)], done=len(files))
        return [asdict(files[item.key]) for item in items]

    def _kept(self, known: Mapping[str, Any] | None) -> OutputFile | None:
        """Return the file that an earlier try put down, if it is still there as it was."""
        if known is None:
            return None
        stored = self._destination.stored(known["uri"].rpartition("/")[2])
        if stored is None or (stored.bytes, stored.version) != (known["bytes"], known["version"]):
            return None
        self._log.info("%s is there already", known["uri"])
        return OutputFile(**{name: value for name, value in known.items() if name != "version"})

    def _in_threads(
        self, one: _OneOutput, items: Sequence[_Item]
    ) -> Generator[tuple[_Item, Future[tuple[OutputFile, str | None]]], None, None]:
        pool = ThreadPoolExecutor(AT_ONCE, "flora-download")
        try:
            waiting = {pool.submit(one.put_down, item): item for item in items}
            while waiting:
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield waiting.pop(future), future
        except BaseException:
            self._stop.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


class _OneOutput:
    """Puts down one output after the other, in several threads at once."""

    def __init__(
        self,
        destination: Destination,
        template: str,
        run_id: str,
        technique_id: str,
        settings: ClientSettings,
        log: Log,
        stop: threading.Event,
    ) -> None:
        self._destination = destination
        self._template = template
        self._run_id = run_id
        self._technique_id = technique_id
        self._settings = settings
        self._media = MediaClient(settings)
        self._log = log
        self._stop = stop
        self._names: dict[str, str] = {}
        self._names_lock = threading.Lock()

    def claim(self, name: str, key: str) -> None:
        """Take a name for an output.

        :raises FloraParameterError: another output of the run has it.
        """
        with self._names_lock:
            # Some file systems take two names for one that differ in their capitals only.
            owner = self._names.setdefault(name.casefold(), key)
        if owner != key:
            raise FloraParameterError(
                f"file_name={self._template!r} gives the outputs {owner!r} and {key!r} of {self._run_id} one name, "
                f"{name!r}. Tell them apart with {{output_id}} or {{index}}, then clear the task: the run is taken "
                "up, not paid again."
            )

    def put_down(self, item: _Item) -> tuple[OutputFile, str | None]:
        """Put an output down and return its file, with the storage's version of it."""
        if item.output.type == "text":
            return self._put_text(item)
        ends = time.monotonic() + MAX_SECONDS
        attempt = 0
        while True:
            attempt += 1
            try:
                return self._try(item, ends)
            except FloraDownloadError as error:
                pause = protocol.pause_before_retry(error, attempt, _GET, self._settings.timeout)
                in_time = time.monotonic() + pause < ends
                last = attempt > self._settings.max_retries or not in_time or not protocol.is_worth_retrying(error)
                if last or self._stop.is_set():
                    raise self._failure(item, error, attempt) from error
                self._log.warning("Output %s of %s: %s; asking again", item.key, self._run_id, error)
            if self._stop.wait(pause):
                raise _Stopped

    def _put_text(self, item: _Item) -> tuple[OutputFile, str | None]:
        media_type, ext = TEXT
        name = self._name(item, ext)
        content = item.output.url.encode(errors="replace")
        sha256 = hashlib.sha256(content).hexdigest()
        stored = self._destination.stored(name)
        if stored is None or stored.bytes != len(content) or self._destination.digests(name)[0] != sha256:
            with self._destination.writing(name) as sink:
                sink.write(content)
                sink.finish()
        file = OutputFile(self._destination.uri(name), media_type, len(content), sha256, item.key)
        return self._check_stored(name, file)

    def _try(self, item: _Item, ends: float) -> tuple[OutputFile, str | None]:
        with self._media.get(item.output.url) as answer:
            try:
                media_type, ext = type_of(item.output.type, answer.content_type, item.output.url)
            except ValueError as error:
                # A page in place of a picture may be a cache's that is ill for a moment.
                raise FloraDownloadError(f"what came {error}", transient=True) from None
            name = self._name(item, ext)
            if found := self._there_already(item, name, media_type, answer):
                return found
            size, sha256 = self._write(name, answer, ends)
        file = OutputFile(self._destination.uri(name), media_type, size, sha256, item.key)
        return self._check_stored(name, file)

    def _name(self, item: _Item, ext: str) -> str:
        name = name_of(
            self._template,
            technique=self._technique_id,
            run_id=self._run_id,
            output_id=item.key,
            index=item.index,
            ext=ext,
        )
        self.claim(name, item.key)
        return name

    def _there_already(
        self, item: _Item, name: str, media_type: str, answer: Answer
    ) -> tuple[OutputFile, str | None] | None:
        stored = self._destination.stored(name)
        if stored is None or answer.is_encoded or stored.bytes != answer.length:
            return None
        if answer.md5 is None and not tells_outputs_apart(self._template):
            return None  # a file of another run may have that name and that length
        sha256, md5 = self._destination.digests(name)
        if answer.md5 not in (None, md5):
            return None
        uri = self._destination.uri(name)
        self._log.info("%s is there already", uri)
        return OutputFile(uri, media_type, stored.bytes, sha256, item.key), stored.version

    def _write(self, name: str, answer: Answer, ends: float) -> tuple[int, str]:
        progress = _Progress(self._destination.uri(name), answer.length, self._log)
        with self._destination.writing(name) as sink, Sha256() as sha256:
            for chunk in answer.chunks(ends):
                if self._stop.is_set():
                    raise _Stopped
                sha256.add(chunk)
                sink.write(chunk)
                progress.add(len(chunk))
            digest = sha256.end()
            sink.finish()
        progress.end()
        return progress.size, digest

    def _check_stored(self, name: str, file: OutputFile) -> tuple[OutputFile, str | None]:
        stored = self._destination.stored(name)
        if stored is None or stored.bytes != file.bytes:
            size = "not there" if stored is None else f"{stored.bytes} bytes long"
            raise FloraStorageError(f"{file.uri} is {size} after {file.bytes} bytes were put there")
        return file, stored.version

    def _failure(self, item: _Item, error: FloraDownloadError, attempts: int) -> FloraDownloadError:
        text = f"Output {item.key!r} of run {self._run_id} of technique {self._technique_id!r} "
        text += f"was not downloaded: {error}"
        text += f" (asked {attempts} times)." if attempts > 1 else "."
        if error.gone:
            text += (
                " The URL has expired or the file is gone: Flora does not promise its URLs for ever. A retry takes "
                "up the same run and asks Flora for its URLs of now, at no cost. If that does not help, only a new "
                "run brings a new file: trigger a new DAG run."
            )
        else:
            text += " The run is not lost: a retry takes it up, at no cost, and fetches what is not there yet."
        return FloraDownloadError(text, gone=error.gone)


class _Progress:
    """Tells the log how far a large file is."""

    def __init__(self, uri: str, length: int | None, log: Log) -> None:
        self.size = 0
        self._uri = uri
        self._length = length
        self._log = log
        self._began = self._told_at = time.monotonic()
        self._told_tenth = 0

    def add(self, count: int) -> None:
        """Count what came."""
        self.size += count
        if self.size < LARGE_BYTES and (self._length or 0) < LARGE_BYTES:
            return
        tenth = self.size * 10 // self._length if self._length else 0
        now = time.monotonic()
        if tenth == self._told_tenth and now - self._told_at < PROGRESS_SECONDS:
            return
        self._told_tenth, self._told_at = tenth, now
        share = f" ({100 * self.size / self._length:.0f} %%)" if self._length else ""
        self._log.info("%s: %.1f MB" + share, self._uri, self.size / 1e6)

    def end(self) -> None:
        """Say that the file is there."""
        seconds = time.monotonic() - self._began
        self._log.info("Downloaded %s: %.1f MB in %.1f s", self._uri, self.size / 1e6, seconds)


def _items(outputs: Sequence[RunOutput]) -> Iterator[_Item]:
    """Give each output a key: its id, and a number where the run has several of that id."""
    seen: Counter[str] = Counter()
    ids = {output.output_id for output in outputs}
    for index, output in enumerate(outputs):
        seen[output.output_id] += 1
        key = output.output_id if seen[output.output_id] == 1 else f"{output.output_id}-{seen[output.output_id]}"
        while key != output.output_id and key in ids:
            seen[output.output_id] += 1
            key = f"{output.output_id}-{seen[output.output_id]}"
        yield _Item(output, key, index)


def _all_in_one(failures: Sequence[FloraError], done: int) -> FloraError:
    """Return the error to raise: the one there is, or one that tells of all."""
    if len(failures) == 1:
        return failures[0]
    for failure in failures:
        if not failure.remedy.retryable:
            return failure
    lines = "".join(f"\n  - {failure}" for failure in failures)
    return FloraDownloadError(f"{len(failures)} outputs were not downloaded, {done} were:{lines}")


__all__ = ["AT_ONCE", "DEFAULT_FILE_NAME", "Downloads", "FilesRecord", "OutputFile"]
