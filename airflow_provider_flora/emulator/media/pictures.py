"""Draws the pictures that runs give: stills that show the inputs.

Text is drawn as text. A photo among the inputs is pasted in and visibly relit, so a chain of techniques can be
followed by eye.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_SIZES = {"1:1": (768, 768), "4:5": (720, 900), "16:9": (960, 540), "9:16": (540, 960)}
# Each palette goes from shadow over midtone to light, then an accent for what must be read.
_PALETTES: tuple[tuple[Colour, Colour, Colour, Colour], ...] = (
    ((24, 26, 44), (92, 74, 130), (244, 178, 148), (255, 214, 170)),
    ((15, 34, 40), (38, 104, 108), (214, 226, 190), (250, 240, 200)),
    ((38, 20, 26), (146, 58, 62), (246, 190, 120), (255, 224, 178)),
    ((18, 22, 34), (66, 92, 140), (206, 220, 236), (240, 246, 255)),
    ((30, 30, 26), (110, 112, 84), (236, 224, 196), (255, 246, 222)),
    ((34, 16, 44), (124, 50, 118), (246, 158, 174), (255, 214, 226)),
)
_LIGHTS: tuple[tuple[tuple[str, ...], Colour], ...] = (
    (("gold", "sunset", "warm", "candle", "autumn", "amber"), (255, 190, 96)),
    (("neon", "pink", "magenta", "club"), (255, 92, 190)),
    (("moon", "blue", "night", "cold", "winter"), (110, 160, 255)),
    (("overcast", "soft", "grey", "gray", "cloud"), (206, 214, 222)),
    (("green", "forest", "jungle", "moss"), (150, 226, 140)),
)

_PHOTO_SHARE = 0.76
"""How much of the height photos take; the rest is for text."""
_MOST_LETTERS = 900
_LARGEST_PHOTO = (1024, 1024)
_LEAST_PIXELS = 13


@dataclass(frozen=True)
class Subject:
    """What a picture shows: a title, texts and photos, in a size.

    :param seed: decides palette and composition.
    :param title: the name of the technique.
    :param label: the name of the output, where the technique has several.
    :param texts: the text inputs of the run, by slot.
    :param photos: the photos among its inputs.
    :param size: width and height in pixels.
    """

    seed: str
    title: str
    label: str = ""
    texts: dict[str, str] = field(default_factory=dict)
    photos: list[Image.Image] = field(default_factory=list)
    size: tuple[int, int] = _SIZES["1:1"]

    def scaled_to(self, longest: int) -> Subject:
        """The same subject with this longest side in pixels. Both sides are even, as videos need."""
        scale = longest / max(self.size)
        width, height = (2 * round(side * scale / 2) for side in self.size)
        return replace(self, size=(width, height))


def pixel_size_for(aspect_ratio: str | None) -> tuple[int, int]:
    """The size in pixels for an aspect ratio such as ``16:9``; square for an unknown one.

    :param aspect_ratio: the one that a slot specifies.
    """
    return _SIZES.get(aspect_ratio or "", _SIZES["1:1"])


def as_png(image: Image.Image) -> bytes:
    """The image as a PNG file.

    :param image: any image.
    """
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=4)
    return file.getvalue()


def draw_picture(subject: Subject) -> Image.Image:
    """Draw the still: the scene and the text.

    :param subject: what it shows.
    """
    canvas = Image.new("RGB", subject.size)
    canvas.paste(draw_scene(subject), (0, 0))
    words = draw_lettering(subject)
    canvas.paste(words, (0, 0), words)
    return canvas


def draw_scene(subject: Subject) -> Image.Image:
    """Draw the still without its text: the photos under a new light, or a still life.

    :param subject: what it shows.
    """
    chance, palette = _choose_style(subject)
    if not subject.photos:
        ground = _draw_backdrop(chance, palette, subject.size)
        _draw_ornament(ground, chance, palette)
        return ground
    width, height = subject.size[0], round(subject.size[1] * _PHOTO_SHARE)
    words = " ".join(subject.texts.values()).lower()
    light = _choose_light(words, chance)
    from_left = "left" in words or ("right" not in words and chance.random() < 0.5)
    ground = Image.new("RGB", (width, height))
    for photo, (left, right) in zip(subject.photos, _columns(width, len(subject.photos)), strict=True):
        ground.paste(_relight(_frame(photo, (right - left, height)), light, from_left), (left, 0))
    return ground


def read_photo(path: Path) -> Image.Image | None:
    """Read an uploaded picture; ``None`` when it cannot be read.

    :param path: the file.
    """
    try:
        with Image.open(path) as image:
            image.thumbnail(_LARGEST_PHOTO)
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def draw_lettering(subject: Subject) -> Image.Image:
    """Draw the text, to be laid over the scene. A subject with photos has it on a band of its own.

    :param subject: what it shows.
    """
    palette = _choose_style(subject)[1]
    width, height = subject.size
    margin = min(subject.size) // 16
    layer = Image.new("RGBA", subject.size)
    caption = [f"{slot}: {words}" for slot, words in subject.texts.items()]
    top = margin
    if subject.photos:
        band = round(height * _PHOTO_SHARE)
        ImageDraw.Draw(layer).rectangle((0, band, width, height), fill=(*palette[0], 255))
        top = band + margin // 2
    elif len(subject.texts) == 1:
        caption = list(subject.texts.values())
    _letter(layer, subject, caption, palette, (margin, top, width - margin, height - margin // 2))
    return layer


def _choose_style(subject: Subject) -> tuple[Random, tuple[Colour, ...]]:
    chance = Random(subject.seed)
    return chance, chance.choice(_PALETTES)


@lru_cache(maxsize=64)
def _font(pixels: int, latin: bool) -> Font:
    # Pillow's own font is always there, but has Latin letters only.
    if not latin:
        try:
            return ImageFont.truetype("DejaVuSans.ttf", pixels)
        except OSError:
            pass
    return ImageFont.load_default(pixels)


def font_for(pixels: int, text: str = "") -> Font:
    """A font that has the letters of this text.

    :param pixels: its size.
    :param text: the text to write.
    """
    return _font(pixels, all(ord(letter) < 0x250 or 0x2010 <= ord(letter) <= 0x2026 for letter in text))


class _Lengths(Sequence[float]):
    """How wide the beginnings of a word are, each measured when it is read."""

    def __init__(self, face: Font, word: str) -> None:
        self._face = face
        self._word = word

    def __len__(self) -> int:
        return len(self._word)

    def __getitem__(self, place: Any) -> Any:
        return self._face.getlength(self._word[: place + 1])


def wrap(text: str, face: Font, width: int) -> list[str]:
    """Break the text into lines no wider than this; a word that is wider is broken too.

    :param text: any text.
    :param face: the font.
    :param width: the width in pixels.
    """
    lines = []
    for paragraph in text.splitlines() or [""]:
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}" if line else word
            if face.getlength(longer) <= width:
                line = longer
                continue
            if line:
                lines.append(line)
            while face.getlength(word) > width and len(word) > 1:
                cut = max(1, bisect_right(_Lengths(face, word), width))
                lines.append(word[:cut])
                word = word[cut:]
            line = word
        lines.append(line)
    return lines


def _letter(
    canvas: Image.Image,
    subject: Subject,
    caption: list[str],
    palette: tuple[Colour, ...],
    box: tuple[int, int, int, int],
) -> None:
    """Write the title and, as large as fits, the text into the box."""
    left, top, right, bottom = box
    draw = ImageDraw.Draw(canvas)
    small = max(14, min(canvas.size) // 34)
    heading = subject.title.upper() + (f"  ·  {subject.label}" if subject.label else "")
    draw.text((left, top), heading, fill=palette[3], font=_font(small, True))
    top += round(small * 1.7)
    text = "\n".join(caption)
    text = text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}…"
    pixels = min(canvas.size) // (24 if subject.photos else 12)
    while True:
        face = font_for(pixels, text)
        lines = wrap(text, face, right - left)
        room = max(1, int((bottom - top) // (pixels * 1.3)))
        if len(lines) <= room or pixels <= _LEAST_PIXELS:
            break
        pixels = max(_LEAST_PIXELS, round(pixels * 0.88))
    if len(lines) > room:
        lines = [*lines[: room - 1], f"{lines[room - 1][:-1]}…"]
    for place, line in enumerate(lines):
        draw.text((left, top + round(place * pixels * 1.3)), line, fill=(255, 255, 255), font=face)


def _draw_backdrop(chance: Random, palette: tuple[Colour, ...], size: tuple[int, int]) -> Image.Image:
    """Draw a soft gradient with a few glows, dark enough for white text."""
    small = (size[0] // 6, size[1] // 6)
    slope = Image.linear_gradient("L").rotate(chance.choice((0, 180)) + chance.uniform(-25, 25), expand=True)
    slope = slope.crop((64, 64, slope.width - 64, slope.height - 64)).resize(small)
    scene = ImageOps.colorize(slope, _rgb(palette[0]), _rgb(palette[1]))
    draw = ImageDraw.Draw(scene, "RGBA")
    for _ in range(4):
        radius = chance.uniform(0.12, 0.3) * max(small)
        x, y = chance.uniform(0, small[0]), chance.uniform(0, small[1])
        glow = (*chance.choice(palette[1:3]), chance.randint(30, 80))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=glow)
    return scene.filter(ImageFilter.GaussianBlur(max(small) / 14)).resize(size, Image.Resampling.BICUBIC)


def _draw_ornament(canvas: Image.Image, chance: Random, palette: tuple[Colour, ...]) -> None:
    """Draw a still life in the lower half: a sun or moon, and hills before it."""
    width, height = canvas.size
    scene = Image.new("RGBA", (2 * width, 2 * height))
    draw = ImageDraw.Draw(scene)
    radius = chance.uniform(0.2, 0.3) * min(scene.size)
    x, y = chance.uniform(0.3, 0.7) * scene.width, 0.68 * scene.height
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(*palette[2], 235))
    for layer, share in enumerate((0.74, 0.83, 0.92)):
        tone = tuple(round(a + (b - a) * (0.75 - 0.3 * layer)) for a, b in zip(palette[0], palette[1], strict=True))
        centre, reach = chance.uniform(0, 1) * scene.width, chance.uniform(0.7, 1.1) * scene.width
        crest, base = share * scene.height, 1.6 * scene.height
        draw.ellipse((centre - reach, crest, centre + reach, base), fill=(*tone, 255))
    scene = scene.resize(canvas.size, Image.Resampling.LANCZOS)
    canvas.paste(scene, (0, 0), scene)


def _columns(width: int, count: int) -> list[tuple[int, int]]:
    return [(width * place // count, width * (place + 1) // count) for place in range(count)]


def _choose_light(words: str, chance: Random) -> Colour:
    """The colour of the light that the text asks for."""
    for names, colour in _LIGHTS:
        if any(name in words.lower() for name in names):
            return colour
    return chance.choice(_LIGHTS)[1]


def _frame(photo: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Fit the whole photo into this size, and fill the rest with a blur of it, without a seam."""
    ground = ImageOps.fit(photo, size).filter(ImageFilter.GaussianBlur(min(size) // 3))
    whole = ImageOps.contain(photo, size)
    place = ((size[0] - whole.width) // 2, (size[1] - whole.height) // 2)
    seam = min(size) // 16
    mask = Image.new("L", size)
    free = [seam if gap else 0 for gap in place]
    edges = (place[0] + free[0], place[1] + free[1], size[0] - place[0] - free[0], size[1] - place[1] - free[1])
    mask.paste(255, edges)
    mask = mask.filter(ImageFilter.GaussianBlur(seam // 3)) if any(free) else mask
    ground.paste(whole, place, mask.crop((*place, place[0] + whole.width, place[1] + whole.height)))
    return ground


def _relight(photo: Image.Image, light: Colour, from_left: bool) -> Image.Image:
    """Light the photo again from one side, and leave the other in shadow."""
    width, height = photo.size
    beam = ImageOps.invert(Image.radial_gradient("L").resize((2 * width, 2 * height)))
    left = round(width * (0.8 if from_left else 0.2))
    beam = beam.crop((left, round(0.7 * height), left + width, round(1.7 * height)))
    shade = ImageOps.colorize(beam, _rgb((40, 42, 72)), _rgb((255, 255, 255)), mid=_rgb(light), midpoint=150)
    glow = ImageOps.colorize(beam, "#000000", _rgb(tuple(part // 8 for part in light)))
    lit = ImageEnhance.Contrast(photo).enhance(1.12)
    return ImageChops.add(ImageChops.multiply(lit, shade), glow)


def _rgb(colour: tuple[Any, ...]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
