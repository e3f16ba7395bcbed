"""Makes films: a still through which a camera and a light move."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator

import av
from PIL import Image, ImageChops, ImageOps

from airflow_provider_flora.emulator.pictures import Look, lettering, scene
from airflow_provider_flora.emulator.samples import sample_picture

FRAMES_A_SECOND = 24
_LONGEST_SIDE = 640


def film(look: Look, seconds: float) -> bytes:
    """An MP4 file with H.264 in it.

    :param look: What it shows.
    :param seconds: How long it is.
    """
    look = look.smaller(_LONGEST_SIDE)
    return _encode(_lettered(_moving(scene(look), round(seconds * FRAMES_A_SECOND)), lettering(look)))


def sample_clip() -> bytes:
    """The sample film: the sneaker, looked at."""
    still = ImageOps.fit(sample_picture("sneaker"), (480, 480))
    return _encode(_moving(still, 2 * FRAMES_A_SECOND))


def _moving(ground: Image.Image, count: int) -> Iterator[Image.Image]:
    """Frames: a slow push in, while a light passes over the scene."""
    width, height = ground.size
    beam = ImageOps.invert(Image.radial_gradient("L")).resize(ground.size).point(lambda level: level // 5)
    for number in range(count):
        share = number / max(1, count - 1)
        x, y = 0.05 * share * width, 0.05 * share * height
        frame = ground.resize(ground.size, Image.Resampling.BILINEAR, box=(x, y, width - x, height - y))
        sweep = ImageChops.offset(beam, round(width * (share - 0.5)), round(height * 0.2 * math.sin(3 * share)))
        yield ImageChops.add(frame, Image.merge("RGB", (sweep, sweep, sweep)))


def _lettered(frames: Iterator[Image.Image], words: Image.Image) -> Iterator[Image.Image]:
    """The frames under words that stand still."""
    for frame in frames:
        canvas = Image.new("RGB", words.size)
        canvas.paste(frame, (0, 0))
        canvas.paste(words, (0, 0), words)
        yield canvas


def _video_frame(image: Image.Image) -> av.VideoFrame:
    frame: av.VideoFrame = av.VideoFrame.from_image(image)  # type: ignore[no-untyped-call]
    return frame


def _encode(frames: Iterator[Image.Image]) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        first = next(frames)
        stream = container.add_stream("libx264", rate=FRAMES_A_SECOND)
        stream.width, stream.height = first.size
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "26"}
        stream.thread_count = 1
        for frame in (first, *frames):
            container.mux(stream.encode(_video_frame(frame)))
        container.mux(stream.encode())
    return file.getvalue()
