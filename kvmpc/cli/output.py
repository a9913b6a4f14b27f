"""What the commands share: exit codes, and the ways to tell a person something.

Data goes to stdout, progress and warnings to stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from kvmpc.results import Result, TrialResult

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


@contextmanager
def progress(length: int) -> Iterator[Callable[[TrialResult], None]]:
    """Show a bar on stderr for the block; nothing where that is no terminal."""
    if sys.stderr is None or not sys.stderr.isatty():  # None: it was closed
        yield lambda _: None
        return
    with click.progressbar(
        length=length, file=sys.stderr, label="trials", item_show_func=lambda text: text
    ) as bar:
        yield lambda trial: bar.update(1, f"{trial.label}: {trial.status}")


def print_result(result: Result, *, err: bool) -> None:
    from kvmpc.report import format_table, format_warnings

    say(format_table(result), err=err)
    for warning in format_warnings(result):
        say(warning, err=True)


def say_stopping(signal_name: str) -> None:
    # Not through sys.stderr: a signal handler may have interrupted a write to it.
    text = "stopping; unmapping a large guest may take a while (again: leave at once)"
    with suppress(OSError):
        os.write(2, f"kvmpc: {signal_name}: {text}\n".encode())


def say(text: str, *, err: bool = False) -> None:
    """Print `text`; where whoever read our output has left, there is nobody to tell.

    Here and not in `main`: a closed pipe must not change the exit code, nor be made click's 1,
    which is ours for a regression.
    """
    try:
        click.echo(text, err=err)
    except BrokenPipeError:
        stream = sys.stderr if err else sys.stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
