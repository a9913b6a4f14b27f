"""``kvmpc report``: results as a page."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from kvmpc.cli.options import refuse_stdin_twice
from kvmpc.cli.output import say
from kvmpc.errors import HostError, UsageError

if TYPE_CHECKING:
    from kvmpc.result.records import Result

__all__ = ["report"]

_SHAPES = ("talk-2018", "moorthy-v7", "moorthy-2023", "houghton-v1")
"""By heart, as in ``options.py``."""

_OF_OTHER_PLOTS = ("MPLBACKEND", "MATPLOTLIBRC", "SOURCE_DATE_EPOCH")
"""What matplotlib reads is for the user's own plots, and it stops at what it cannot read."""


@click.command(
    epilog="\b\nExamples:\n"
    "  kvmpc report result.json -o report.html\n"
    "  kvmpc report sweep.json --shape moorthy-v7 -o report.html\n"
    "  kvmpc report before.json after.json -o kernels.html"
)
@click.argument("results", nargs=-1, required=True, metavar="RESULT...")
@click.option("-o", "--output", metavar="FILE|-", required=True, help="The page to write.")
@click.option("--shape", "shapes", type=click.Choice(_SHAPES), multiple=True,
              help="Lay the rates of a sweep beside published ones, as shapes.")  # fmt: skip
def report(results: tuple[str, ...], output: str, shapes: tuple[str, ...]) -> None:
    """Make one self-contained HTML page of results: the answer, tables, charts, warnings.

    Several results of one host are compared with the first, as before and after; those of other
    hosts are kept apart. Charts need the extra kvmpc[report].
    """
    from kvmpc.result.document import load
    from kvmpc.result.files import OutputFile

    if output != "-" and _is_one_of(output, results):
        raise UsageError("--output", output, "a file that is not one of the results")
    page = OutputFile(output, "--output")
    refuse_stdin_twice(*results)
    loaded = [(name, load(name)) for name in results]
    with page:
        page.write(_renderer()(loaded, tuple(dict.fromkeys(shapes))))
    if output != "-":
        say(f"{output} written", err=True)


def _renderer() -> Callable[[Sequence[tuple[str, Result]], Sequence[str]], str]:
    """Return what makes the page. Raises: HostError where what draws the charts does not load."""
    for name in _OF_OTHER_PLOTS:
        os.environ.pop(name, None)
    try:
        from kvmpc.show.page.page import render
    except ImportError as error:
        missing = (error.name or str(error)).partition(".")[0]
        if missing == "kvmpc":  # ours, and no extra brings it
            raise
        raise HostError(
            "kvmpc report",
            f"{missing}, which draws the charts, is not installed or does not load",
            "pip install 'kvmpc[report]' (in the source tree: pip install -e '.[report]')",
        ) from error
    except Exception as error:  # nothing of ours runs here: it reads files and makes folders
        raise HostError(
            "kvmpc report",
            f"matplotlib, which draws the charts, does not load: {type(error).__name__}: {error}",
            "mend or move the matplotlibrc that it reads; give it a folder that it can write, as"
            " MPLCONFIGDIR",
        ) from error
    return render


def _is_one_of(path: str, others: tuple[str, ...]) -> bool:
    for other in others:
        with suppress(OSError):  # one that is not there is not the other
            if os.path.samefile(path, other):
                return True
    return False
