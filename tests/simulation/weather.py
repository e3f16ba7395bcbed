"""What goes wrong in a history, and how often.

Each history draws the kinds of trouble that it has: with few kinds at a time, those come together that need
each other, and deep ones are reached. A history without any is the calmest.
"""

from __future__ import annotations

from .flora import LONGEST_ABSENCE, LONGEST_LAG, LONGEST_START, TRIP
from .tape import Tape

BEFORE_FLORA = ("reset", "unreachable", "502", "503", "504", "408", "timeout")
WHILE_FLORA_WORKS = ("late reset", "late 502", "late 504", "late 408", "late html", "late cut", "late timeout")
BAD_ENDS = (
    *("retry now", "retry later", "retry now"),
    *("change the input", "hidden refusal", "give up", "unknown code"),
)
REFUSALS = ("own 401", "own 403", "own 404", "401", "403", "404", "402")


class Weather:
    """The troubles of one history.

    :ivar calm: no more trouble begins, from the moment at which the world is healed.
    """

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self.calm = False
        has = tape.chance
        self._slow_starts = has(0.4)
        self._slow_runs = has(0.4)
        self._bad_ends = has(0.25)
        self._odd_ends = has(0.12)
        self._late_costs = has(0.2)
        self._lags = has(0.4)
        self._absences = has(0.2)
        self._odd_outputs = has(0.1)
        self.pages = has(0.15)
        self.others = has(0.35)
        self.crashes = has(0.45)
        self.triggerer_dies = has(0.2)
        self.interrupts = has(0.2)
        self.store = has(0.2)
        self.handing_over = has(0.2)
        self.connection = has(0.2)
        self.rotation = has(0.1)
        self.technique_changes = has(0.15)
        starts: list[str] = []
        if has(0.4):
            starts += WHILE_FLORA_WORKS
        if has(0.25):
            starts += BEFORE_FLORA
        polls: list[str] = []
        if has(0.25):
            polls += (*BEFORE_FLORA, "500", "cut", "200")
        if has(0.15):
            starts.append("429")
            polls.append("429")
        if has(0.15):
            starts += ("500", "503 own", "late 500")
        if has(0.15):
            polls += REFUSALS
            starts += REFUSALS
        if has(0.15):
            starts += ("conflict",)
        self.edits = has(0.15)
        self.zombies = has(0.1)
        self.clock_steps = has(0.1)
        self.slow_store = has(0.1)
        self.undated = has(0.1)
        self.no_date_header = has(0.1)
        self.cached_dates = has(0.1)
        self.suspensions = has(0.1) and not self.clock_steps  # both at once can cancel each other
        self.crowd = self.others and has(0.15)
        self._starts = starts
        self._polls = polls
        self._rate = tape.pick((0.1, 0.4, 0.7)) if starts or polls else 0.0

    def trouble_of_start(self) -> str | None:
        """Return what goes wrong with a start, if anything does."""
        if not self._starts or self.calm or not self._tape.chance(self._rate):
            return None
        return self._tape.pick(self._starts)

    def trouble_of_poll(self) -> str | None:
        """Return what goes wrong with any other request."""
        if not self._polls or self.calm or not self._tape.chance(self._rate):
            return None
        return self._tape.pick(self._polls)

    def start_takes(self) -> float:
        """Return how many seconds Flora works on a start."""
        if not self._slow_starts:
            return 0.2
        return self._tape.pick((0.2, 2.0, 7.0, 20.0, 45.0, 90.0, LONGEST_START - TRIP)) if not self.calm else 2.0

    def run_takes(self) -> float:
        """Return for how many seconds a run goes on once it exists."""
        return self._tape.pick((1.0, 0.0, 12.0, 70.0, 400.0)) if self._slow_runs else 1.0

    def ending(self) -> str:
        """Return how a run will end."""
        if self._bad_ends and not self.calm and self._tape.chance(0.5):
            return self._tape.pick(BAD_ENDS)
        if self._odd_ends and not self.calm and self._tape.chance(0.7):
            return self._tape.pick(("cancelled", "expired", "never", "paused"))
        return "completed"

    def cost_lag(self) -> float:
        """Return after how many seconds the cost of a completed run is known."""
        return self._tape.pick((0.0, 2.0, 20.0, 600.0)) if self._late_costs else 0.0

    def list_lag(self) -> float:
        """Return after how many seconds lists show a run."""
        return self._tape.pick((0.0, 1.0, 5.0, LONGEST_LAG)) if self._lags else 0.0

    def outputs(self) -> str:
        """Return what is odd about the outputs of a run."""
        if not self._odd_outputs:
            return "image"
        return self._tape.pick(("image", "text", "no text yet", "half a character", "zero byte"))

    def status_lag(self) -> float:
        """Return how old the runs are that a list shows."""
        return self._tape.pick((0.0, 2.0, 15.0)) if self._lags else 0.0

    def absence(self) -> float:
        """Return for how many seconds a new run is not found by its id."""
        return self._tape.pick((0.0, 2.0, LONGEST_ABSENCE)) if self._absences else 0.0
