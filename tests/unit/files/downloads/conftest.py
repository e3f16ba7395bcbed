"""A scripted server of media."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.files.downloads.media_server import MediaServer


@pytest.fixture
def media() -> Iterator[MediaServer]:
    server = MediaServer()
    yield server
    server.close()
