"""What pairs of measurements say of a change: its size, its interval, how likely it is by chance.

Two sides measured in turn give pairs that lie next to each other in time, in an order that was
drawn. A difference within a pair has nothing in it of what the host did between pairs, however much
it drifts. And where the sides are alike, it might as well have had the other sign: that the order
of each pair was drawn is all that the test assumes, whatever the distribution, and however alike
pairs are that follow each other.

All three come from one statistic, so that they cannot contradict each other: how many of the means
of any two differences, or of one twice, are above 0 (Wilcoxon's signed ranks). Nothing is resampled
and there is no seed. Pure functions of numbers. Source: Hollander, Wolfe and Chicken,
Nonparametric Statistical Methods, 3.1 to 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement, count
from typing import Final

from kvmpc.judge.intervals import CONFIDENCE, Interval, highest_rank, middle
from kvmpc.judge.resampling import blocks

__all__ = ["Pairs", "pairs_needed", "smallest_paired_p"]

_MOST_VALUES: Final = 32


@dataclass(frozen=True)
class Pairs:
    """Evidence of two sides that were measured in turn, as logarithms: a shift of them is a ratio.

    The k-th value of `baseline` belongs to the k-th of `new`. Both in the order measured, and not
    empty. From 64 pairs on, the differences of neighbours are averaged: to give them their signs
    together is no less exact, and counting all signs of a thousand would take too long.
    """

    baseline: Sequence[float]
    new: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.baseline) != len(self.new) or not self.new:
            raise ValueError(f"{len(self.baseline)} values and {len(self.new)} make no pairs")

    @property
    def sizes(self) -> tuple[int, int]:
        """How many values each side has."""
        return len(self.baseline), len(self.new)

    @property
    def shift(self) -> float:
        """By how much the new side lies above the baseline: the median of all such means.

        It bears outliers, and always lies in `interval`. Source: Hodges and Lehmann, 1963.
        """
        return middle(self._means())

    @property
    def smallest_p(self) -> float:
        """The p where the new value is the higher one in every pair."""
        return smallest_paired_p(len(self.new))

    def interval(self, confidence: float = CONFIDENCE) -> Interval | None:
        """Return the interval of `shift`; None of too few pairs, at 95 % of fewer than six.

        Its ends are such means, as many from the lowest as from the highest; exact where
        differences lie evenly around their middle, as they do where both sides have the same noise.
        """
        means = self._means()
        found = _rank(len(self._differences()), confidence)
        if found is None:
            return None
        rank, coverage = found
        return Interval(means[rank - 1], means[-rank], coverage)

    def p(self, sign: int) -> float:
        """Return how likely so high a shift is by chance; of sign -1, so low a one.

        Exact: the share of all ways to give the differences their signs. Ties count against it.
        """
        against = sum(mean * sign <= 0 for mean in self._means())
        ways = _signed_ranks(len(self._differences()))
        return sum(ways[: against + 1]) / sum(ways)

    def _differences(self) -> list[float]:
        """Return what is tested: all differences, or means of neighbours."""
        found = [new - old for old, new in zip(self.baseline, self.new, strict=True)]
        merged = blocks(found, _merged(len(found)))
        return [math.fsum(block) / len(block) for block in merged]

    def _means(self) -> list[float]:
        pairs = combinations_with_replacement(self._differences(), 2)
        return sorted((one + other) / 2 for one, other in pairs)


def smallest_paired_p(pairs: int) -> float:
    """Return the p that so many pairs have at best."""
    return 2.0 ** -(pairs // _merged(pairs))


def pairs_needed(level: float) -> int:
    """Return how many pairs can reach `level` at all."""
    return next(n for n in count(1) if smallest_paired_p(n) <= level)


def _merged(pairs: int) -> int:
    return max(1, pairs // _MOST_VALUES)


@lru_cache(maxsize=256)
def _signed_ranks(n: int) -> tuple[int, ...]:
    """Return in how many of all ways to give n ranks their signs those above 0 sum to 0, 1, ..."""
    ways = [1]
    for rank in range(1, n + 1):
        longer = ways + [0] * rank
        for total, number in enumerate(ways):
            longer[total + rank] += number
        ways = longer
    return tuple(ways)


@lru_cache(maxsize=1024)
def _rank(n: int, confidence: float) -> tuple[int, float] | None:
    return highest_rank(_signed_ranks(n), 2**n, confidence)
