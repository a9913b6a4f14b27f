"""What the scripts in this folder share: a session, interleaved trials, paired ratios, tables.

Nothing here measures. A trial that fails ends the script: a median over what is left of a pager
that does not verify would say nothing.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import click
from tabulate import tabulate

from kvmpc.errors import KvmpcError
from kvmpc.judge.intervals import median_interval
from kvmpc.judge.summary import median, summarise
from kvmpc.pagers import Pager
from kvmpc.result.records import TrialResult
from kvmpc.run.campaign import measure
from kvmpc.run.needs import check_run
from kvmpc.run.schedule import WARMUP_DIVISOR, PlannedTrial, in_turn
from kvmpc.run.session import Session
from kvmpc.work.work import Work

__all__ = [
    "Case",
    "interleaved",
    "median_of",
    "numbers",
    "on_and_off",
    "open_session",
    "paired",
    "print_host",
    "print_table",
    "rate_to_off",
    "rotated",
    "rounds_option",
    "run",
    "spread",
    "warm_up",
]


@dataclass(frozen=True)
class Case:
    """One thing to measure: `pager` on `work`."""

    pager: Pager
    work: Work


@contextmanager
def open_session() -> Iterator[Session]:
    """Open KVM for the block; an error of kvmpc becomes one line and exit code 1."""
    try:
        with Session.open(sys.argv) as session:
            yield session
    except KvmpcError as error:
        raise click.ClickException(str(error)) from error


def run(session: Session, case: Case, round_number: int = 1) -> TrialResult:
    """Run one trial. Raises: click.ClickException if it fails."""
    result = measure(session, PlannedTrial(round_number, 0, case.pager, case.work))
    if result.status != "ok":
        raise click.ClickException(f"{result.label}: {result.error}")
    return result


def warm_up(session: Session, cases: Mapping[str, Case]) -> None:
    """Check that the host has room for all cases, and run each at a part of its work."""
    for case in cases.values():
        check_run(session.kvm, case.work, [case.pager])
        run(session, Case(case.pager, case.work.scaled_down(WARMUP_DIVISOR)), 0)


def interleaved(
    session: Session, cases: Mapping[str, Case], rounds: int
) -> dict[str, list[TrialResult]]:
    """Run every case once a round, after a warm-up, and return its trials, one per round.

    Not a campaign: in a plan, pagers take turns at one work, and here works take turns as well.
    """
    warm_up(session, cases)
    found: dict[str, list[TrialResult]] = {name: [] for name in cases}
    for number, name in rotated(cases, rounds):
        found[name].append(run(session, cases[name], number))
    return found


def rotated(names: Iterable[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Yield (round, name) for every round, in the order in which a plan has its pagers."""
    names = list(names)
    for turn in range(rounds):
        for name in in_turn(names, turn):
            yield turn + 1, name


def numbers(_: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
    """Parse an option such as ``1,16,160``: positive whole numbers."""
    try:
        found = tuple(int(word) for word in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise click.BadParameter(f"{text!r}: give numbers such as 1,2,4", param=parameter)
    return found


def rounds_option(default: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option --rounds."""
    return click.option(
        "--rounds",
        type=click.IntRange(1, 1000),
        default=default,
        show_default=True,
        help="Measured rounds; every case runs once in each.",
    )


def median_of(trials: Sequence[TrialResult], metric: str) -> float:
    """Return the median of a metric that every trial has."""
    found = median(trial.metrics[metric] for trial in trials)
    if found is None:
        raise ValueError("no trials")
    return found


def paired(
    trials: Sequence[TrialResult], reference: Sequence[TrialResult], metric: str = "pages_per_s"
) -> list[float]:
    """Return `metric` over that of the reference, round by round."""
    return [
        trial.metrics[metric] / base.metrics[metric]
        for trial, base in zip(trials, reference, strict=True)
    ]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return median and range: ``1.05 [0.98-1.11]``."""
    found = summarise(values)
    if found is None:
        return "-"
    return f"{found.median:.{digits}f} [{min(values):.{digits}f}-{max(values):.{digits}f}]"


def on_and_off(
    session: Session, pager: Pager, plain: Work, changed: Work, rounds: int
) -> dict[str, list[TrialResult]]:
    """Run `plain` as "off", `changed` as "on", and `plain` once more: what noise looks like."""
    cases = {"off": plain, "on": changed, "off again": plain}
    return interleaved(session, {name: Case(pager, work) for name, work in cases.items()}, rounds)


def rate_to_off(found: Mapping[str, list[TrialResult]], name: str) -> tuple[str, str]:
    """Return the rate of `name` to that of "off": its spread, and the median's 95 % interval."""
    ratios = paired(found[name], found["off"])
    interval = median_interval(ratios)
    return spread(ratios, 3), f"{interval.low:.3f} to {interval.high:.3f}" if interval else "-"


def print_host() -> None:
    """Print what the numbers were taken on; other load is the first thing to look at."""
    load = os.getloadavg()[0]
    click.echo(
        f"Linux {platform.release()}, {len(os.sched_getaffinity(0))} CPUs, "
        f"load average before the run {load:.1f}"
    )


def print_table(headers: Sequence[str], rows: Sequence[Sequence[object]], note: str = "") -> None:
    """Print a table, text to the left and numbers to the right."""
    click.echo()
    click.echo(
        tabulate(
            rows,
            headers=headers,
            disable_numparse=True,
            colalign=["left"] + ["right"] * (len(headers) - 1),
        )
    )
    if note:
        click.echo(note)
