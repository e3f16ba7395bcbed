"""Makes films: a still through which a camera and a light move. And opens them again."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator

import av
from PIL import Image, ImageChops, ImageOps

from airflow_provider_flora.emulator.pictures import Look, picture
from airflow_provider_flora.emulator.samples import sample_picture

FRAMES_A_SECOND = 24
_LONGEST_SIDE = 640


def film(look: Look, seconds: float) -> bytes:
    """An MP4 file with H.264 in it.

    :param look: What it shows.
    :param seconds: How long it is.
    """
    return _encode(_moving(picture(look.smaller(_LONGEST_SIDE)), round(seconds * FRAMES_A_SECOND)))


def sample_clip() -> bytes:
    """The sample film: the sneaker, looked at."""
    still = ImageOps.fit(sample_picture("sneaker"), (480, 480))
    return _encode(_moving(still, 2 * FRAMES_A_SECOND))


def first_frame(content: bytes) -> Image.Image:
    """The first picture of a film.

    :param content: The film.
    """
    with av.open(io.BytesIO(content)) as container:
        image: Image.Image = next(container.decode(video=0)).to_image()
        return image


def _moving(still: Image.Image, count: int) -> Iterator[Image.Image]:
    """Frames: a slow push in, while a light passes over the scene."""
    width, height = still.size
    beam = ImageOps.invert(Image.radial_gradient("L")).resize((width, height)).point(lambda level: level // 5)
    for number in range(count):
        share = number / max(1, count - 1)
        inset = 0.04 * share
        frame = still.resize(
            still.size,
            Image.Resampling.BILINEAR,
            box=(width * inset, height * inset, width * (1 - inset), height * (1 - inset)),
        )
        sweep = ImageChops.offset(beam, round(width * (share - 0.5)), round(height * 0.2 * math.sin(3 * share)))
        yield ImageChops.add(frame, Image.merge("RGB", (sweep, sweep, sweep)))


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
