"""Draws the sample pictures: four products on a plain studio ground."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image, ImageDraw, ImageFilter, ImageOps

_SIDE = 640
_SCALE = 3  # drawn larger and reduced, for smooth edges


def draw_sample(product: str) -> Image.Image:
    """Draw a sample.

    :param product: ``sneaker``, ``lamp``, ``mug`` or ``chair``.
    """
    ground = ImageOps.colorize(Image.linear_gradient("L").resize((_SIDE, _SIDE)), "#f4f1ec", "#d9d2c7")
    shadow = Image.new("L", (_SIDE, _SIDE))
    ImageDraw.Draw(shadow).ellipse((110, 515, 530, 580), fill=120)
    ground.paste((70, 62, 56), (0, 0), shadow.filter(ImageFilter.GaussianBlur(16)))
    layer = Image.new("RGBA", (_SIDE * _SCALE, _SIDE * _SCALE))
    _PRODUCTS[product](_Pencil(layer))
    layer = layer.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    ground.paste(layer, (0, 0), layer)
    return ground


class _Pencil:
    """Draws in the coordinates of the finished picture."""

    def __init__(self, layer: Image.Image) -> None:
        self._draw = ImageDraw.Draw(layer)

    def shape(self, colour: str, *points: tuple[float, float]) -> None:
        self._draw.polygon([(x * _SCALE, y * _SCALE) for x, y in points], fill=colour)

    def line(self, colour: str, width: float, *points: tuple[float, float]) -> None:
        scaled = [(x * _SCALE, y * _SCALE) for x, y in points]
        self._draw.line(scaled, fill=colour, width=round(width * _SCALE), joint="curve")
        radius = width * _SCALE / 2
        for x, y in (scaled[0], scaled[-1]):
            self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)

    def oval(self, colour: str, *box: float) -> None:
        self._draw.ellipse([side * _SCALE for side in box], fill=colour)

    def bar(self, colour: str, radius: float, *box: float) -> None:
        self._draw.rounded_rectangle([side * _SCALE for side in box], radius * _SCALE, fill=colour)

    def arc(self, colour: str, width: float, begin: float, end: float, *box: float) -> None:
        self._draw.arc([side * _SCALE for side in box], begin, end, fill=colour, width=round(width * _SCALE))


def _curve(*points: tuple[float, float]) -> list[tuple[float, float]]:
    """A smooth line through the points (Catmull-Rom)."""
    ends = (points[0], *points, points[-1])
    line = []
    for a, b, c, d in zip(ends, ends[1:], ends[2:], ends[3:], strict=False):
        for step in range(12):
            t = step / 12
            line.append(
                tuple(
                    0.5
                    * (2 * q + (r - p) * t + (2 * p - 5 * q + 4 * r - s) * t**2 + (3 * q - p - 3 * r + s) * t**3)
                    for p, q, r, s in zip(a, b, c, d, strict=True)
                )
            )
    return [(x, y) for x, y in [*line, points[-1]]]


def _sneaker(pencil: _Pencil) -> None:
    upper = _curve(
        (120, 500), (112, 420), (130, 330), (205, 318), (262, 352), (330, 400), (430, 436), (520, 466), (538, 505)
    )
    pencil.shape("#d8513a", *upper, (120, 505))
    pencil.shape("#b23c29", *_curve((120, 500), (112, 420), (130, 330), (176, 322), (196, 400), (190, 505)))
    pencil.shape("#f6efe4", *_curve((430, 436), (480, 448), (520, 466), (538, 505)), (420, 505), (404, 470))
    pencil.line("#f6efe4", 15, *_curve((190, 470), (270, 478), (340, 450), (372, 420)))
    for step in range(4):
        x, y = 262 + 36 * step, 356 + 21 * step
        pencil.line("#fbf7f0", 9, (x - 10, y + 22), (x + 22, y - 4))
    pencil.bar("#fbf7f0", 20, 104, 496, 552, 548)
    pencil.bar("#b9a58f", 8, 108, 534, 548, 552)


def _lamp(pencil: _Pencil) -> None:
    pencil.oval("#33373d", 220, 520, 420, 566)
    pencil.line("#3f444b", 12, (320, 536), (320, 300))
    pencil.shape("#e9b44c", (238, 130), (402, 130), (462, 316), (178, 316))
    pencil.shape("#f6cf7d", (238, 130), (300, 130), (268, 316), (178, 316))
    pencil.oval("#fff3cf", 178, 298, 462, 334)
    pencil.oval("#c9943a", 238, 120, 402, 140)


def _mug(pencil: _Pencil) -> None:
    pencil.arc("#2f6f73", 30, -95, 95, 372, 286, 520, 456)
    pencil.shape(
        "#3a8a8f", (170, 240), (430, 240), *_curve((430, 500), (405, 546), (300, 556), (195, 546), (170, 500))
    )
    pencil.shape("#4fa3a7", (186, 240), (250, 240), *_curve((246, 546), (215, 540), (192, 505)))
    pencil.oval("#57adb1", 170, 208, 430, 276)
    pencil.oval("#3b2a20", 188, 220, 412, 268)


def _chair(pencil: _Pencil) -> None:
    for x, lean in ((214, -16), (426, 16), (250, -4), (392, 4)):
        pencil.line("#8a5a36", 13, (x, 400), (x + lean, 556))
    pencil.bar("#5d7a57", 30, 206, 130, 434, 350)
    pencil.bar("#6f8f68", 24, 222, 146, 418, 334)
    pencil.line("#8a5a36", 12, (228, 340), (228, 400))
    pencil.line("#8a5a36", 12, (412, 340), (412, 400))
    pencil.shape(
        "#5d7a57",
        *_curve(
            (188, 404),
            (210, 372),
            (320, 362),
            (430, 372),
            (452, 404),
            (430, 424),
            (320, 430),
            (210, 424),
            (188, 404),
        ),
    )
    pencil.shape(
        "#6f8f68", *_curve((204, 398), (220, 376), (320, 368), (420, 376), (436, 398), (320, 408), (204, 398))
    )


_PRODUCTS: dict[str, Callable[[_Pencil], None]] = {
    "sneaker": _sneaker,
    "lamp": _lamp,
    "mug": _mug,
    "chair": _chair,
}
