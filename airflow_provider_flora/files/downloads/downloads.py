"""Downloads the outputs of a run. Existing files are not downloaded again.

``fetching`` gets a file from the web, ``destination`` stores it, ``naming`` names it. The run is paid, so every
error here is retryable. Outputs with the same name get different suffixes.

Airflow's task state store (3.3 and later) holds the files that the task has stored: name, size, SHA-256 and the
storage's version. If size and version are unchanged, the file is complete. Without such a record, a file with the
output's name must have the length in the head of the server's answer. It must also have the MD5 there, or a name
that is unique to this output.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import tenacity

from airflow_provider_flora.api import exchange, retries
from airflow_provider_flora.api.errors import FloraDownloadError, FloraError, FloraParameterError, FloraStorageError
from airflow_provider_flora.api.lenient import storable
from airflow_provider_flora.files.checksum import Sha256
from airflow_provider_flora.files.downloads.destination import Destination
from airflow_provider_flora.files.downloads.fetching import Answer, MediaClient
from airflow_provider_flora.files.downloads.naming import (
    DEFAULT_FILE_NAME,
    TEXT,
    check_file_name,
    could_be,
    folded,
    is_unique_for_ever,
    is_unique_in_run,
    name_of,
    suffixes_for,
    type_of,
)
from airflow_provider_flora.files.downloads.record import DownloadRecord, OutputFile
from airflow_provider_flora.task.parameters import none_if_empty

if TYPE_CHECKING:
    from airflow_provider_flora.api.models import Run, RunOutput, Technique
    from airflow_provider_flora.api.settings import ClientSettings
    from airflow_provider_flora.task.log import Log

AT_ONCE = 4
MAX_SECONDS = 2 * 3600.0
"""Timeout of one file, including all attempts. Airflow's ``execution_timeout`` may end it earlier."""
LARGE_BYTES = 16 * 1024 * 1024
"""Size from which the log reports progress: each 10 %, or each 10 s."""
PROGRESS_SECONDS = 10.0
_GET = exchange.Request("download", "GET", "")


@dataclass(frozen=True)
class _Output:
    """An output to store.

    :param key: the output's id, with a number if several outputs have it.
    :param index: position in the run's list of outputs.
    :param suffix: suffix for the name, if an earlier output has the same name.
    :param rivals: types of the earlier outputs with that name. Their extensions may differ.
    """

    output: RunOutput
    key: str
    index: int
    suffix: str = ""
    rivals: tuple[str, ...] = ()


class _Stopped(Exception):  # noqa: N818  it is not an error
    """The end of the task."""


class Downloads:
    """The downloads of a run's outputs into a folder. Create it before the run starts, to check the parameters.

    :param folder: folder; see :class:`~airflow_provider_flora.files.downloads.destination.Destination`.
    :param file_name: format of names; see :mod:`~airflow_provider_flora.files.downloads.naming`. Default:
        ``DEFAULT_FILE_NAME``.
    :param log: the task's log.
    :raises FloraParameterError: the folder or the format is invalid.
    """

    def __init__(self, folder: Any, file_name: str | None, log: Log) -> None:
        self._template = none_if_empty(file_name) or DEFAULT_FILE_NAME
        check_file_name(self._template)
        self._destination = Destination(folder)
        self._log = log
        self._stop = threading.Event()

    def check_folder(self) -> None:
        """Check that the folder is writable.

        :raises FloraStorageError: the folder is not writable.
        """
        self._destination.check()

    def check_names(self, technique: Technique) -> None:
        """Check, before a run is paid, that the outputs of a technique get different names.

        :raises FloraParameterError: two outputs get the same name.
        """
        if is_unique_in_run(self._template):
            return
        ids: dict[str, list[str]] = {}
        for slot in technique.outputs:
            ids.setdefault(slot.type, []).append(slot.id)
        for alike in ids.values():
            if len(alike) > 1:
                raise FloraParameterError(
                    f"file_name={self._template!r} gives one name to several outputs of technique "
                    f"{technique.technique_id!r}: {', '.join(map(repr, alike))}. Add {{output_id}} or {{index}} to "
                    "it. Nothing was started or charged."
                )

    def download(
        self, run: Run, technique_id: str, settings: ClientSettings, store: Any = None
    ) -> list[dict[str, Any]]:
        """Store the outputs and return their files, in the order of the outputs.

        An error of one output does not stop the others.

        :param store: Airflow's task state store, if there is one.
        :raises FloraDownloadError: an output could not be fetched.
        :raises FloraStorageError: a file could not be stored.
        """
        items = self._name_outputs(run, technique_id)
        record = DownloadRecord(store, [run.run_id, str(self._destination), self._template], self._log)
        writer = _OutputWriter(
            self._destination, self._template, run.run_id, technique_id, settings, self._log, self._stop
        )
        files: dict[str, OutputFile] = {}
        failures: dict[int, FloraError] = {}
        for item in items:
            if stored := self._find_stored(record.get(item.key)):
                writer.claim(stored.uri.rpartition("/")[2], item)
                files[item.key] = stored
        missing = [item for item in items if item.key not in files]
        with closing(self._store_in_threads(writer, missing)) as ended:
            for item, future in ended:
                try:
                    file, version = future.result()
                except FloraError as error:
                    failures[item.index] = error
                else:
                    files[item.key] = file
                    record.add(item.key, file, version)  # here, since only one thread may use Airflow's store
        if failures:
            raise _combined_error([failures[index] for index in sorted(failures)], done=len(files))
        return [asdict(files[item.key]) for item in items]

    def _name_outputs(self, run: Run, technique_id: str) -> list[_Output]:
        """Return the outputs, with suffixes that make their names differ."""
        items = list(_keyed_outputs(run.outputs))
        names = [
            name_of(
                self._template,
                technique=technique_id,
                run_id=run.run_id,
                output_id=item.key,
                index=item.index,
                ext="x",
            )
            for item in items
        ]
        alike: dict[str, list[str]] = {}
        for place, suffix in enumerate(suffixes_for(names)):
            item = items[place]
            types = alike.setdefault(folded(names[place]), [])
            items[place] = replace(item, suffix=suffix, rivals=tuple(types))
            types.append(item.output.type)
        return items

    def _find_stored(self, known: tuple[OutputFile, str] | None) -> OutputFile | None:
        """Return the file that an earlier attempt stored, if it is unchanged."""
        if known is None:
            return None
        file, version = known
        stored = self._destination.find(file.uri.rpartition("/")[2])
        if stored is None or (stored.bytes, stored.version) != (file.bytes, version):
            return None
        self._log.info("%s already exists", file.uri)
        return file

    def _store_in_threads(
        self, writer: _OutputWriter, items: Sequence[_Output]
    ) -> Generator[tuple[_Output, Future[tuple[OutputFile, str | None]]], None, None]:
        pool = ThreadPoolExecutor(AT_ONCE, "flora-download")
        try:
            waiting = {pool.submit(writer.store, item): item for item in items}
            while waiting:
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield waiting.pop(future), future
        except BaseException:
            self._stop.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


class _OutputWriter:
    """A writer of a run's outputs. Several threads use it."""

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

    def claim(self, name: str, item: _Output) -> bool:
        """Claim a name for an output. Return whether no other output of the run has it."""
        with self._names_lock:
            return self._names.setdefault(folded(name), item.key) == item.key

    def store(self, item: _Output) -> tuple[OutputFile, str | None]:
        """Store an output. Return its file and the storage's version."""
        url = item.output.url
        if url is None or (item.output.type != "text" and not url.strip()):
            raise FloraDownloadError(
                f"Output {item.key!r} of run {self._run_id} of technique {self._technique_id!r} has no content: "
                "Flora sent no URL or text for it. A retry gets the same run again, at no cost."
            )
        if item.output.type == "text":
            return self._store_text(item, url)
        arguments = retries.retry_arguments(_GET, self._settings)
        arguments["stop"] |= tenacity.stop_before_delay(MAX_SECONDS) | tenacity.stop_when_event_set(self._stop)
        retrying = tenacity.Retrying(
            **arguments,
            sleep=tenacity.sleep_using_event(self._stop),
            before_sleep=retries.log_retries(
                self._log.warning, "Retrying the download of %s of %s: %s", item.key, self._run_id
            ),
        )
        try:
            return retrying(self._download, item, url, time.monotonic() + MAX_SECONDS)
        except FloraDownloadError as error:
            raise self._download_error(item, error, retrying.statistics["attempt_number"]) from error

    def _store_text(self, item: _Output, text: str) -> tuple[OutputFile, str | None]:
        media_type, ext = TEXT
        name = self._claim_name(item, media_type, ext)
        content = storable(text).encode()
        sha256 = hashlib.sha256(content).hexdigest()
        stored = self._destination.find(name)
        if stored is None or stored.bytes != len(content) or self._destination.compute_digests(name)[0] != sha256:
            with self._destination.writing(name) as sink:
                sink.write(content)
                sink.finish()
        file = OutputFile(self._destination.uri(name), media_type, len(content), sha256, item.key)
        return self._check_stored(name, file)

    def _download(self, item: _Output, url: str, ends: float) -> tuple[OutputFile, str | None]:
        if self._stop.is_set():
            raise _Stopped
        with self._media.get(url) as answer:
            try:
                media_type, ext = type_of(item.output.type, answer.content_type, url)
            except ValueError as error:
                # A cache with a transient error may send a page in place of a picture.
                raise FloraDownloadError(f"the file {error}", transient=True) from None
            name = self._claim_name(item, media_type, ext)
            if found := self._find_existing(item, name, media_type, answer):
                return found
            size, sha256 = self._write(name, answer, ends)
        file = OutputFile(self._destination.uri(name), media_type, size, sha256, item.key)
        return self._check_stored(name, file)

    def _claim_name(self, item: _Output, media_type: str, ext: str) -> str:
        suffix = item.suffix if any(could_be(rival, media_type) for rival in item.rivals) else ""
        while True:
            name = name_of(
                self._template,
                technique=self._technique_id,
                run_id=self._run_id,
                output_id=item.key,
                index=item.index,
                ext=ext,
                suffix=suffix,
            )
            if self.claim(name, item):
                return name
            # Two types of output have the same extension, or two names differ in case only.
            suffix += f"-{hashlib.sha256(item.key.encode(errors='replace')).hexdigest()[:8]}"

    def _find_existing(
        self, item: _Output, name: str, media_type: str, answer: Answer
    ) -> tuple[OutputFile, str | None] | None:
        stored = self._destination.find(name)
        if stored is None or answer.is_encoded or stored.bytes != answer.length:
            return None
        if answer.md5 is None and not is_unique_for_ever(self._template):
            return None  # it may be the file of another run, with the same name and length
        sha256, md5 = self._destination.compute_digests(name)
        if answer.md5 not in (None, md5):
            return None
        uri = self._destination.uri(name)
        self._log.info("%s already exists", uri)
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
        stored = self._destination.find(name)
        if stored is None or stored.bytes != file.bytes:
            found = "does not exist" if stored is None else f"has {stored.bytes} bytes"
            raise FloraStorageError(f"{file.uri} {found} after {file.bytes} bytes were written")
        return file, stored.version

    def _download_error(self, item: _Output, error: FloraDownloadError, attempts: int) -> FloraDownloadError:
        text = f"Output {item.key!r} of run {self._run_id} of technique {self._technique_id!r} "
        text += f"was not downloaded: {error}"
        text += f" ({attempts} attempts)." if attempts > 1 else "."
        if error.gone:
            text += (
                " The URL has expired or the file was deleted. A retry resumes the same run with new URLs, at no "
                "cost. If that does not help, trigger a new DAG run: it pays for a new run, which makes a new file."
            )
        else:
            text += " A retry resumes the same run, at no cost, and downloads the missing files."
        return FloraDownloadError(text, gone=error.gone)


class _Progress:
    """The progress of a large file, for the log."""

    def __init__(self, uri: str, length: int | None, log: Log) -> None:
        self.size = 0
        self._uri = uri
        self._length = length
        self._log = log
        self._began = self._logged_at = time.monotonic()
        self._logged_tenth = 0

    def add(self, count: int) -> None:
        """Add received bytes, and log the progress of a large file."""
        self.size += count
        if self.size < LARGE_BYTES and (self._length or 0) < LARGE_BYTES:
            return
        tenth = self.size * 10 // self._length if self._length else 0
        now = time.monotonic()
        if tenth == self._logged_tenth and now - self._logged_at < PROGRESS_SECONDS:
            return
        self._logged_tenth, self._logged_at = tenth, now
        share = f" ({100 * self.size / self._length:.0f} %%)" if self._length else ""
        self._log.info("%s: %.1f MB" + share, self._uri, self.size / 1e6)

    def end(self) -> None:
        """Log that the file is complete."""
        seconds = time.monotonic() - self._began
        self._log.info("Downloaded %s: %.1f MB in %.1f s", self._uri, self.size / 1e6, seconds)


def _keyed_outputs(outputs: Sequence[RunOutput]) -> Iterator[_Output]:
    """Give each output a key: its id, plus a number if several outputs have that id."""
    seen: Counter[str] = Counter()
    ids = {output.output_id for output in outputs}
    for index, output in enumerate(outputs):
        seen[output.output_id] += 1
        key = output.output_id if seen[output.output_id] == 1 else f"{output.output_id}-{seen[output.output_id]}"
        while key != output.output_id and key in ids:
            seen[output.output_id] += 1
            key = f"{output.output_id}-{seen[output.output_id]}"
        yield _Output(output, key, index)


def _combined_error(failures: Sequence[FloraError], done: int) -> FloraError:
    """Return the only failure, or an error that names all failures."""
    if len(failures) == 1:
        return failures[0]
    for failure in failures:
        if not failure.remedy.retryable:
            return failure
    lines = "".join(f"\n  - {failure}" for failure in failures)
    return FloraDownloadError(f"{len(failures)} of {len(failures) + done} outputs were not downloaded:{lines}")
