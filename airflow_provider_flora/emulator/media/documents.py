"""Makes documents: one page with a picture and text below it."""

from __future__ import annotations

import io
from dataclasses import replace

from PIL import Image, ImageDraw

from airflow_provider_flora.emulator.media.pictures import Subject, draw_scene, font_for, wrap

_PAGE = (1240, 1754)
_MARGIN = 110
_INK = (34, 34, 40)


def make_document(subject: Subject) -> bytes:
    """Make a PDF file of one A4 page.

    :param subject: what it shows.
    """
    page = Image.new("RGB", _PAGE, (252, 250, 246))
    draw = ImageDraw.Draw(page)
    draw.text((_MARGIN, _MARGIN), subject.title, fill=_INK, font=font_for(64))
    width = _PAGE[0] - 2 * _MARGIN
    figure = draw_scene(replace(subject, size=(width, 680)))
    page.paste(figure, (_MARGIN, 240))
    text = "\n\n".join(subject.texts.values())
    face = font_for(34, text)
    top = 240 + figure.height + 70
    for place, line in enumerate(wrap(text, face, width)[: (_PAGE[1] - _MARGIN - top) // 50]):
        draw.text((_MARGIN, top + 50 * place), line, fill=_INK, font=face)
    file = io.BytesIO()
    page.save(file, "PDF", resolution=150)
    return file.getvalue()
