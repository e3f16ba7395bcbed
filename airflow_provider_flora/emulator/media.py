"""The files that runs give, those that were uploaded, and the samples to run techniques with.

What was not uploaded is made when they are asked for, and comes out the same each time. How is the business of
``pictures.py``, ``samples.py``, ``films.py``, ``sounds.py`` and ``papers.py``, which alone need the extra.
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

from airflow_provider_flora.emulator.assets import Assets
from airflow_provider_flora.emulator.blobs import Blob, read_blob
from airflow_provider_flora.emulator.catalogue import Slot
from airflow_provider_flora.emulator.clock import Clock
from airflow_provider_flora.emulator.history import History
from airflow_provider_flora.emulator.runs import EXTENSIONS, Run
from airflow_provider_flora.emulator.texts import text_inputs

if TYPE_CHECKING:
    from PIL.Image import Image

    from airflow_provider_flora.emulator.pictures import Look

CONTENT_TYPES = {
    "png": "image/png",
    "mp4": "video/mp4",
    "wav": "audio/wav",
    "pdf": "application/pdf",
}
SAMPLES = ("sneaker.png", "lamp.png", "mug.png", "chair.png", "clip.mp4")
_CACHED = 64
_FILM_SECONDS = 2.0


@dataclass(frozen=True)
class Medium:
    """A file: its bytes, where they are, or how to make them."""

    content: bytes | Path | Blob
    content_type: str


class Media:
    """Everything under ``/media/``.

    :param history: The runs whose outputs these are.
    :param assets: What was uploaded.
    :param clock: Tells whether a run has ended.
    :param seed: Decides how they look.
    """

    def __init__(self, history: History, assets: Assets, clock: Clock, seed: int) -> None:
        self._history = history
        self._assets = assets
        self._clock = clock
        self._seed = seed
        # One thread: the API goes on answering while a film is made, and no file is made twice.
        self._studio: ThreadPoolExecutor | None = None
        self._made = lru_cache(maxsize=_CACHED)(self._make)

    async def read(self, path: str) -> Medium | None:
        """The file at that path, which is what follows ``/media/``; ``None`` when there is none.

        :param path: ``samples/…``, ``assets/{asset_id}.{ext}``, ``blobs/…`` or ``{run_id}/{output_id}.{ext}``.
        """
        if uploaded := self._assets.ready(path):
            return Medium(uploaded.path, uploaded.content_type)
        if blob := read_blob(path):
            return Medium(blob, blob.content_type)
        if not self._exists(path):
            return None
        if self._studio is None:
            self._studio = ThreadPoolExecutor(1, "flora-studio")
        content = await asyncio.get_running_loop().run_in_executor(self._studio, self._made, path)
        return Medium(content, CONTENT_TYPES[path.rpartition(".")[2]])

    def close(self) -> None:
        """End the thread that makes files."""
        if self._studio is not None:
            self._studio.shutdown()
            self._studio = None

    def _exists(self, path: str, before: float = math.inf) -> bool:
        folder, _, name = path.partition("/")
        return name in SAMPLES if folder == "samples" else self._find(path, before) is not None

    def _find(self, path: str, before: float) -> tuple[Run, Slot] | None:
        """The ended run, older than that number, and its output, which the path names."""
        run_id, _, name = path.partition("/")
        output_id, _, extension = name.rpartition(".")
        run = self._history.get(run_id)
        if run is None or run.number >= before or run.status_at(self._clock.now()) != "completed":
            return None
        slot = run.technique.output(output_id)
        return (run, slot) if slot and EXTENSIONS.get(slot.type) == extension else None

    def _make(self, path: str) -> bytes:
        from airflow_provider_flora.emulator import films, papers, pictures, samples, sounds

        found = self._find(path, math.inf)
        if found is None:
            return films.sample_clip() if path.endswith(".mp4") else samples.sample(_product(path))
        look, slot = self._look(*found), found[1]
        seconds = slot.specified_duration or _FILM_SECONDS
        if slot.type == "videoUrl":
            return films.film(look, seconds)
        if slot.type == "audioUrl":
            return sounds.recording(look.seed, seconds)
        if slot.type == "documentUrl":
            return papers.paper(look)
        return pictures.as_png(pictures.picture(look))

    def _look(self, run: Run, slot: Slot) -> Look:
        from airflow_provider_flora.emulator import pictures

        return pictures.Look(
            seed=repr([self._seed, run.technique.slug, slot.id, text_inputs(run.inputs)]),
            title=run.technique.name,
            label=slot.name if len(run.technique.outputs) > 1 else "",
            texts=text_inputs(run.inputs),
            photos=self._photos(run),
            size=pictures.size(slot.specified_aspect_ratio),
        )

    def _photos(self, run: Run) -> list[Image]:
        """What the run was given to see, of the emulator's own media: their scenes, without words on them."""
        from airflow_provider_flora.emulator import pictures, samples

        photos = []
        for item in run.inputs:
            # Only the emulator's own media are taken by plain HTTP.
            if item["type"] == "text" or not item["value"].startswith("http:"):
                continue
            path = urlsplit(item["value"]).path.removeprefix("/media/")
            # An input is older than its run, so that no run can be drawn from itself.
            if uploaded := self._assets.ready(path):
                photo = pictures.uploaded_photo(uploaded.path)
                photos += [photo] if photo else []
            elif found := self._find(path, run.number):
                photos.append(pictures.scene(self._look(*found)))
            elif self._exists(path, run.number):
                photos.append(samples.sample_picture(_product(path)))
        return photos


def _product(path: str) -> str:
    """What a sample shows."""
    name = path.removeprefix("samples/")
    return "sneaker" if name == "clip.mp4" else name.partition(".")[0]
