"""How often does `kvmpc check` turn red, by simulation: where nothing changed, and where it did?

Makes up runs of the default five pagers (15 tests) with noise of several kinds, judges pairs of
them with the defaults of `kvmpc check`, and counts. One pager is slower by what a column says; the
others are as before. "sees": a change of the size that the check of another such pair says it
would have seen, in the row of that pager's rate. README's claims are this table. Needs no KVM.

One figure is of noise alone: a row of 200 checks is off by up to 7 points, one in twenty times.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import click

from kvmpc.judge.regression import Check, check
from kvmpc.judge.verdicts import Compared, Status
from kvmpc.result.records import Result, TrialResult

PAGERS = ("none", "uffd", "uffd,uffds=per-vcpu", "exit", "exit,uffds=per-vcpu")
SLOWER = "uffd"
CHANGES = (0.05, 0.08, 0.10, 0.15, 0.20, 0.30)

Noise = Callable[[Random, int], list[float]]
"""Makes the logarithms of so many rounds of one run."""


def normal(sd: float) -> Noise:
    """Return rounds that have nothing to do with each other."""
    return lambda draw, n: [draw.gauss(0, sd) for _ in range(n)]


def heavy(sd: float) -> Noise:
    """Return the same with Student's t of 2 degrees: now and then a round is far off."""
    return lambda draw, n: [draw.gauss(0, sd) / math.sqrt(draw.expovariate(1)) for _ in range(n)]


def autocorrelated(sd: float, share: float) -> Noise:
    """Return rounds that each have `share` of the one before (AR(1)), with deviation `sd`."""

    def rounds(draw: Random, n: int) -> list[float]:
        found = [draw.gauss(0, sd)]
        for _ in range(n - 1):
            found.append(share * found[-1] + draw.gauss(0, sd * math.sqrt(1 - share**2)))
        return found

    return rounds


def shifted(sd: float, share: float) -> Noise:
    """Return rounds of runs that differ from each other: by `share` of the rounds' own `sd`."""

    def rounds(draw: Random, n: int) -> list[float]:
        run = draw.gauss(0, sd * share)
        return [run + draw.gauss(0, sd) for _ in range(n)]

    return rounds


@dataclass(frozen=True)
class Case:
    """A kind of noise, and what is measured under it: `runs` on each side of `rounds` each."""

    noise: Noise
    runs: int = 1
    rounds: int = 10


CASES: Mapping[str, Case] = {
    "normal, 2 %": Case(normal(0.02)),
    "normal, 3 %": Case(normal(0.03)),
    "normal, 5 %": Case(normal(0.05)),
    "normal, 10 %": Case(normal(0.10)),
    "normal, 5 %, 20 rounds": Case(normal(0.05), rounds=20),
    "heavy tails, 2 %": Case(heavy(0.02)),
    "heavy tails, 5 %": Case(heavy(0.05)),
    "AR(1) 0.5, 5 %": Case(autocorrelated(0.05, 0.5)),
    "AR(1) 0.8, 5 %": Case(autocorrelated(0.05, 0.8)),
    "run shift of 0.5 sd, 5 %": Case(shifted(0.05, 0.5)),
    "run shift of 1 sd, 5 %": Case(shifted(0.05, 1)),
    "run shift of 2 sd, 5 %": Case(shifted(0.05, 2)),
    "run shift of 1 sd, 2 %, 7 runs of 3": Case(shifted(0.02, 1), runs=7, rounds=3),
    "run shift of 1 sd, 5 %, 7 runs of 3": Case(shifted(0.05, 1), runs=7, rounds=3),
    "run shift of 1 sd, 5 %, 20 runs of 3": Case(shifted(0.05, 1), runs=20, rounds=3),
}


def _trial(draw: Random, pager: str, number: int, logarithm: float) -> TrialResult:
    """Return a trial; its times follow its rate, with a little noise of their own."""
    rate = 1e5 * math.exp(logarithm)
    metrics = {
        "pages_per_s": rate,
        "fault_p99_ns": 1e10 / rate * draw.lognormvariate(0, 0.01),
        "cpu_s_per_gib": 1e6 / rate * draw.lognormvariate(0, 0.01),
    }
    return TrialResult(
        pager=pager, label=pager, fetches=pager != "none", round=number, status="ok", error=None,
        verified="yes", vcpus=2, expected_pages=46, sparse=False, elapsed_ns=46_000_000,
        metrics=metrics, counts={}, histogram_cycles=(), guest_tsc_khz=None,
        guest_tsc_is_host_tsc=None, per_vcpu={}, per_reader={}, pages_per_node={}, warnings=(),
    )  # fmt: skip


def run(draw: Random, noise: Noise, rounds: int, lost: float = 0.0) -> Result:
    """Return a run in which `SLOWER` has lost a share of its rate."""
    trials = [
        _trial(draw, pager, number, value + (math.log1p(-lost) if pager == SLOWER else 0))
        for pager in PAGERS
        for number, value in enumerate(noise(draw, rounds), start=1)
    ]
    return Result(
        tool_version="0", command=("kvmpc",), started="", finished=True, options={"vcpus": 2},
        pagers=PAGERS, labels=PAGERS, host={}, trials=tuple(trials), warnings=(),
    )  # fmt: skip


def checks(draw: Random, case: Case, count: int, lost: float = 0.0) -> Iterator[Check]:
    """Yield checks of `count` pairs of sides, the second of which has lost a share of one rate."""
    for _ in range(count):
        before, after = (
            [run(draw, case.noise, case.rounds, share) for _ in range(case.runs)]
            for share in (0.0, lost)
        )
        yield check(before, after)


def rate_row(found: Check) -> Compared:
    """Return what is said of the rate that may have lost something."""
    return next(
        verdict
        for verdict in found.verdicts
        if isinstance(verdict, Compared) and (verdict.pair.spec, verdict.metric) == (SLOWER, "rate")
    )


def seen(draw: Random, case: Case, count: int) -> int:
    """Return how many of `count` changes are found that are as large as another check can see."""
    found = 0
    for known in checks(draw, case, count):
        lost = -(rate_row(known).numbers.sees or 0.0)
        (now,) = checks(draw, case, 1, lost)
        found += rate_row(now).status is Status.WORSE
    return found


def _row(name: str, case: Case, count: int, seed: int) -> Sequence[str]:
    draw = Random(f"{seed} {name}")
    nothing = [found.status for found in checks(draw, case, count)]
    told = [sum(status is wanted for status in nothing) for wanted in (Status.WORSE, Status.UNSURE)]
    told += [
        sum(found.status is Status.WORSE for found in checks(draw, case, count, lost))
        for lost in CHANGES
    ]
    told.append(seen(draw, case, count))
    return [name, *(f"{100 * each / count:.3g}" for each in told)]


@click.command(help=__doc__)
@click.option("--checks", "count", type=click.IntRange(1, 100_000), default=200, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
def main(count: int, seed: int) -> None:
    """Print the table."""
    # Here and not above: tests take the rest of this file without the other scripts' folder.
    from common import print_table

    click.echo(f"{count} checks a figure, in per cent; two sides of 10 rounds where not said")
    with click.progressbar(CASES.items(), label="noise", file=sys.stderr) as at:
        rows = [_row(name, case, count, seed) for name, case in at]
    slower = [f"-{lost:.0%}" for lost in CHANGES]
    print_table(("noise of rounds", "red, no change", "unsure", *slower, "sees"), rows)


if __name__ == "__main__":
    main()
