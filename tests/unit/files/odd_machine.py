"""Uploads and downloads on a worker that is not as most are, in a process of its own.

    python -m tests.unit.files.odd_machine FOLDER [without-a-temporary-folder]

Prints what came of it, as JSON in ASCII.
"""

from __future__ import annotations

import builtins
import io
import json
import os
import sys
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def airflows_own_files_are_utf8() -> Iterator[None]:
    """Airflow 3.3 reads its own files in the locale's encoding, and could not be imported in some."""
    real = builtins.open

    def utf8(file: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None, **more: Any) -> Any:
        return real(file, mode, buffering, encoding or (None if "b" in mode else "utf-8"), **more)

    builtins.open = utf8  # type: ignore[assignment]
    yield
    builtins.open = real


with airflows_own_files_are_utf8():
    from tests.unit import airflow_home  # noqa: F401

    # isort: split
    from airflow_provider_flora.airflow_compat import BaseOperator, ObjectStoragePath  # noqa: F401
    from tests.unit.operators.fake_task import HAS_STATE_STORE, FakeStore, TaskLife

NAME = "größe ✨.png"


def keep_quiet() -> None:
    """Log to nowhere: Airflow 3 cannot print what its locale has no letters for."""
    if HAS_STATE_STORE:
        import structlog

        structlog.configure(logger_factory=structlog.PrintLoggerFactory(io.StringIO()))


def main() -> None:
    keep_quiet()
    folder = os.fsencode(sys.argv[1]).decode()  # as a DAG file has it, which is UTF-8 everywhere
    if "without-a-temporary-folder" in sys.argv:
        tempfile.tempdir = None
        tempfile._candidate_tempdir_list = list  # type: ignore[attr-defined]
        del os.getuid
    from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator
    from airflow_provider_flora.operators.uploads import FloraUploadAssetOperator

    def run(operator: object) -> dict[str, object]:
        life = TaskLife(operator, store=FakeStore() if HAS_STATE_STORE else None)
        value: dict[str, object] = life.run()
        return value

    relit = run(
        FloraRunTechniqueOperator(
            task_id="relight",
            technique_id="product-relight",
            inputs={"photo": f"{folder}/{NAME}", "light": "néon ✨"},
            download_to=f"{folder}/fertig ✓",
            file_name="größe-✨-{output_id}.{ext}",
            poll_interval=0.05,
            deferrable=False,
        )
    )
    uploaded = [
        run(FloraUploadAssetOperator(task_id="upload", file=f"{begin}{folder}/{NAME}")) for begin in ("", "file://")
    ]
    print(json.dumps({"files": relit["files"], "uploads": uploaded, "encoding": sys.getfilesystemencoding()}))


if __name__ == "__main__":
    main()
