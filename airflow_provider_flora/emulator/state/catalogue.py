"""The techniques that the emulator offers, as data, and their changes while it runs.

Together they use every type of slot in both directions, and every mark that a slot can have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

RUN_INPUT_TYPES = ("text", "imageUrl", "videoUrl")
"""The types of a run's inputs. A slot may have another type: no run can fill it."""


@dataclass(frozen=True)
class Slot:
    """One input or output of a technique; the fields are Flora's."""

    id: str
    name: str
    type: str
    description: str | None = None
    optional: bool = False
    allow_multiple: bool = False
    accepts_element: bool = False
    specified_aspect_ratio: str | None = None
    specified_duration: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The slot as JSON: fields without a value are left out."""
        return {name: value for name, value in vars(self).items() if value or name in ("id", "name", "type")}

    @classmethod
    def from_json(cls, slot: Any) -> Slot:
        """Read a slot in the form of :meth:`as_json`. Fields that no slot has here are ignored.

        :raises ValueError: when it is not valid.
        """
        if not isinstance(slot, Mapping):
            raise ValueError(f"a slot is {slot!r}: it must be an object with an id and a type")
        for name in ("id", "type"):
            _check_text(slot, name)
        known = {field.name: slot[field.name] for field in fields(cls) if slot.get(field.name) is not None}
        return cls(**{"name": slot["id"], **known})


@dataclass(frozen=True)
class Technique:
    """A technique, addressed by its id or its slug.

    :param technique_id: its id, made of its first slug; it stays when the slug changes.
    """

    slug: str
    name: str
    description: str
    run_cost: float
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    technique_id: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "technique_id", self.technique_id or f"tech_{self.slug}")

    def input(self, slot_id: str) -> Slot | None:
        """The input slot of that id, if there is one."""
        return next((slot for slot in self.inputs if slot.id == slot_id), None)

    def output(self, slot_id: str) -> Slot | None:
        """The output slot of that id, if there is one."""
        return next((slot for slot in self.outputs if slot.id == slot_id), None)

    def as_json(self) -> dict[str, Any]:
        """The technique as JSON."""
        return {
            "technique_id": self.technique_id,
            "slug": self.slug,
            "name": self.name,
            "description": self.description,
            "run_cost": self.run_cost,
            "inputs": [slot.as_json() for slot in self.inputs],
            "outputs": [slot.as_json() for slot in self.outputs],
        }

    @classmethod
    def from_json(cls, technique: Mapping[str, Any]) -> Technique:
        """Read a technique in the form in which Flora's API gives it. Fields that none has here are ignored.

        :raises ValueError: when it is not valid.
        """
        _check_text(technique, "technique_id")
        technique_id, cost = technique["technique_id"], technique.get("run_cost")
        if isinstance(cost, bool) or not isinstance(cost, (int, float)) or cost < 0:
            raise ValueError(f"run_cost of {technique_id!r} is {cost!r}: it must be a number of USD")
        slots = {}
        for name in ("inputs", "outputs"):
            if not isinstance(technique.get(name), list):
                raise ValueError(
                    f"{name} of {technique_id!r} is {technique.get(name)!r}: it must be a list of slots"
                )
            slots[name] = tuple(map(Slot.from_json, technique[name]))
        return cls(
            slug=technique.get("slug") or technique_id,
            name=technique.get("name") or technique_id,
            description=technique.get("description") or "",
            run_cost=cost,
            technique_id=technique_id,
            **slots,
        )


def _check_text(fields: Mapping[str, Any], name: str) -> None:
    if not isinstance(fields.get(name), str) or not fields[name]:
        raise ValueError(f"{name} is {fields.get(name)!r}: it must be a text that is not empty")


def _image(slot_id: str, name: str, **marks: Any) -> Slot:
    return Slot(slot_id, name, "imageUrl", **marks)


def _text(slot_id: str, name: str, **marks: Any) -> Slot:
    return Slot(slot_id, name, "text", **marks)


def _video(slot_id: str, name: str, **marks: Any) -> Slot:
    return Slot(slot_id, name, "videoUrl", **marks)


TECHNIQUES: tuple[Technique, ...] = (
    Technique(
        "art-directors-critique",
        "Art Director's Critique",
        "Analyze, critique, and redesign any creative asset.",
        0.12,
        (_image("asset", "Asset"), _text("brief", "Brief", optional=True)),
        (_text("critique", "Critique"), _image("redesign", "Redesign")),
    ),
    Technique(
        "auto-translate",
        "Auto Translate",
        "Translate text in images instantly",
        0.08,
        (_image("image", "Image"), _text("language", "Language", description="For example: Portuguese.")),
        (_image("translated", "Translated image"),),
    ),
    Technique(
        "book-drop",
        "Book Drop",
        "Mocks up front and back book covers",
        0.22,
        (_image("cover", "Cover", specified_aspect_ratio="4:5"), _text("blurb", "Blurb", optional=True)),
        (
            _image("front", "Front", specified_aspect_ratio="4:5"),
            _image("back", "Back", specified_aspect_ratio="4:5"),
        ),
    ),
    Technique(
        "cctv-cam",
        "CCTV Cam",
        "Any face, CCTV style",
        0.05,
        (_image("face", "Face", accepts_element=True),),
        (_image("footage", "Footage", specified_aspect_ratio="16:9"),),
    ),
    Technique(
        "character-lock",
        "Character Lock",
        "One character, 6 different angles",
        0.42,
        (_image("character", "Character", accepts_element=True), _text("style", "Style", optional=True)),
        tuple(_image(f"angle_{angle}", f"Angle {angle}") for angle in range(1, 7)),
    ),
    Technique(
        "clip-recut",
        "Clip Recut",
        "A tighter cut of your clip, and what it shows",
        0.25,
        (_video("clip", "Clip"), _text("mood", "Mood", optional=True)),
        (
            _video("recut", "Recut", specified_aspect_ratio="9:16", specified_duration=2),
            _text("log", "Shot log"),
        ),
    ),
    Technique(
        "deck-answers",
        "Deck Answers",
        "Answers a question about a deck",
        0.02,
        (_text("question", "Question"), Slot("deck", "Deck", "documentUrl", optional=True)),
        (_text("answer", "Answer"),),
    ),
    Technique(
        "editorial-still",
        "Editorial Still",
        "A magazine-quality still from a prompt",
        0.09,
        (_text("prompt", "Prompt", description="Describe the desired image."),),
        (_image("still", "Still", specified_aspect_ratio="4:5"),),
    ),
    Technique(
        "lip-sync",
        "Lip Sync",
        "Makes a portrait speak; needs audio, which this API does not accept as an input",
        0.8,
        (_image("portrait", "Portrait"), Slot("speech", "Speech", "audioUrl", specified_duration=10)),
        (_video("talking", "Talking portrait", specified_aspect_ratio="9:16"),),
    ),
    Technique(
        "palette-pull",
        "Palette Pull",
        "Extract color palettes from any image",
        0.0,
        (_image("image", "Image"),),
        (_text("palette", "Palette"),),
    ),
    Technique(
        "press-kit",
        "Press Kit",
        "One page for the press from a few words",
        0.15,
        (_text("announcement", "Announcement"), _image("picture", "Picture", optional=True)),
        (Slot("kit", "Press kit", "documentUrl"),),
    ),
    Technique(
        "product-lookbook-grid",
        "Product Lookbook Grid",
        "Turn products into styled grid layouts",
        0.3,
        (_image("products", "Products", allow_multiple=True), _text("theme", "Theme", optional=True)),
        (_image("grid", "Grid"),),
    ),
    Technique(
        "product-motion",
        "Product Motion",
        "Animate product shots in one click",
        0.55,
        (_image("photo", "Photo"), _text("motion", "Motion", optional=True)),
        (_video("video", "Video", specified_aspect_ratio="16:9", specified_duration=2),),
    ),
    Technique(
        "product-relight",
        "Product Relight",
        "Relights your product photo",
        0.18,
        (
            _image("photo", "Photo", description="The product, on any background."),
            _text("light", "Light", description="The light you want: golden hour, neon, overcast."),
            _text("background", "Background", optional=True),
        ),
        (_image("image", "Relit photo", specified_aspect_ratio="1:1"),),
    ),
    Technique(
        "script-to-clips",
        "Script to Clips",
        "A short script becomes three clips",
        0.96,
        (_text("script", "Script"),),
        tuple(_video(f"clip_{clip}", f"Clip {clip}", specified_aspect_ratio="16:9") for clip in (1, 2, 3)),
    ),
    Technique(
        "tagline-writer",
        "Tagline Writer",
        "Three taglines from a brief",
        0.01,
        (_text("brief", "Brief"),),
        (_text("taglines", "Taglines"),),
    ),
    Technique(
        "ten-takes",
        "Ten Takes",
        "Ten takes of one scene",
        1.1,
        (_text("script", "Script"),),
        tuple(_video(f"take_{take}", f"Take {take}", specified_aspect_ratio="16:9") for take in range(1, 11)),
    ),
    Technique(
        "voice-over",
        "Voice Over",
        "Reads your script aloud",
        0.07,
        (_text("script", "Script"), _text("voice", "Voice", optional=True)),
        (Slot("recording", "Recording", "audioUrl"),),
    ),
    Technique(
        "wonder-fy",
        "Wonder(fy)",
        "Apply Wonder's cinematic style to images",
        0.06,
        (_image("image", "Image"),),
        (_image("wonder", "Wonder", specified_aspect_ratio="16:9"),),
    ),
)


class Catalogue:
    """The techniques with their changes."""

    def __init__(self) -> None:
        self._at_first = TECHNIQUES
        self.clear()

    def clear(self) -> None:
        """Undo every change."""
        self._techniques = {technique.technique_id: technique for technique in self._at_first}
        self._index()

    def all(self) -> list[Technique]:
        """Every technique, sorted by id."""
        return [self._techniques[technique_id] for technique_id in sorted(self._techniques)]

    def find(self, address: str) -> Technique | None:
        """The technique of that id or slug, if there is one."""
        return self._by_address.get(address)

    def change(self, technique: Technique, **changes: Any) -> Technique:
        """Change this technique from now on. Runs that were started keep the technique as it was.

        :param technique: the technique.
        :param changes: its new ``slug``, ``name`` or ``run_cost``.
        :raises ValueError: when another technique has that slug.
        """
        changed = replace(technique, **changes)
        if self.find(changed.slug) not in (None, technique):
            raise ValueError(f"slug is {changed.slug!r}: another technique has it")
        self._techniques[technique.technique_id] = changed
        self._index()
        return changed

    def add(self, technique: Technique) -> None:
        """Add this technique. It takes the place of those with its id or its slug.

        :param technique: the technique.
        """
        for address in (technique.technique_id, technique.slug):
            if (former := self.find(address)) is not None:
                self.delete(former)
        self._techniques[technique.technique_id] = technique
        self._index()

    def delete(self, technique: Technique) -> None:
        """Delete this technique.

        :param technique: the technique.
        """
        del self._techniques[technique.technique_id]
        self._index()

    def _index(self) -> None:
        self._by_address = {
            address: technique
            for technique in self._techniques.values()
            for address in (technique.technique_id, technique.slug)
        }
