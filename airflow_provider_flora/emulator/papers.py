"""Makes documents: one page with a picture and the words under it."""

from __future__ import annotations

import io
from dataclasses import replace

from PIL import Image, ImageDraw

from airflow_provider_flora.emulator.pictures import Look, font, picture, wrapped

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
    figure = picture(replace(look, texts={} if look.photos else look.texts, size=(width, 620)))
    page.paste(figure, (_MARGIN, 240))
    text = "\n\n".join(look.texts.values())
    face = font(34, text)
    for place, line in enumerate(wrapped(text, face, width)[:14]):
        draw.text((_MARGIN, 920 + 50 * place), line, fill=_INK, font=face)
    file = io.BytesIO()
    page.save(file, "PDF", resolution=150)
    return file.getvalue()
