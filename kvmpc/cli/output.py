"""What the commands share: the ways to tell a person something, or to hand out a document.

Data goes to stdout, progress and warnings to stderr. Nothing here raises for a stream that takes
nothing: the work goes on, and `true_code` decides what the exit code has to say about it.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import click

from kvmpc.cli.streams import Stream, stderr, stdout
from kvmpc.errors import describe_errno
from kvmpc.exit_codes import EXIT_FAILED, EXIT_OK, EXIT_REGRESSION, EXIT_UNSURE
from kvmpc.result.streams import STDERR, write_whole

if TYPE_CHECKING:
    from kvmpc.result.records import Result, TrialResult

__all__ = [
    "hand_out",
    "print_as",
    "print_result",
    "progress",
    "room_on",
    "say",
    "say_stopping",
    "true_code",
]

_FOR_PEOPLE = ("table", "markdown", "mail")

_TOLD_EVERY_S = 60.0
"""How often progress is told where there is no terminal to show a bar."""

_BAR_COLUMNS, _LEAST_BAR_COLUMNS = 36, 8

_NO_CURSOR = ("", "dumb", "unknown")
"""What TERM says of a terminal that cannot draw over a line."""

_USUAL_COLUMNS = 80

Advance = Callable[["TrialResult", float | None], None]


@contextmanager
def progress(length: int, done: int = 0) -> Iterator[Advance]:
    """Show on stderr how far it is, and how long it still takes: a bar, or a line a minute.

    Yields what is to be called after each trial, with the seconds that are left.
    """
    if not stderr.isatty() or os.environ.get("TERM", "dumb") in _NO_CURSOR:
        yield _Lines(length, done).advance
        return
    bar = _Bar(length, done)
    bar.draw("")
    try:
        yield bar.advance
    finally:
        stderr.write("\n")


class _Counter:
    """Counts the trials of a plan: one that is run again, since it was starved, is one of them."""

    def __init__(self, length: int, done: int) -> None:
        self._length, self._done = length, done
        self._last: tuple[int, str, int] | None = None

    def count(self, trial: TrialResult) -> None:
        which = trial.point, trial.pager, trial.round
        self._done += which != self._last
        self._last = which if trial.wasted else None


class _Bar(_Counter):
    """A line that is drawn over itself, as wide as the terminal is then."""

    def advance(self, trial: TrialResult, left_s: float | None) -> None:
        self.count(trial)
        became = "starved" if trial.starved else trial.status
        self.draw(f"{_left(left_s)}  {trial.label}: {became}")

    def draw(self, said: str) -> None:
        room = columns_of(stderr) - 1  # a terminal may go to the next line for its last column
        wide = min(_BAR_COLUMNS, room // 3)
        full = wide * self._done // max(1, self._length)
        bar = f"[{'#' * full}{'-' * (wide - full)}] " if wide >= _LEAST_BAR_COLUMNS else ""
        line = f"trials {bar}{self._done}/{self._length}{said}"
        stderr.write(f"\r{line[:room]}\x1b[K")


class _Lines(_Counter):
    def __init__(self, length: int, done: int) -> None:
        super().__init__(length, done)
        self._told = time.monotonic()

    def advance(self, trial: TrialResult, left_s: float | None) -> None:
        self.count(trial)
        if time.monotonic() - self._told >= _TOLD_EVERY_S and self._done < self._length:
            self._told = time.monotonic()
            say(f"kvmpc: {self._done} of {self._length} trials{_left(left_s)}", err=True)


def _left(left_s: float | None) -> str:
    from kvmpc.units import format_wait

    return f", {format_wait(left_s)} left" if left_s else ""


def columns_of(stream: Stream) -> int:
    """Return how wide the terminal of `stream` is now: COLUMNS, else what it says, else 80."""
    told = os.environ.get("COLUMNS", "")
    if re.fullmatch("[1-9][0-9]{0,4}", told):
        return int(told)
    try:
        found = os.get_terminal_size(stream.fileno()).columns
    except OSError:
        found = 0
    return found or _USUAL_COLUMNS  # a serial console has no size


def room_on(*, err: bool) -> int:
    """Return how many columns a text may have there: as a terminal has, within reason."""
    from kvmpc.show.cells import MAX_COLUMNS

    stream = stderr if err else stdout
    return min(MAX_COLUMNS, columns_of(stream)) if stream.isatty() else MAX_COLUMNS


def print_result(result: Result, *, err: bool, kind: str = "table") -> None:
    """Print `result` as `kind`, to stderr with `err`; what is only for people always goes there."""
    from kvmpc.judge.reading import read
    from kvmpc.show.formats import format_result
    from kvmpc.show.profile_table import format_profiles
    from kvmpc.show.sentences import format_warnings
    from kvmpc.show.split_table import format_split

    reading = read(result)
    room = room_on(err=err)
    print_as(kind, format_result(reading, kind, room), err=err)
    if kind == "table":
        for text in filter(None, (format_split(reading, room), format_profiles(reading, room))):
            say(f"\n{text}", err=err)
    for warning in format_warnings(reading, room_on(err=True)):
        say(warning, err=True)


def print_as(kind: str, text: str, *, err: bool = False) -> None:
    """Print what `kvmpc.show.formats` made: what programs read as a document."""
    if kind in _FOR_PEOPLE:
        say(text if kind == "table" else text.removesuffix("\n"), err=err)
    else:
        hand_out(text, err=err)


def say(text: str, *, err: bool = False) -> None:
    """Print `text` and a newline, on stderr with `err`, for whoever is there to read it."""
    click.echo(text, err=err)


def hand_out(text: str, *, err: bool = False) -> None:
    """Print a document: it arrives whole, or the exit code says that it did not."""
    (stderr if err else stdout).hand_out(text)


def say_stopping(
    signal_name: str,
    text: str = "stopping; unmapping a large guest may take a while (again: leave at once)",
) -> None:
    """Say that a signal was heard; in its handler, so past a write that it may have interrupted."""
    with suppress(OSError):
        write_whole(STDERR, f"kvmpc: {signal_name}: {text}\n".encode(), wait_s=0)


def true_code(code: int) -> int:
    """Return the exit code of an outcome that should be `code`, seen what could be printed of it.

    0 says that stdout has all of it. A document that is not whole is a failure also where there is
    a regression to tell, or that it could not be told: whoever reads documents must not rely on
    this one.
    """
    for name, stream in (("standard output", stdout), ("standard error", stderr)):
        failure = stream.failure
        if failure is None or (stream is stderr and not stream.document_lost):
            continue
        say(f"kvmpc: write of {name}: {describe_errno(failure.errno or 0)}", err=True)
        if code == EXIT_OK or (code in (EXIT_REGRESSION, EXIT_UNSURE) and stream.document_lost):
            code = EXIT_FAILED
    return code
