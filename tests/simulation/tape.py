"""The choices that make a history, in the order in which they are asked for.

A new history draws them from its seed; a replayed one takes them from a list, and zeros when that is at its
end. Zero is the calmest choice everywhere, so that a history is shrunk by deleting choices and by making them
smaller.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

OptionT = TypeVar("OptionT")


class Tape:
    """The choices of one history.

    :param replay: choices to take in place of new ones.
    """

    __slots__ = ("_random", "_replay", "choices")

    def __init__(self, seed: int, replay: Sequence[int] | None = None) -> None:
        self.choices: list[int] = []
        self._random = random.Random(seed).random
        self._replay = None if replay is None else iter(replay)

    def below(self, count: int) -> int:
        """Choose one of ``0 .. count - 1``, each as likely."""
        choice = int(self._random() * count) if self._replay is None else next(self._replay, 0) % count
        self.choices.append(choice)
        return choice

    def chance(self, probability: float) -> bool:
        """Choose whether something out of the ordinary happens."""
        choice = self._random() < probability if self._replay is None else next(self._replay, 0) % 2 == 1
        self.choices.append(int(choice))
        return choice

    def pick(self, options: Sequence[OptionT]) -> OptionT:
        """Choose one of the options, the calmest of which comes first."""
        return options[self.below(len(options))]
