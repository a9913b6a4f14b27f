"""``kvmpc probe``: what this host offers."""

from __future__ import annotations

import json

import click

from kvmpc.cli.output import hand_out, room_on, say
from kvmpc.exit_codes import EXIT_HOST

__all__ = ["probe"]


@click.command(epilog="\b\nExamples:\n  kvmpc probe\n  kvmpc probe --json")
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
def probe(as_json: bool) -> None:
    """Say what this host offers, what is missing, and the remedy."""
    from dataclasses import asdict

    from tabulate import tabulate

    from kvmpc.run.probe import probe as look

    found = look()
    if as_json:
        hand_out(json.dumps([asdict(probed) for probed in found], indent=1) + "\n")
    else:
        rows = [(probed.name, probed.status, probed.detail) for probed in found]
        of_detail = max(20, min(60, room_on(err=False) - 28 - 4 - 2 * 2))
        say(tabulate(rows, headers=("", "", "found"), maxcolwidths=[28, 4, of_detail]))
    missing = [probed for probed in found if probed.status == "no"]
    for probed in missing:
        say(f"{probed.needed_for} cannot run here: {probed.name}: {probed.detail}", err=True)
        say(f"  remedy: {probed.remedy}", err=True)
    if missing:
        raise click.exceptions.Exit(EXIT_HOST)
