"""Text outputs, written from the inputs of a run: the same inputs give the same text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from random import Random

_TEMPLATES = {
    "critique": (
        "The composition holds, yet the eye has two places to go. Give {subject} the light and let the rest "
        "fall back. {verdict}"
    ),
    "log": "00:00 opening on {subject}. 00:01 move in, hold. 00:02 out. {verdict}",
    "answer": "On {subject}: the short answer is yes, with one condition. {verdict}",
    "palette": "{colours}",
    "taglines": "1. {subject}, without the noise.\n2. Made for the second look.\n3. {verdict}",
}
_OF_ANY_OTHER = "{subject}. {verdict}"
_VERDICTS = (
    "Less, and bolder.",
    "Keep the shadow; lose the clutter.",
    "It earns a second look.",
    "Quiet, sure of itself, ready to ship.",
)


def text_inputs(inputs: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """The values of the text inputs, by the id of their slot."""
    return {item["id"]: item["value"] for item in inputs if item["type"] == "text"}


def write_text(technique_slug: str, output_id: str, inputs: Iterable[Mapping[str, str]]) -> str:
    """Write a text output.

    :param technique_slug: the technique.
    :param output_id: the output.
    :param inputs: the inputs of the run.
    """
    inputs = tuple(inputs)
    chance = Random(repr([technique_slug, output_id, [(item["id"], item["value"]) for item in inputs]]))
    words = " / ".join(text_inputs(inputs).values())
    colours = ", ".join(f"#{chance.randrange(0x1000000):06x}" for _ in range(5))
    return _TEMPLATES.get(output_id, _OF_ANY_OTHER).format(
        subject=words or "the subject", verdict=chance.choice(_VERDICTS), colours=colours
    )
