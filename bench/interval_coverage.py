"""How often do kvmpc's intervals hold the truth, and how often does chance make a headline?

Draws rounds of known noise, and counts. Intervals of a median have to hold it at least as often as
they say, and results of identical pagers, or of one kernel twice, may name something one time in
twenty, where rounds are alike and independent: the first rows of each table. The others say what is
left of that where rounds hang together (AR(1)), or where each run has a shift of its own, in
standard deviations of a round: then no interval and no test of one run's rounds can hold.

Needs no KVM, and a minute of one CPU. Seeded: the same numbers every time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from random import Random
from typing import Final

import click
from common import print_table

from kvmpc.judge.answer import FALSE_HEADLINES, chance_of
from kvmpc.judge.intervals import median_interval, shift_interval, shift_p
from kvmpc.judge.resampling import holm

Rounds = Callable[[Random, int], list[float]]
"""Draws the rounds of one run; their true median is 0."""

ROUNDS: Final = (6, 7, 8, 10, 20)
ALIKE: Final = "normal"


def _independent(noise: Callable[[Random], float]) -> Rounds:
    return lambda draw, n: [noise(draw) for _ in range(n)]


def _normal(draw: Random) -> float:
    return draw.gauss(0, 1)


def _two_modes(draw: Random) -> float:
    """Seven of ten at 0, the others far above; 0.565949 is the median of all."""
    return draw.gauss(0 if draw.random() < 0.7 else 8, 1) - 0.565949


def _autocorrelated(share: float) -> Rounds:
    def rounds(draw: Random, n: int) -> list[float]:
        found = [draw.gauss(0, 1)]
        for _ in range(n - 1):
            found.append(share * found[-1] + math.sqrt(1 - share**2) * draw.gauss(0, 1))
        return found

    return rounds


def _shifted(size: float) -> Rounds:
    def rounds(draw: Random, n: int) -> list[float]:
        shift = draw.gauss(0, size)
        return [shift + draw.gauss(0, 1) for _ in range(n)]

    return rounds


NOISE: Final[Mapping[str, Rounds]] = {
    ALIKE: _independent(_normal),
    "lognormal": _independent(lambda draw: draw.lognormvariate(0, 1) - 1),
    "t2": _independent(lambda draw: draw.gauss(0, 1) / math.sqrt(draw.expovariate(1))),
    "Cauchy": _independent(lambda draw: math.tan(math.pi * (draw.random() - 0.5))),
    "two modes, 70 to 30": _independent(_two_modes),
    "AR(1) 0.5": _autocorrelated(0.5),
    "AR(1) 0.8": _autocorrelated(0.8),
    "run shift 0.5": _shifted(0.5),
    "run shift 1": _shifted(1),
    "run shift 2": _shifted(2),
}


Happens = Callable[[Rounds, Random], bool]
"""Whether something happens with noise of a kind, drawn anew each time."""


def _holds(n: int, rounds: Rounds, draw: Random) -> bool:
    found = median_interval(rounds(draw, n))
    return found is not None and found.low <= 0 <= found.high


def _holds_shift(n: int, rounds: Rounds, draw: Random) -> bool:
    found = shift_interval(rounds(draw, n), rounds(draw, n))
    return found is not None and found.low <= 0 <= found.high


def _names_a_winner(n: int, pagers: int, points: int, rounds: Rounds, draw: Random) -> bool:
    """Return whether a result of pagers alike, of one kind, calls one the fastest somewhere."""
    for _ in range(points):
        rates = list(zip(*(rounds(draw, n) for _ in range(pagers)), strict=True))
        winners = [rate.index(max(rate)) for rate in rates]
        if chance_of(n, max(map(winners.count, winners))) <= FALSE_HEADLINES / points:
            return True
    return False


def _names_a_change(n: int, rows: int, rounds: Rounds, draw: Random) -> bool:
    """Return whether a comparison of one kernel with itself calls a row slower or faster."""
    sides = [(rounds(draw, n), rounds(draw, n)) for _ in range(rows)]
    p = [min(1.0, 2 * min(shift_p(old, new), shift_p(new, old))) for old, new in sides]
    return min(holm(p)) <= FALSE_HEADLINES


def _table(title: str, columns: Mapping[str, Happens], kinds: Sequence[str], times: int) -> None:
    """Print how often each column happens, a row for each kind of noise."""
    rows = []
    for kind in kinds:
        draw = Random(kind)
        counts = [
            sum(happens(NOISE[kind], draw) for _ in range(times)) for happens in columns.values()
        ]
        rows.append((kind, *(f"{count / times:.1%}" for count in counts)))
    print_table((title, *columns), rows, f"{times} draws a cell")


@click.command(help=__doc__)
@click.option("--times", type=click.IntRange(100, 1_000_000), default=6000, show_default=True,
              help="Runs drawn for a cell of the first two tables; pages are a fifth.")  # fmt: skip
def main(times: int) -> None:
    """Draw, and count."""
    pages = max(100, times // 5)
    hanging = [ALIKE, *(kind for kind in NOISE if kind.startswith(("AR", "run")))]
    for what, holds in (("a median", _holds), ("a shift", _holds_shift)):
        columns = {f"n={n}": partial(holds, n) for n in ROUNDS}
        _table(f"95 % interval of {what} holds it", columns, list(NOISE), times)
    for points, counts in ((1, (6, 10)), (9, (10, 20))):
        _table(
            f"a winner is named, {points} point{'s' * (points > 1)}",
            {
                f"{pagers} alike, n={n}": partial(_names_a_winner, n, pagers, points)
                for pagers in (2, 5)
                for n in counts
            },
            hanging,
            pages,
        )
    _table(
        "a change is named",
        {
            f"{rows} rows, n={n}": partial(_names_a_change, n, rows)
            for rows in (5, 20, 45)
            for n in (7, 10)
        },
        hanging,
        pages,
    )


if __name__ == "__main__":
    main()
