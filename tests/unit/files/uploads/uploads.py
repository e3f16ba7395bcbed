"""What the tests of files in share: tasks, what Flora holds, and a process that dies on order."""

from __future__ import annotations

import io
import struct
import urllib.request
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from airflow_provider_flora.api.client import FloraClient
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.emulator.media.videos import sample_clip
from airflow_provider_flora.files.uploads import uploader as uploading
from airflow_provider_flora.files.uploads.source import SourceFile
from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator
from airflow_provider_flora.operators.uploads import FloraUploadAssetOperator
from tests.unit.airflow_names import attach
from tests.unit.operators.fake_task import HAS_STATE_STORE, FakeStore, TaskLife

LARGE = 4 * 1024 * 1024 + 1
Connect = Callable[..., None]
NEEDS_A_STORE = pytest.mark.skipif(not HAS_STATE_STORE, reason="this Airflow has no task state store")


class Crash(BaseException):
    """The process is gone."""


def picture(width: int = 8, height: int = 6, form: str = "PNG") -> bytes:
    """A picture that is one."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, form)
    return file.getvalue()


def picture_of_size(width: int, height: int) -> bytes:
    """A PNG that says it is so large, and has no more in it than a small one."""
    whole = picture()
    header = struct.pack(">II", width, height) + whole[24:29]
    return whole[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + whole[33:]


@cache
def video() -> bytes:
    """An MP4 that is one."""
    return sample_clip()


def write_video(path: Path, size: int) -> None:
    """Write an MP4 of the given size, most of it in a part that players skip."""
    start = video()
    with path.open("wb") as file:
        file.write(start + struct.pack(">I4s", size - len(start), b"free"))
        file.truncate(size)


def attach_memory(conn_id: str | None = None) -> Any:
    """Let Airflow know of a storage that is no local disk, reached by a connection."""
    from fsspec.implementations.memory import MemoryFileSystem

    filesystem = MemoryFileSystem()
    attach("memory", conn_id, fs=filesystem)
    return filesystem


def upload_of(file: Any, **given: Any) -> TaskLife:
    """The life of a task that uploads a file."""
    operator = FloraUploadAssetOperator(
        task_id="upload", file=file if not isinstance(file, Path) else str(file), **given
    )
    return life_of(operator)


def run_with(photo: Any, **given: Any) -> TaskLife:
    """The life of a task that runs a technique with a photo."""
    operator = FloraRunTechniqueOperator(
        **{
            "task_id": "relight",
            "technique_id": "product-relight",
            "inputs": {"photo": str(photo) if isinstance(photo, Path) else photo, "light": "neon"},
            "poll_interval": 0.05,
            "deferrable": False,
            "retries": 2,
            **given,
        }
    )
    return life_of(operator)


def life_of(operator: Any) -> TaskLife:
    return TaskLife(operator, store=FakeStore() if HAS_STATE_STORE else None)


def held_by(flora: Emulator) -> list[Any]:
    """The assets that Flora holds and that are ready."""
    from airflow_provider_flora.hooks.flora import FloraHook

    return [asset for asset in FloraHook().list_assets() if asset.ready]


def fetched(url: str) -> bytes:
    with urllib.request.urlopen(url) as answer:
        return bytes(answer.read())


def count(flora: Emulator, operation: str) -> int:
    return int(flora.ledger()["requests"].get(operation, 0))


def _after(name: str) -> Callable[[pytest.MonkeyPatch], None]:
    def arrange(patch: pytest.MonkeyPatch) -> None:
        real = getattr(FloraClient, name)

        def dying(*args: Any, **kwargs: Any) -> Any:
            real(*args, **kwargs)
            raise Crash

        patch.setattr(FloraClient, name, dying)

    return arrange


def _before(name: str) -> Callable[[pytest.MonkeyPatch], None]:
    def arrange(patch: pytest.MonkeyPatch) -> None:
        def dying(*args: Any, **kwargs: Any) -> Any:
            raise Crash

        patch.setattr(FloraClient, name, dying)

    return arrange


def _halfway(patch: pytest.MonkeyPatch) -> None:
    real = uploading.send

    def dying(reservation: Any, file: SourceFile, *rest: Any) -> Any:
        pieces = file.read_chunks()

        def half() -> Any:
            yield next(pieces)
            yield next(pieces)
            raise Crash

        file.read_chunks = half  # type: ignore[method-assign]
        return real(reservation, file, *rest)

    patch.setattr(uploading, "send", dying)


def _after_sending(patch: pytest.MonkeyPatch) -> None:
    real = uploading.send

    def dying(*args: Any) -> Any:
        real(*args)
        raise Crash

    patch.setattr(uploading, "send", dying)


DEATHS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "before the asset is made": _before("create_asset"),
    "after the asset is made": _after("create_asset"),
    "halfway through the bytes": _halfway,
    "when the bytes have been sent": _after_sending,
    "before the upload is completed": _before("complete_asset"),
    "after the upload is completed": _after("complete_asset"),
    "before the asset is polled": _before("ask"),
}
"""Where a process that uploads can die."""
