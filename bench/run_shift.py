"""Does a fresh process have a shift of its own, so that runs differ by more than their rounds do?

Blocks of rounds (each with its warm-up) of the same comparison, by turns in one process that lives
on and in a fresh one, which has another address-space layout, other physical pages, another VM file
descriptor. Both ways meet the same drift of the host, since their blocks alternate: what blocks
differ by in the process that lives on is drift, and what fresh ones differ by beyond that is their
own. Prints, for each metric of each pager, the standard deviation within blocks and between them
(one-way random effects, of logarithms, so per cent); between neighbours, from which slow drift is
gone; the share of the variance that is between blocks (ICC), and F, which is 1 on average where
blocks differ only by their rounds.

Then what that does to a test: every block is of one kernel, so a test at 5 % that is red more often
is wrong. With the fresh blocks as pairs of neighbours, in an order that is drawn (`kvmpc turns`),
and with one side's blocks after the other's (two runs of `kvmpc compare`).

Takes about 3 s for two blocks on two CPUs, and says what else ran.
"""

from __future__ import annotations

import math
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import click
from common import open_session, print_host, print_table, rounds_option

from kvmpc.judge.criteria import JUDGED
from kvmpc.judge.intervals import shift_p
from kvmpc.judge.paired import Pairs
from kvmpc.judge.rows import measured_trials, values_of
from kvmpc.result.document import from_json, to_json
from kvmpc.result.records import Result
from kvmpc.run.campaign import Campaign
from kvmpc.run.plan import make_plan
from kvmpc.run.session import Session

ARMS: Final = ("one process", "fresh processes")
LEVEL: Final = 0.05
_PAIRS: Final = 12
_SHUFFLES: Final = 2000


@dataclass(frozen=True)
class Components:
    """Standard deviations of logarithms, within blocks and between them; `f` is MSB over MSW.

    neighbours: between blocks, by how much their means differ from one to the next alone.
    p: how often F is so large where values are dealt to blocks at random (2000 times, seeded).
    """

    within: float
    between: float
    neighbours: float
    f: float
    p: float

    @property
    def icc(self) -> float:
        """The share of a single value's variance that its block has."""
        whole = self.within**2 + self.between**2
        return self.between**2 / whole if whole else 0.0


def components(blocks: Sequence[Sequence[float]]) -> Components:
    """Return the variance components of values in blocks of one size, two or more of two or more.

    Source: Searle, Casella and McCulloch, Variance Components, 1992, 3.6: between is
    (MSB - MSW) / n, and 0 where that is negative.
    """
    size = len(blocks[0])
    msb, msw = _mean_squares(blocks)
    f = msb / msw if msw else math.inf
    draw, values = random.Random(2018), [value for block in blocks for value in block]
    larger = 0
    for _ in range(_SHUFFLES):
        draw.shuffle(values)
        one, other = _mean_squares([values[at : at + size] for at in range(0, len(values), size)])
        larger += one >= f * other
    steps = [(one - other) ** 2 / 2 for one, other in pairwise(map(statistics.fmean, blocks))]
    return Components(
        within=math.sqrt(msw),
        between=math.sqrt(max(0.0, msb - msw) / size),
        neighbours=math.sqrt(max(0.0, statistics.fmean(steps) - msw / size)),
        f=f,
        p=(larger + 1) / (_SHUFFLES + 1),
    )


def false_alarms(blocks: Sequence[Sequence[float]], draw: random.Random) -> dict[str, float]:
    """Return in what share of tests at `LEVEL`, for the worse, blocks that are alike turn red.

    In windows of up to `_PAIRS` pairs; in turn, each with 20 orders.
    """
    middles = [statistics.median(block) for block in blocks]
    pairs = min(_PAIRS, len(blocks) // 2)
    in_turn, apart = [], []
    for at in range(0, len(blocks) - 2 * pairs + 1, 2):
        window = middles[at : at + 2 * pairs]
        for _ in range(20):
            drawn = [
                pair if draw.random() < 0.5 else pair[::-1]
                for pair in zip(window[::2], window[1::2], strict=True)
            ]
            old, new = map(list, zip(*drawn, strict=True))
            in_turn.append(Pairs(old, new).p(1) <= LEVEL)
        sides = blocks[at : at + pairs], blocks[at + pairs : at + 2 * pairs]
        old, new = ([value for block in side for value in block] for side in sides)
        apart += [shift_p(old, new) <= LEVEL, shift_p(new, old) <= LEVEL]
    return {"in turn": statistics.fmean(in_turn), "one after the other": statistics.fmean(apart)}


def _mean_squares(blocks: Sequence[Sequence[float]]) -> tuple[float, float]:
    size, count = len(blocks[0]), len(blocks)
    msb = size * statistics.variance([statistics.fmean(block) for block in blocks])
    msw = sum(statistics.variance(block) for block in blocks) / count
    return msb, msw


def _fresh(words: Sequence[str]) -> Result:
    done = subprocess.run(
        # As the blocks in this process: every trial counts.
        [sys.executable, "-m", "kvmpc", "compare", *words, "--busy-limit", "off", "--json", "-"],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    if done.returncode:
        raise click.ClickException(f"kvmpc compare: {done.stderr}")
    return from_json(done.stdout, "kvmpc compare")


def _here(session: Session, pagers: Sequence[str], vcpus: str, size: str, rounds: int) -> Result:
    plan = make_plan(
        {"vcpus": vcpus, "mem_per_vcpu": size}, pagers, rounds=rounds, warmup=1, watchdog_s=10.0
    )
    result, stopped = Campaign.prepare(session, plan).run(lambda *_: None, confirmed=True)
    if stopped is not None:
        raise stopped
    return result


def _cells(part: Components) -> tuple[str, ...]:
    sds = [f"{sd:.2%}" for sd in (part.within, part.between, part.neighbours)]
    return (*sds, f"{part.icc:.2f}", f"{part.f:.2f}", f"{part.p:.4f}")


def _blocks(results: Sequence[Result], spec: str, key: str) -> list[list[float]]:
    found = [values_of(measured_trials(result, spec), key) for result in results]
    size = min(map(len, found))
    return [[math.log(value) for value in block[:size]] for block in found] if size > 1 else []


@click.command(help=__doc__)
@click.option("--blocks", type=click.IntRange(2, 1000), default=20, show_default=True,
              help="Blocks of either kind.")  # fmt: skip
@rounds_option(6)
@click.option("--vcpus", default="2", show_default=True)
@click.option("--mem-per-vcpu", "size", default="8M", show_default=True)
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path),
              help="Keep the results in this folder.")  # fmt: skip
@click.argument("pagers", nargs=-1)
def main(
    blocks: int, rounds: int, vcpus: str, size: str, keep: Path | None, pagers: tuple[str, ...]
) -> None:
    """Measure blocks of both kinds by turns, then take their variance apart."""
    pagers = pagers or ("none", "uffd", "exit")
    print_host()
    words = (*pagers, "--vcpus", vcpus, "--mem-per-vcpu", size, "--rounds", str(rounds))
    found: dict[str, list[Result]] = {arm: [] for arm in ARMS}
    took = dict.fromkeys(ARMS, 0.0)
    with (
        open_session() as session,
        click.progressbar(range(blocks), label="blocks", file=sys.stderr) as bar,
    ):
        for number in bar:
            for arm in ARMS[:: -1 if number % 2 else 1]:
                begin = time.monotonic()
                if arm == ARMS[0]:
                    result = _here(session, pagers, vcpus, size, rounds)
                else:
                    result = _fresh(words)
                took[arm] += time.monotonic() - begin
                found[arm].append(result)
                if keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    name = f"{arm.split()[0]}-{number:03}.json"
                    (keep / name).write_text(to_json(result))
    rows, red = [], []
    draw = random.Random(2018)
    for spec in found[ARMS[0]][0].pagers:
        for judged in JUDGED.values():
            for arm in ARMS:
                values = _blocks(found[arm], spec, judged.metric.key)
                if values:
                    rows.append((f"{spec} {judged.name}, {arm}", *_cells(components(values))))
            if values:  # of the fresh ones
                shares = false_alarms(values, draw)
                red.append(
                    (f"{spec} {judged.name}", *(f"{share:.0%}" for share in shares.values()))
                )
    print_table(("metric, blocks in", "sd within", "between", "neighbours", "ICC", "F", "p"), rows)
    headers = ("red, of one kernel", "in turn", "one after the other")
    print_table(headers, red, f"a test at {LEVEL:.0%} should be red in no more than that")
    during = [float(str((r.during or {}).get("other_cpu_s", 0))) for r in found[ARMS[1]]]
    elapsed = [float(str((r.during or {}).get("elapsed_s", 1))) for r in found[ARMS[1]]]
    click.echo(
        f"{blocks} blocks of {rounds} rounds each way; a block takes "
        f"{took[ARMS[0]] / blocks:.2f} s in one process, {took[ARMS[1]] / blocks:.2f} s in a fresh "
        f"one; other processes took {sum(during) / sum(elapsed):.2f} CPUs"
    )


if __name__ == "__main__":
    main()
