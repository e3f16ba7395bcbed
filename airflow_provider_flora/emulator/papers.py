"""Makes documents: one page with a picture and the words under it."""

from __future__ import annotations

import io
from dataclasses import replace

from PIL import Image, ImageDraw

from airflow_provider_flora.emulator.pictures import Look, font, scene, wrapped

_PAGE = (1240, 1754)
_MARGIN = 110
_INK = (34, 34, 40)


def paper(look: Look) -> bytes:
    """A PDF file of one A4 page.

    :param look: What it shows.
    """
    page = Image.new("RGB", _PAGE, (252, 250, 246))
    draw = ImageDraw.Draw(page)
    draw.text((_MARGIN, _MARGIN), look.title, fill=_INK, font=font(64))
    width = _PAGE[0] - 2 * _MARGIN
    figure = scene(replace(look, size=(width, 680)))
    page.paste(figure, (_MARGIN, 240))
    text = "\n\n".join(look.texts.values())
    face = font(34, text)
    top = 240 + figure.height + 70
    for place, line in enumerate(wrapped(text, face, width)[: (_PAGE[1] - _MARGIN - top) // 50]):
        draw.text((_MARGIN, top + 50 * place), line, fill=_INK, font=face)
    file = io.BytesIO()
    page.save(file, "PDF", resolution=150)
    return file.getvalue()
