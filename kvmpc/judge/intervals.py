"""Intervals that hold their level: of a median, and of the shift between two samples.

Both are made of order statistics, and how often they cover is counted, not estimated: whatever the
distribution of the values, heavy tails, ties and two modes included, never less than asked for.
That takes values that are alike and independent of each other. Rounds that drift, or that have more
in common inside a run than with the next run, are neither: then an interval speaks of this run.

No resampling and no seed. What few values cannot have is None, not a shorter interval. Pure
functions of numbers.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import TYPE_CHECKING, Final

from kvmpc.judge.resampling import block_size, blocks

if TYPE_CHECKING:
    from statistics import NormalDist

__all__ = [
    "CONFIDENCE",
    "FEWEST_FOR_INTERVAL",
    "Interval",
    "differences",
    "highest_rank",
    "median_interval",
    "middle",
    "shift",
    "shift_interval",
    "shift_p",
]

CONFIDENCE: Final = 0.95

_MOST_COUNTED: Final = 4_000_000
"""Above so many additions the ranks of two samples come from the normal distribution."""


@dataclass(frozen=True)
class Interval:
    """Two values with the truth between them; coverage: in what share of all samples, at least."""

    low: float
    high: float
    coverage: float

    @property
    def width(self) -> float:
        """How far its ends lie apart."""
        return self.high - self.low


def middle(ordered: Sequence[float]) -> float:
    """Return the median of sorted values, of which there must be one."""
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval | None:
    """Return the exact interval of the median of `values`; None where they are too few.

    Its ends are values, as many from the lowest as from the highest, and of such pairs the
    narrowest. Source: how many of n values lie below the median is binomial, (n, 1/2); Conover,
    Practical Nonparametric Statistics, 3.2. benchstat has the same (golang.org/x/perf, benchmath).
    """
    n = len(values)
    found = _median_rank(n, confidence)
    if found is None:
        return None
    ordered, (rank, coverage) = sorted(values), found
    return Interval(ordered[rank - 1], ordered[n - rank], coverage)


def highest_rank(ways: Iterable[int], total: int, confidence: float) -> tuple[int, float] | None:
    """Return the highest rank from either end that reaches `confidence`, and what it covers.

    ways: of `total`, in how many 0, 1, ... values lie beyond an end, at least up to the middle.
    None where not even the first rank does.
    """
    below = 0
    for rank, number in enumerate(ways):
        if 1 - 2 * ((below + number) / total) < confidence:
            return (rank, 1 - 2 * (below / total)) if rank else None
        below += number
    return None


@lru_cache(maxsize=1024)
def _median_rank(n: int, confidence: float) -> tuple[int, float] | None:
    return highest_rank((math.comb(n, below) for below in range(n + 1)), 2**n, confidence)


FEWEST_FOR_INTERVAL: Final = next(n for n in count(1) if _median_rank(n, CONFIDENCE))
"""Of fewer values not even lowest and highest have the median between them often enough."""


def shift(before: Sequence[float], after: Sequence[float]) -> float:
    """Return by how much `after` lies above `before`: the median of all their `differences`.

    With normal noise it needs a twentieth more values than the difference of the means, where that
    of the medians needs over half as many again, and unlike the means it bears outliers. It always
    lies in `shift_interval`. Source: Hodges and Lehmann, 1963.

    Raises: ValueError where a side has no values.
    """
    return middle(differences(before, after))


def differences(before: Sequence[float], after: Sequence[float]) -> list[float]:
    """Return all differences of a value of `after` and one of `before`, ascending.

    Both in the order measured: from 32 values a side on, neighbours are blocks, each with its
    median. Neighbours in time are alike, and would be counted as more evidence than they are.

    Raises: ValueError where a side has no values.
    """
    old, new = _alike(before, after)
    return _differences(old, new)


def shift_interval(
    before: Sequence[float], after: Sequence[float], confidence: float = CONFIDENCE
) -> Interval | None:
    """Return the exact interval of `shift`; None where a side has too few values, such as 3 and 4.

    Its ends are of their `differences`, as many from the lowest as from the highest; exact where
    the sides differ in their middle only. Source: the null distribution of Mann and Whitney's U;
    Moses, 1953; Hollander, Wolfe and Chicken, 4.3.

    Raises: ValueError where a side has no values.
    """
    old, new = _alike(before, after)
    found = _shift_rank(*sorted((len(old), len(new))), confidence)
    if found is None:
        return None
    ordered, (rank, coverage) = _differences(old, new), found
    return Interval(ordered[rank - 1], ordered[-rank], coverage)


def shift_p(before: Sequence[float], after: Sequence[float]) -> float:
    """Return how likely it is that `after` lies so far above `before`, were all of one kind.

    One-sided, and of one mind with `shift_interval`: at most p exactly where the interval of
    confidence 1 - 2p lies above 0. Values that are equal count against it. Both in the order
    measured.

    Raises: ValueError where a side has no values.
    """
    old, new = _alike(before, after)
    fewer, more = sorted((len(old), len(new)))
    ordered = sorted(old)
    # Pairs in which `after` is the lower one, or neither.
    against = sum(len(ordered) - bisect_left(ordered, value) for value in new)
    if fewer * fewer * more > _MOST_COUNTED:
        return _normal(fewer, more).cdf(against + 0.5)
    ways, total = _mann_whitney(fewer, more), math.comb(fewer + more, fewer)
    if against < len(ways):
        return sum(ways[: against + 1]) / total
    return 1 - sum(ways[: max(0, fewer * more - against)]) / total


def _alike(before: Sequence[float], after: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return what is taken for independent values of each side."""
    if not before or not after:
        raise ValueError("a side without values has no shift")
    size = block_size(len(before), len(after))
    old, new = ([middle(sorted(block)) for block in blocks(side, size)] for side in (before, after))
    return old, new


def _differences(before: Sequence[float], after: Sequence[float]) -> list[float]:
    return sorted([new - old for new in after for old in before])


@lru_cache(maxsize=1024)
def _shift_rank(fewer: int, more: int, confidence: float) -> tuple[int, float] | None:
    if fewer * fewer * more > _MOST_COUNTED:
        return _shift_rank_of_many(fewer, more, confidence)
    return highest_rank(_mann_whitney(fewer, more), math.comb(fewer + more, fewer), confidence)


@lru_cache(maxsize=64)
def _mann_whitney(fewer: int, more: int) -> list[int]:
    """Return in how many of all ways to deal the values U is 0, 1, ... up to its middle.

    They are the coefficients of the Gaussian binomial: the product of (1 - q^(more + i)) / (1 -
    q^i). Each of its factors leaves counts, so that nothing has to be rounded.
    """
    ways = [1] + [0] * (fewer * more // 2)
    for i in range(1, fewer + 1):
        for at in range(len(ways) - 1, more + i - 1, -1):
            ways[at] -= ways[at - more - i]
        for at in range(i, len(ways)):
            ways[at] += ways[at - i]
    return ways


def _shift_rank_of_many(fewer: int, more: int, confidence: float) -> tuple[int, float] | None:
    """Return what `highest_rank` does, by the normal distribution with continuity corrected.

    U has lighter tails than that, so what it covers is said too low rather than too high.
    """
    normal = _normal(fewer, more)
    rank = math.floor(normal.inv_cdf((1 - confidence) / 2) + 0.5)
    return (rank, 1 - 2 * normal.cdf(rank - 0.5)) if rank > 0 else None


def _normal(fewer: int, more: int) -> NormalDist:
    """Return the normal distribution with the mean and the variance of U."""
    # Here and not above: importing it takes longer than `kvmpc --help` may.
    from statistics import NormalDist

    return NormalDist(fewer * more / 2, math.sqrt(fewer * more * (fewer + more + 1) / 12))
