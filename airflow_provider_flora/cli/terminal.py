"""What a person or a program sees of a command: tables that fit the terminal, JSON, questions, progress.

Results go to the standard output, everything else to the standard error. Texts of Flora's are hostile: they come
without control characters, and rich reads no markup in them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from itertools import islice
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleDimensions
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from airflow_provider_flora.api.errors import FloraParameterError
from airflow_provider_flora.cli.streams import ReaderLeftError, Stream

if TYPE_CHECKING:
    from airflow_provider_flora.api.errors import FloraError
    from airflow_provider_flora.api.models import Run
    from airflow_provider_flora.api.waiting import WaitListener

_PIPE_WIDTH = 10_000  # of an output that is no terminal, where a line is a line
_BETWEEN = 2
_NARROWEST = 8
_PAGE = 100  # Flora's largest, and the client's default
_BLOCKS = " ▏▎▍▌▋▊▉█"
_BAR_WIDTH = 24
_STYLES = {"completed": "green", "failed": "red", "running": "yellow", "pending": "yellow"}


def plain(text: object, *, lines: bool = False) -> str:
    """Return a text without the characters that steer a terminal.

    :param lines: keep line breaks and tabs.
    """
    keep = "\n\t" if lines else ""
    return "".join(
        character if character.isprintable() or character in keep else " " if character.isspace() else ""
        for character in str(text)
    )


def usd(amount: float | None) -> str:
    """Return an amount in USD with two to six decimals, or a dash if it is not known."""
    if amount is None:
        return "-"
    whole, _, decimals = f"{amount:.6f}".partition(".")
    return f"{whole}.{decimals.rstrip('0'):0<2}"


def time_of(milliseconds: float | None) -> str:
    """Return a time of Flora's in UTC, to the second, or a dash if there is none."""
    if milliseconds is None:
        return "-"
    return datetime.fromtimestamp(milliseconds / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


class Terminal:
    """The output of one command.

    :param program: how the program was called, for hints: ``airflow flora``.
    :param as_json: print JSON in place of tables.
    """

    def __init__(self, program: str, *, as_json: bool = False) -> None:
        self.program = program
        self.as_json = as_json
        self.results = Stream(sys.stdout)
        self.out = _console(self.results)
        self.err = _console(Stream(sys.stderr))
        self.log = _Log(self)

    def json(self, value: Any) -> None:
        """Print a value as JSON, in ASCII: it passes every locale, and steers no terminal."""
        self.results.write(json.dumps(value, indent=2) + "\n")
        self.results.flush()

    def line(self, text: str = "", style: str | None = None) -> None:
        """Print a line of the result."""
        self.out.print(Text(plain(text), style=style or ""), soft_wrap=True)

    def text(self, text: str) -> None:
        """Print a text of several lines as it is, without control characters."""
        self.out.print(Text(plain(text, lines=True)), soft_wrap=True, end="")

    def say(self, text: str, style: str | None = None) -> None:
        """Tell the person something that is no result."""
        self.err.print(Text(plain(text), style=style or ""), soft_wrap=True)

    def error(self, error: object) -> None:
        """Tell what went wrong."""
        self.err.print(Text.assemble(("Error: ", "bold red"), plain(error, lines=True)), soft_wrap=True)

    def bar(self, share: float) -> str:
        """Return a bar of blocks for a share of 0 to 1, in a locale without blocks one of number signs."""
        if self.out.options.ascii_only:
            return "#" * round(share * _BAR_WIDTH)
        whole, eighths = divmod(round(share * _BAR_WIDTH * 8), 8)
        return _BLOCKS[8] * whole + _BLOCKS[eighths].strip()

    def fields(self, fields: Iterable[tuple[str, str]]) -> None:
        """Print names with their values, below each other."""
        table = Table.grid(padding=(0, _BETWEEN, 0, 0))
        table.add_column(no_wrap=True, style="bold")
        table.add_column(overflow="fold")
        for name, value in fields:
            table.add_row(name, _cell(plain(value, lines=True)))
        self._print(table, self.out.width)

    def _print(self, table: Table, width: int) -> None:
        """Print a table without the blanks that fill its last column."""
        own, self.out.size = self.out.size, ConsoleDimensions(width, self.out.height)
        with self.out.capture() as capture:
            self.out.print(table)
        self.out.size = own
        for line in capture.get().splitlines():
            self.results.write(line.rstrip() + "\n")
        self.results.flush()

    def in_pages(self, rows: Iterable[Sequence[str]]) -> Iterator[list[Sequence[str]]]:
        """Return the rows of a list of Flora's in its pages, each as it comes.

        :raises ReaderLeftError: nobody has read the page before.
        """
        left = iter(rows)
        while page := list(islice(left, _PAGE)):
            yield page
            if not self.results.is_read:
                raise ReaderLeftError

    def table(self, columns: Sequence[str], pages: Iterable[Sequence[Sequence[str]]]) -> int:
        """Print rows in columns, each page as it comes, and return their number.

        Where the terminal is too narrow for columns that can be read, the lines are longer than it.

        :param columns: headings. One that begins with ``>`` is aligned to the right.
        """
        widths = [0] * len(columns)
        count = 0
        for rows in pages:
            shown = [[plain(cell) for cell in row] for row in rows]
            widths = self._widths(columns, shown, widths)
            between = [_BETWEEN] * (len(columns) - 1) + [0]
            # Versions of rich differ in the width of a padded last column.
            table = Table(box=None, padding=0, show_header=count == 0)
            for name, width, blanks in zip(columns, widths, between, strict=True):
                justify: Any = "right" if name.startswith(">") else "left"
                heading = Padding(name.lstrip(">"), (0, blanks, 0, 0))
                table.add_column(heading, width=width + blanks, overflow="fold", justify=justify)
            for row in shown:
                cells = zip(row, between, strict=True)
                table.add_row(*(Padding(_cell(cell), (0, blanks, 0, 0)) for cell, blanks in cells))
            if rows or count == 0:
                self._print(table, max(self.out.width, sum(widths) + sum(between)))
            count += len(rows)
        return count

    def _widths(self, columns: Sequence[str], rows: Sequence[Sequence[str]], before: Sequence[int]) -> list[int]:
        """Return the widths of columns: what they need, or less of the widest where the terminal is narrower.

        None is less than on the page before, if that fits.

        The first column has what is typed again, so it is narrowed last.
        """
        from rich.cells import cell_len

        needed = [
            max(map(cell_len, (name.lstrip(">"), *cells))) for name, *cells in zip(columns, *rows, strict=True)
        ]
        widths = list(map(max, needed, before))
        narrowest = [min(width, max(_NARROWEST, len(name))) for name, width in zip(columns, widths, strict=True)]
        over = sum(widths) + _BETWEEN * (len(widths) - 1) - self.out.width
        for group in (range(1, len(widths)), range(1)):
            while over > 0 and (wide := [place for place in group if widths[place] > narrowest[place]]):
                widest, *others = sorted(wide, key=lambda place: -widths[place])
                next_width = max(narrowest[widest], widths[others[0]] if others else 0)
                less = min(over, max(1, widths[widest] - next_width))
                widths[widest] -= less
                over -= less
        return widths

    def agrees(self, what: str, *, yes: bool, do: str = "do so", otherwise: str = "Nothing was changed.") -> bool:
        """Ask whether something may be done. No answer means no.

        :param what: what it does.
        :param yes: it may, as ``--yes`` says.
        :param do: the words for it: ``start it``.
        :param otherwise: is said if it may not.
        :raises FloraParameterError: nobody is there to see the question and to answer.
        """
        if yes:
            self.say(what)
            return True
        try:
            if self.confirm(f"{what} {do.capitalize()}?"):
                return True
        except EOFError:
            raise FloraParameterError(f"{what} Nobody is here to agree. Add --yes to {do}.") from None
        self.say(otherwise)
        return False

    def confirm(self, question: str) -> bool:
        """Ask a yes-or-no question. No answer means no.

        :raises EOFError: nobody is there to see it and to answer.
        """
        if sys.stdin is None or not (sys.stdin.isatty() and self.err.is_terminal):
            raise EOFError
        self.err.print(Text(plain(question) + " [y/N] "), end="")
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    @contextmanager
    def waiting_for(self, run: Run) -> Iterator[WaitListener]:
        """Show the progress of a run while it is waited for: a bar on a terminal, else a line a change."""
        if not self.err.is_terminal or self.err.is_dumb_terminal:
            from airflow_provider_flora.api.waiting import WaitLog

            yield WaitLog(self.log)
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:.0f} %"),
        )
        with Progress(*columns, TimeElapsedColumn(), console=self.err, transient=True) as progress:
            yield _Bar(progress, run)


class _Log:
    """A log, as lines of the standard error."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal

    def info(self, event: str, /, *args: object) -> None:
        self._terminal.say(event % args if args else event)

    warning = info


class _Bar:
    """A listener of a wait that moves a bar."""

    def __init__(self, progress: Any, run: Run) -> None:
        self._progress = progress
        self._task = progress.add_task(f"{plain(run.run_id)} {plain(run.status)}", total=100)

    def changed(self, run: Run) -> None:
        self._progress.update(
            self._task, description=f"{plain(run.run_id)} {plain(run.status)}", completed=run.progress
        )

    def interrupted(self, error: FloraError, seconds_left: float) -> None:
        self._progress.console.print(Text(plain(f"Flora cannot be polled: {error} The wait goes on.")))

    def recovered(self, run: Run) -> None:
        self._progress.console.print(Text("Flora answers again."))


def _cell(value: str) -> Text:
    return Text(value, style=_STYLES.get(value, ""))


def _console(stream: Stream) -> Console:
    file: Any = stream
    # NO_COLOR is about colours alone; who sets it wants no bold either.
    colours: Any = None if os.environ.get("NO_COLOR") else "auto"
    console = Console(file=file, color_system=colours, highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _PIPE_WIDTH
    return console
