"""Makes videos: a still through which a camera and a light move."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator

import av
from PIL import Image, ImageChops, ImageOps

from airflow_provider_flora.emulator.media.pictures import Subject, draw_lettering, draw_scene
from airflow_provider_flora.emulator.media.samples import draw_sample

FRAMES_A_SECOND = 24
_LONGEST_SIDE = 640


def make_video(subject: Subject, seconds: float) -> bytes:
    """Make an MP4 file with H.264.

    :param subject: what it shows.
    :param seconds: its duration.
    """
    subject = subject.scaled_to(_LONGEST_SIDE)
    frames = _move(draw_scene(subject), round(seconds * FRAMES_A_SECOND))
    return _encode(_letter(frames, draw_lettering(subject)))


def sample_clip() -> bytes:
    """The sample video: a slow push in on the sneaker."""
    still = ImageOps.fit(draw_sample("sneaker"), (480, 480))
    return _encode(_move(still, 2 * FRAMES_A_SECOND))


def _move(ground: Image.Image, count: int) -> Iterator[Image.Image]:
    """Make frames: a slow push in, while a light passes over the scene."""
    width, height = ground.size
    beam = ImageOps.invert(Image.radial_gradient("L")).resize(ground.size).point(lambda level: level // 5)
    for number in range(count):
        share = number / max(1, count - 1)
        x, y = 0.05 * share * width, 0.05 * share * height
        frame = ground.resize(ground.size, Image.Resampling.BILINEAR, box=(x, y, width - x, height - y))
        sweep = ImageChops.offset(beam, round(width * (share - 0.5)), round(height * 0.2 * math.sin(3 * share)))
        yield ImageChops.add(frame, Image.merge("RGB", (sweep, sweep, sweep)))


def _letter(frames: Iterator[Image.Image], words: Image.Image) -> Iterator[Image.Image]:
    """Lay words that stand still over the frames."""
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
