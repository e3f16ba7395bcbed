"""What a technique "writes": the text outputs, made from the inputs. The same inputs, the same text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from random import Random

from airflow_provider_flora.emulator.catalogue import Slot, Technique

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
_VERDICTS = (
    "Less, and bolder.",
    "Keep the shadow; lose the clutter.",
    "It earns a second look.",
    "Quiet, sure of itself, ready to ship.",
)


def text_inputs(inputs: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """The inputs that are words, by the id of their slot."""
    return {item["id"]: item["value"] for item in inputs if item["type"] == "text"}


def text_output(technique: Technique, slot: Slot, inputs: Iterable[Mapping[str, str]]) -> str:
    """The text that a run of this technique with these inputs gives for that slot.

    :param technique: What is run.
    :param slot: Which of its outputs.
    :param inputs: What the run was given.
    """
    inputs = tuple(inputs)
    chance = Random(repr([technique.slug, slot.id, [(item["id"], item["value"]) for item in inputs]]))
    words = " / ".join(text_inputs(inputs).values())
    colours = ", ".join(f"#{chance.randrange(0x1000000):06x}" for _ in range(5))
    return _TEMPLATES[slot.id].format(
        subject=words or "the subject", verdict=chance.choice(_VERDICTS), colours=colours
    )
