"""What the commands share: exit codes, and the ways to tell a person something.

Data goes to stdout, progress and warnings to stderr.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from kvmpc.result.records import Result, TrialResult

__all__ = [
    "EXIT_FAILED",
    "EXIT_HOST",
    "EXIT_INTERRUPTED",
    "EXIT_OK",
    "EXIT_REGRESSION",
    "EXIT_USAGE",
    "print_result",
    "progress",
    "say",
    "say_stopping",
]

EXIT_OK, EXIT_REGRESSION, EXIT_USAGE, EXIT_HOST, EXIT_FAILED, EXIT_INTERRUPTED = 0, 1, 2, 3, 4, 130


_TOLD_EVERY_S = 60.0
"""How often progress is told where there is no terminal to show a bar."""

Advance = Callable[["TrialResult", float | None], None]


@contextmanager
def progress(length: int, done: int = 0) -> Iterator[Advance]:
    """Show on stderr how far it is, and how long it still takes: a bar, or a line a minute.

    Yields what is to be called after each trial, with the seconds that are left.
    """
    if sys.stderr is None:  # it was closed
        yield lambda _, __: None
        return
    if not sys.stderr.isatty():
        yield _Lines(length, done).advance
        return
    with click.progressbar(
        length=length, file=sys.stderr, label="trials", show_eta=False, show_pos=True,
        item_show_func=lambda text: text,
    ) as bar:  # fmt: skip
        bar.update(done)
        yield lambda trial, left_s: bar.update(1, f"{trial.label}: {trial.status}{_left(left_s)}")


class _Lines:
    def __init__(self, length: int, done: int) -> None:
        self._length, self._done = length, done
        self._told = time.monotonic()

    def advance(self, trial: TrialResult, left_s: float | None) -> None:
        del trial
        self._done += 1
        if time.monotonic() - self._told >= _TOLD_EVERY_S and self._done < self._length:
            self._told = time.monotonic()
            say(f"kvmpc: {self._done} of {self._length} trials{_left(left_s)}", err=True)


def _left(left_s: float | None) -> str:
    from kvmpc.units import format_wait

    return f", {format_wait(left_s)} left" if left_s else ""


def print_result(result: Result, *, err: bool, kind: str = "table") -> None:
    """Print `result` as `kind`, to stderr with `err`; what is only for people always goes there."""
    from kvmpc.judge.reading import read
    from kvmpc.show.formats import format_result
    from kvmpc.show.profile_table import format_profiles
    from kvmpc.show.sentences import format_warnings
    from kvmpc.show.split_table import format_split

    reading = read(result)
    say(format_result(reading, kind), err=err, newline=kind == "table")
    if kind == "table":
        for text in filter(None, (format_split(reading), format_profiles(reading))):
            say(f"\n{text}", err=err)
    for warning in format_warnings(reading):
        say(warning, err=True)


def say_stopping(signal_name: str) -> None:
    # Not through sys.stderr: a signal handler may have interrupted a write to it.
    text = "stopping; unmapping a large guest may take a while (again: leave at once)"
    with suppress(OSError):
        os.write(2, f"kvmpc: {signal_name}: {text}\n".encode())


def say(text: str, *, err: bool = False, newline: bool = True) -> None:
    """Print `text`; where whoever read our output has left, there is nobody to tell.

    Here and not in `main`: a closed pipe must not change the exit code, nor be made click's 1,
    which is ours for a regression. newline: whether to end it with one more.
    """
    try:
        click.echo(text, err=err, nl=newline)
    except BrokenPipeError:
        stream = sys.stderr if err else sys.stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
