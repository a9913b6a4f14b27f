"""``kvmpc probe``: what this host offers."""

from __future__ import annotations

import json
import sys

import click

from kvmpc.cli.output import EXIT_HOST, say

__all__ = ["probe"]


@click.command(epilog="\b\nExamples:\n  kvmpc probe\n  kvmpc probe --json")
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
def probe(as_json: bool) -> None:
    """Say what this host offers, what is missing, and the remedy."""
    from dataclasses import asdict

    from tabulate import tabulate

    from kvmpc.run import probe as probing
    from kvmpc.trial.signals import interruptible

    with interruptible() as interrupt:
        checks = list(probing.probe(interrupt))
    if as_json:
        say(json.dumps([asdict(check) for check in checks], indent=1))
    else:
        rows = [(check.name, check.status, check.detail) for check in checks]
        say(tabulate(rows, headers=("", "", "found"), maxcolwidths=[28, 4, 60]))
    missing = [check for check in checks if check.status == "no"]
    for check in missing:
        say(f"{check.needed_for} cannot run here: {check.name}: {check.detail}", err=True)
        say(f"  remedy: {check.remedy}", err=True)
    if missing:
        sys.exit(EXIT_HOST)
