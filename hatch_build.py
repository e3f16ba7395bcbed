"""The README as the package page shows it: hatchling calls this when it builds.

The links of README.md are relative, so that they work in a clone, a fork and each branch. A package page has no
other files beside it, so there they lead to the code host.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

RELATIVE_LINK = re.compile(r"\]\((?![a-z]+:|#)([^)]+)\)")


class ReadmeHook(MetadataHookInterface):
    """Sets the dynamic field ``readme``."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Called by hatchling with what pyproject.toml says."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": with_absolute_links(text, metadata["urls"]["Source"]),
        }


def with_absolute_links(text: str, source: str) -> str:
    """Return a Markdown text whose relative links lead to the files at a code host."""
    return RELATIVE_LINK.sub(rf"]({source}/blob/main/\1)", text)
