"""``upload`` and ``download``: files into Flora, and outputs out of it, as the operators move them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_flora.api.errors import (
    FloraError,
    FloraFileError,
    FloraParameterError,
    FloraUploadError,
    run_failure,
)
from airflow_provider_flora.cli.command import FAILED, OK, Command, Options, add_run
from airflow_provider_flora.cli.connection import open_client
from airflow_provider_flora.cli.runs import find_run

if TYPE_CHECKING:
    from airflow_provider_flora.api.client import FloraClient
    from airflow_provider_flora.api.models import Run, Technique
    from airflow_provider_flora.cli.terminal import Terminal
    from airflow_provider_flora.task.log import Log


class FolderOfOutputs:
    """A folder that a run's outputs are downloaded into.

    :param folder: a path, or the URI of a storage of Airflow's, ``s3://conn_id@bucket/prefix``.
    :raises FloraParameterError: the folder cannot be used.
    """

    def __init__(self, folder: str, log: Log) -> None:
        from airflow_provider_flora.files.downloads.downloads import Downloads
        from airflow_provider_flora.files.storage import is_uri

        try:
            full = folder if is_uri(folder) else str(Path(folder).expanduser().resolve())
        except (OSError, RuntimeError, ValueError) as error:  # a user without a home, a circle of links, a NUL
            raise FloraParameterError(f"The folder {folder!r} cannot be used: {error}.") from error
        self._downloads = Downloads(full, None, log)

    def check(self, technique: Technique) -> None:
        """Check, before a run is paid, that its outputs can be stored.

        :raises FloraError: they cannot.
        """
        self._downloads.check_names(technique)
        self._downloads.check_folder()

    def download(self, run: Run, technique: str, client: FloraClient) -> list[dict[str, Any]]:
        """Download the outputs of a run, and return their files."""
        return self._downloads.download(run, technique, client.settings)


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", metavar="FILE", nargs="+", help="path, URI of a storage, or public https:// URL")


def _upload(options: Options, terminal: Terminal) -> int:
    from airflow_provider_flora.files.uploads.record import UploadRecord
    from airflow_provider_flora.files.uploads.uploader import Place, Uploader, value_of, workspace_of

    uploaded: list[dict[str, Any]] = []
    code = OK
    with open_client(options, terminal) as client:
        uploader = Uploader(client, UploadRecord(None, terminal.log), terminal.log)
        place = Place(workspace_of(client))
        try:
            for file in options.files:
                try:
                    asset = value_of(*uploader.upload_or_import(file, place))
                except (FloraFileError, FloraUploadError) as error:  # of this file, and not of the others
                    terminal.error(error)
                    code = FAILED
                    continue
                uploaded.append({"file": file, **asset})
                if not terminal.as_json:
                    terminal.line(str(asset["url"]))
        finally:  # what was uploaded before an error, or Ctrl-C, is not lost
            if terminal.as_json:
                terminal.json(uploaded)
    return code


def _add_download(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("folder", metavar="DIR", help="a folder, or the URI of a storage of Airflow's")


def _download(options: Options, terminal: Terminal) -> None:
    with open_client(options, terminal) as client:
        technique, run = find_run(client, options.run, options.technique)
        if run.failed:
            raise run_failure(run, technique)
        if not run.completed:
            raise FloraError(
                f"Run {run.run_id} is {run.status} and has no outputs yet. Wait for it: {terminal.program} wait "
                f"{run.run_id} --technique {technique}"
            )
        files = FolderOfOutputs(options.folder, terminal.log).download(run, technique, client)
    if terminal.as_json:
        terminal.json(files)
    for file in () if terminal.as_json else files:
        terminal.line(file["uri"])


UPLOAD = Command("upload", "Upload files, and print the URLs for inputs of runs.", _add_files, _upload)
DOWNLOAD = Command("download", "Download the outputs of a run.", _add_download, _download)
