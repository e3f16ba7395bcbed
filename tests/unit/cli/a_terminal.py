"""A command in a real terminal: a pseudo-terminal of this machine, where a test types and presses Ctrl-C."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

CTRL_C = "\x03"
_COLOUR = re.compile(r"\x1b\[(?!0?m)[0-9;]*m")


def environment() -> dict[str, str]:
    """Return the environment without what this machine says about terminals and about Python's output."""
    ours = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "PYTHONUNBUFFERED", "PYTHONIOENCODING")
    return {name: value for name, value in os.environ.items() if name not in ours}


class Terminal:
    """A command that runs in a terminal.

    :param arguments: the command line without the program.
    :param columns: the width that the terminal says it has.
    :param env: more of the environment.
    :param pipe_out: whether the standard output is a pipe, as in ``flora ... | jq``.
    :param folder: where it runs. Default: here.
    :param program: what Python runs, with the arguments. Default: the command line.
    """

    def __init__(
        self,
        *arguments: str,
        columns: int = 80,
        env: Mapping[str, str] | None = None,
        pipe_out: bool = False,
        folder: Path | None = None,
        program: Sequence[str] = ("-m", "airflow_provider_flora"),
    ) -> None:
        self._own, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.seen = ""
        self._process = subprocess.Popen(
            [sys.executable, *program, *arguments],
            stdin=theirs,
            stdout=subprocess.PIPE if pipe_out else theirs,
            stderr=theirs,
            cwd=folder,
            env={**environment(), "TERM": "xterm-256color", **(env or {})},
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that its Ctrl-C is a signal
            start_new_session=True,
        )
        os.close(theirs)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        os.close(self._own)

    def wait_for(self, text: str, seconds: float = 60) -> None:
        """Wait until the terminal has shown a text."""
        until = time.monotonic() + seconds
        while text not in self.seen:
            assert self._read(until - time.monotonic()), f"it ended without {text!r}: {self.seen!r}"

    def type(self, text: str) -> None:
        """Type a text."""
        os.write(self._own, text.encode())

    def end(self, seconds: float = 60) -> int:
        """Wait for the end of the command, and return its exit code."""
        until = time.monotonic() + seconds
        while self._read(until - time.monotonic()):
            pass
        return self._process.wait(seconds)

    @property
    def out(self) -> str:
        """What went into the pipe."""
        assert self._process.stdout is not None
        return self._process.stdout.read().decode()

    @property
    def has_colour(self) -> bool:
        """Whether anything was shown in a colour or bold."""
        return _COLOUR.search(self.seen) is not None

    @property
    def lines(self) -> list[str]:
        """The lines that were shown, without escape sequences."""
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.seen).replace("\r", "")
        return [line.rstrip() for line in text.splitlines()]

    def _read(self, seconds: float) -> bool:
        """Read what is there; return whether more may come."""
        readable, _, _ = select.select([self._own], [], [], max(0, seconds))
        assert readable, f"nothing more was shown in time after {self.seen!r}"
        try:
            chunk = os.read(self._own, 65536)
        except OSError:  # the other side is closed
            return False
        self.seen += chunk.decode(errors="replace")
        return bool(chunk)
