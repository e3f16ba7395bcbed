"""Everything below ``/media/``: outputs of runs, uploaded files, blobs and samples.

Outputs and samples are made when they are fetched, and are the same each time. The files of ``emulator/media`` make
them. They need the extra, so they are imported when the first file is made.
"""

from __future__ import annotations

import asyncio
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from airflow_provider_flora.emulator.media.blobs import Blob, read_blob
from airflow_provider_flora.emulator.media.texts import text_inputs
from airflow_provider_flora.emulator.state.assets import Assets
from airflow_provider_flora.emulator.state.catalogue import Slot
from airflow_provider_flora.emulator.state.clock import Clock
from airflow_provider_flora.emulator.state.history import History
from airflow_provider_flora.emulator.state.runs import EXTENSIONS, Run

if TYPE_CHECKING:
    from PIL.Image import Image

    from airflow_provider_flora.emulator.media.pictures import Subject

CONTENT_TYPES = {
    "png": "image/png",
    "mp4": "video/mp4",
    "wav": "audio/wav",
    "pdf": "application/pdf",
}
SAMPLES = ("sneaker.png", "lamp.png", "mug.png", "chair.png", "clip.mp4")
_CACHED = 64
_VIDEO_SECONDS = 2.0


@dataclass(frozen=True)
class Medium:
    """A file: its bytes, where they are, or the blob that makes them."""

    content: bytes | Path | Blob
    content_type: str


class Media:
    """Everything below ``/media/``.

    :param history: the runs whose outputs these are.
    :param assets: the uploaded files.
    :param clock: the emulator's time.
    :param seed: decides how pictures vary.
    """

    def __init__(self, history: History, assets: Assets, clock: Clock, seed: int) -> None:
        self._history = history
        self._assets = assets
        self._clock = clock
        self._seed = seed
        # One thread: the API answers while a video is made, and no file is made twice.
        self._maker: ThreadPoolExecutor | None = None
        self._made = lru_cache(maxsize=_CACHED)(self._make)

    async def read(self, path: str) -> Medium | None:
        """Read the file at this path below ``/media/``; ``None`` when there is none.

        :param path: ``samples/…``, ``assets/{asset_id}.{ext}``, ``blobs/…`` or ``{run_id}/{output_id}.{ext}``.
        """
        if uploaded := self._assets.ready_file(path):
            return Medium(uploaded.path, uploaded.content_type)
        if blob := read_blob(path):
            return Medium(blob, blob.content_type)
        if not self._exists(path):
            return None
        if self._maker is None:
            self._maker = ThreadPoolExecutor(1, "flora-media")
        content = await asyncio.get_running_loop().run_in_executor(self._maker, self._made, path)
        return Medium(content, CONTENT_TYPES[path.rpartition(".")[2]])

    def close(self) -> None:
        """End the thread that makes files."""
        if self._maker is not None:
            self._maker.shutdown()
            self._maker = None

    def _exists(self, path: str, before: float = math.inf) -> bool:
        folder, _, name = path.partition("/")
        return name in SAMPLES if folder == "samples" else self._find(path, before) is not None

    def _find(self, path: str, before: float) -> tuple[Run, Slot] | None:
        """The output at this path and its run, if that has ended and has a smaller number."""
        run_id, _, name = path.partition("/")
        output_id, _, extension = name.rpartition(".")
        run = self._history.get(run_id)
        if run is None or run.number >= before or run.status_at(self._clock.now()) != "completed":
            return None
        slot = run.technique.output(output_id)
        return (run, slot) if slot and EXTENSIONS.get(slot.type) == extension else None

    def _make(self, path: str) -> bytes:
        from airflow_provider_flora.emulator.media import audio, documents, pictures, samples, videos

        found = self._find(path, math.inf)
        if found is None:
            if path.endswith(".mp4"):
                return videos.sample_clip()
            return pictures.as_png(samples.draw_sample(_product(path)))
        subject, slot = self._describe(*found), found[1]
        seconds = slot.specified_duration or _VIDEO_SECONDS
        if slot.type == "videoUrl":
            return videos.make_video(subject, seconds)
        if slot.type == "audioUrl":
            return audio.make_audio(subject.seed, seconds)
        if slot.type == "documentUrl":
            return documents.make_document(subject)
        return pictures.as_png(pictures.draw_picture(subject))

    def _describe(self, run: Run, slot: Slot) -> Subject:
        """Describe what an output shows."""
        from airflow_provider_flora.emulator.media import pictures

        return pictures.Subject(
            seed=repr([self._seed, run.technique.slug, slot.id, text_inputs(run.inputs)]),
            title=run.technique.name,
            label=slot.name if len(run.technique.outputs) > 1 else "",
            texts=text_inputs(run.inputs),
            photos=self._collect_photos(run),
            size=pictures.pixel_size_for(slot.specified_aspect_ratio),
        )

    def _collect_photos(self, run: Run) -> list[Image]:
        """Collect the photos among the inputs that are the emulator's own, without text on them."""
        from airflow_provider_flora.emulator.media import pictures, samples

        photos = []
        for item in run.inputs:
            # Only the emulator's own media can be inputs by plain HTTP.
            if item["type"] == "text" or not item["value"].startswith("http:"):
                continue
            path = urlsplit(item["value"]).path.removeprefix("/media/")
            # An input is older than its run, so no run is drawn from itself.
            if uploaded := self._assets.ready_file(path):
                photo = pictures.read_photo(uploaded.path)
                photos += [photo] if photo else []
            elif found := self._find(path, run.number):
                photos.append(pictures.draw_scene(self._describe(*found)))
            elif self._exists(path, run.number):
                photos.append(samples.draw_sample(_product(path)))
        return photos


def _product(path: str) -> str:
    """The product that a sample shows."""
    name = path.removeprefix("samples/")
    return "sneaker" if name == "clip.mp4" else name.partition(".")[0]
