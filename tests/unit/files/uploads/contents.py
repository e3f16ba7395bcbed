"""Files of every type that Flora takes, made by the libraries that people make them with."""

from __future__ import annotations

import io
import struct
import tempfile
import wave
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import av
from PIL import Image, PngImagePlugin

from tests.unit.files.uploads.uploads import video


@cache
def noise(width: int = 160, height: int = 120) -> Image.Image:
    return Image.effect_noise((width, height), 80).convert("RGB")


def _saved(form: str, image: Image.Image | None = None, **words: Any) -> bytes:
    file = io.BytesIO()
    (image or noise()).save(file, form, **words)
    return file.getvalue()


def _frames() -> dict[str, Any]:
    return {"save_all": True, "append_images": [noise().rotate(angle) for angle in (30, 60, 90)]}


def _muxed(form: str, codec: str, **options: str) -> bytes:
    with tempfile.NamedTemporaryFile() as file:  # to write the head in the end, FFmpeg opens it by its name
        _mux(file.name, form, codec, options)
        return file.read()


def _mux(name: str, form: str, codec: str, options: dict[str, str]) -> None:
    with av.open(name, "w", format=form, options=options) as container:
        stream: Any = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for angle in range(20):
            frame = av.VideoFrame.from_image(noise().rotate(angle * 9))  # type: ignore[no-untyped-call]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def sound(form: str, codec: str, rate: int) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream: Any = container.add_stream(codec, rate=rate, layout="mono")
        to_codec = av.AudioResampler(
            format=stream.codec_context.format, layout="mono", rate=rate, frame_size=stream.codec_context.frame_size
        )
        for frame in _silence(rate):
            for piece in to_codec.resample(frame):
                container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return file.getvalue()


def _silence(rate: int) -> Iterator[Any]:
    for number in range(60):
        frame = av.AudioFrame(format="s16", layout="mono", samples=1024)
        frame.sample_rate, frame.pts = rate, number * 1024
        frame.planes[0].update(bytes(range(256)) * 8)
        yield frame


def _wav() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(range(256)) * 40)
    return file.getvalue()


def _with_long_text() -> bytes:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("workflow", "x" * 3_000_000, zip=True)
    return _saved("PNG", pnginfo=texts)


def _of_brand(brand: bytes) -> bytes:
    """A picture of the ISO family under another brand. HEVC cannot be encoded here."""
    return content("avif").replace(b"avif", brand)


def _mp4_of_brand(brand: bytes) -> bytes:
    return content("mp4")[:8] + brand + content("mp4")[12:]


def _to_the_end() -> bytes:
    fast = content("fast.mp4")
    at = fast.index(b"mdat") - 4
    return fast[:at] + b"\0\0\0\0" + fast[at + 4 :]


def _from_a_pipe() -> bytes:
    wav = content("wav")
    data = wav.index(b"data") + 4
    return b"RIFF" + b"\xff" * 4 + wav[8:data] + b"\xff" * 4 + wav[data + 4 :]


_MADE_BY: dict[str, Callable[[], bytes]] = {
    "jpg": lambda: _saved("JPEG"),
    "png": lambda: _saved("PNG"),
    "webp": lambda: _saved("WEBP"),
    "gif": lambda: _saved("GIF"),
    "avif": lambda: _saved("AVIF"),
    "mp4": lambda: _muxed("mp4", "libx264"),
    "mov": lambda: _muxed("mov", "libx264"),
    "webm": lambda: _muxed("webm", "libvpx"),
    "mp3": lambda: sound("mp3", "libmp3lame", 44100),
    "ogg": lambda: sound("ogg", "libopus", 48000),
    "wav": _wav,
    "pdf": lambda: _saved("PDF"),
    # Files that are as they should be, though not as most are.
    "a.heic": lambda: _of_brand(b"heic"),
    "a.heif": lambda: _of_brand(b"mif1"),
    "an avif.heif": lambda: content("avif"),
    "large.avif": lambda: _saved("AVIF", noise(640, 480)),
    "progressive.jpeg": lambda: _saved("JPEG", progressive=True),
    "grey.jpg": lambda: _saved("JPEG", noise().convert("L")),
    "for print.jpg": lambda: _saved("JPEG", noise().convert("CMYK")),
    "of two.jpg": lambda: _saved("MPO", save_all=True, append_images=[noise()]),
    "with a trailer.jpg": lambda: content("jpg") + b"\0" * 500,
    "with a large head.jpg": lambda: _saved("JPEG", exif=b"Exif\0\0" + b"x" * 60_000, icc_profile=b"x" * 300_000),
    "one pixel.png": lambda: _saved("PNG", noise(1, 1)),
    "moving.png": lambda: _saved("PNG", **_frames()),
    "with a long text.png": _with_long_text,
    "with a trailer.png": lambda: content("png") + b"\0" * 500,
    "moving.gif": lambda: _saved("GIF", **_frames()),
    "lossless.webp": lambda: _saved("WEBP", lossless=True),
    "moving.webp": lambda: _saved("WEBP", **_frames()),
    "a quicktime.mp4": lambda: content("mov"),
    "an mp4.mov": lambda: content("mp4"),
    "without a brand.mov": lambda: content("mov")[struct.unpack(">I", content("mov")[:4])[0] :],
    "of a new brand.mp4": lambda: _mp4_of_brand(b"dash"),
    "of apple.m4v": lambda: _mp4_of_brand(b"M4V "),
    "fast.mp4": lambda: _muxed("mp4", "libx264", movflags="faststart"),
    "to the end.mp4": _to_the_end,
    "in fragments.mp4": lambda: _muxed("mp4", "libx264", movflags="frag_keyframe+empty_moov"),
    "recorded live.webm": lambda: _muxed("webm", "libvpx", live="1"),
    "from a pipe.wav": _from_a_pipe,
    "with tags.mp3": lambda: content("mp3") + b"TAG" + b"x" * 125,
    "the sample.mp4": video,
}
TYPES = {
    **{"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp", "gif": "image/gif", "avif": "image/avif"},
    **{"mp4": "video/mp4", "mov": "video/mp4", "webm": "video/webm", "pdf": "application/pdf"},
    **{"mp3": "audio/mpeg", "ogg": "audio/ogg", "wav": "audio/wav"},
}
"""By extension, what one for each type that Flora takes is found to be; no file of the others can be made here."""
UNUSUAL = [name for name in _MADE_BY if "." in name]
WITHOUT_LENGTH = {
    *("ogg", "pdf", "recorded live.webm", "from a pipe.wav", "to the end.mp4"),  # their headers have no length
    "of two.jpg",  # the first is whole
    "with a long text.png",  # Pillow refuses to read further
}
"""Whether they are complete cannot be known."""


@cache
def content(name: str) -> bytes:
    """Return what is in a file: of an extension, or of one of the unusual names."""
    return _MADE_BY[name]()
