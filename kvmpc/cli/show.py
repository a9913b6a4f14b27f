"""``kvmpc show``: what a file of any host says."""

from __future__ import annotations

import click

from kvmpc.cli.options import format_option
from kvmpc.cli.output import print_result

__all__ = ["show"]


@click.command(
    epilog="\b\nExamples:\n  kvmpc show result.json\n  kvmpc show - < result.json\n"
    "  kvmpc show result.json --format csv"
)
@click.argument("file", metavar="FILE|-")
@format_option
def show(file: str, kind: str) -> None:
    """Show the table of a result that --json wrote."""
    from kvmpc.result.document import load

    print_result(load(file), err=False, kind=kind)
