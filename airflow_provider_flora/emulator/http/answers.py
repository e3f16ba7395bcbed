"""Answers of compact JSON."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web


def answer_json(payload: Any, **headers: str) -> web.Response:
    """An answer of compact JSON.

    :param payload: the JSON.
    :param headers: headers of the answer.
    """
    text = json.dumps(payload, separators=(",", ":"))
    return web.Response(text=text, content_type="application/json", headers=headers)
