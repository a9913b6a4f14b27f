"""What few values can say: an interval for a median, and a test of two samples.

Both ask the values themselves, by drawing from them again, and assume no distribution. The
interval is a percentile bootstrap of a fixed seed; the test is the whole permutation distribution,
with no seed at all. Pure functions of numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Final

__all__ = [
    "CONFIDENCE",
    "FEWEST_FOR_INTERVAL",
    "block_size",
    "blocks",
    "change_interval",
    "holm",
    "median_interval",
    "permutation_p",
    "sizes_needed",
    "smallest_p",
]

CONFIDENCE: Final = 0.95

FEWEST_FOR_INTERVAL: Final = 6
"""With fewer values, more than 2.5 % of all resamples have the lowest value as their median, and
as many the highest: the interval is the range."""

_RESAMPLES: Final = 2000
_SEED: Final = 2018
_GRID: Final = 1000
_MOST_BLOCKS: Final = 16


@lru_cache(maxsize=256)
def _middles(n: int, side: int = 0) -> tuple[tuple[int, int], ...]:
    """Return, for each resample of `n` sorted values, which two are in its middle (or one, twice).

    A resample is n draws with replacement. Which value is its k-th smallest depends only on the
    k-th smallest of n uniform numbers, and that is a beta variate; the next one is, above it, the
    smallest of n - k uniform numbers. So a resample costs two variates, however large n is.
    """
    # Here and not above: importing it takes longer than `kvmpc --help` may.
    from random import Random

    draw = Random(_SEED + side)
    found = []
    for _ in range(_RESAMPLES):
        below = (n + 1) // 2
        first = draw.betavariate(below, n + 1 - below)
        second = first if n % 2 else first + (1 - first) * draw.betavariate(1, n - below)
        found.append((min(n - 1, int(first * n)), min(n - 1, int(second * n))))
    return tuple(found)


def _middle(known: Sequence[float], pair: tuple[int, int]) -> float:
    return (known[pair[0]] + known[pair[1]]) / 2


def _central(medians: list[float]) -> tuple[float, float]:
    medians.sort()
    cut = round(len(medians) * (1 - CONFIDENCE) / 2)
    return medians[cut], medians[-1 - cut]


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the median of `values`: percentile bootstrap, fixed seed.

    Of fewer than `FEWEST_FOR_INTERVAL` values it is their range. Raises: ValueError of none.
    """
    known = sorted(values)
    if not known:
        raise ValueError("nothing has no interval")
    if len(known) < FEWEST_FOR_INTERVAL:
        return known[0], known[-1]
    return _central([_middle(known, pair) for pair in _middles(len(known))])


def change_interval(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of median(after) - median(before), each side resampled alone.

    Raises: ValueError where a side has no values.
    """
    old, new = sorted(before), sorted(after)
    if not old or not new:
        raise ValueError("nothing has no interval")
    pairs = zip(_middles(len(old)), _middles(len(new), side=1), strict=True)
    return _central([_middle(new, right) - _middle(old, left) for left, right in pairs])


def permutation_p(before: Sequence[float], after: Sequence[float]) -> float:
    """Return how likely a mean of `after` so far above that of `before` is, were all one sample.

    One-sided: `after` higher is what is looked for. Both in the order measured. p is exact: of all
    ways to deal the pooled values to two sides of these sizes, the share whose `after` sums to at
    least what was seen. They are not enumerated but counted, by sums on a grid of 1/1000 of the
    pooled range; the grid depends on the pooled values alone, so the level holds exactly.

    Means and not medians: of 10 values with normal noise the mean sees a third more, and an outlier
    costs it power but never makes it lie. From 32 values a side on, neighbours are averaged to
    blocks, the same number in each on both sides: neighbours in time are alike, and would otherwise
    be counted as more evidence than they are.

    Raises: ValueError where a side has no values.
    """
    if not before or not after:
        raise ValueError("a side without values cannot be tested")
    size = block_size(len(before), len(after))
    old, new = (
        [math.fsum(block) / len(block) for block in blocks(side, size)] for side in (before, after)
    )
    lowest = min(*old, *new)
    span = max(*old, *new) - lowest
    if span == 0:
        return 1.0
    old_steps, new_steps = (
        [round((value - lowest) / span * _GRID) for value in side] for side in (old, new)
    )
    if len(new_steps) <= len(old_steps):
        return _share_at_least(old_steps + new_steps, len(new_steps), sum(new_steps))
    # The complement, as its sums are fewer: the new side high is the old one low.
    mirrored = [_GRID - step for step in (*new_steps, *old_steps)]
    return _share_at_least(mirrored, len(old_steps), sum(mirrored[len(new_steps) :]))


def block_size(before: int, after: int) -> int:
    """Return how many neighbours are one value, of so many values on each side; 1 of fewer than 32.

    Neighbours in time are alike: a thousand of them are not the evidence of a thousand.
    """
    return max(1, min(before, after) // _MOST_BLOCKS)


def blocks(values: Sequence[float], size: int) -> list[Sequence[float]]:
    """Return all `values` in blocks of neighbours, `size` in each or a few more."""
    count = len(values) // size
    edges = [len(values) * at // count for at in range(count + 1)]
    return [values[low:high] for low, high in pairwise(edges)]


def _share_at_least(steps: Sequence[int], chosen: int, least: int) -> float:
    """Return the share of all choices of `chosen` among `steps` whose sum is at least `least`.

    `ways[k]` counts the choices of k by their sum: a number whose digits, `width` bits wide, are
    the counts, so that adding a value to all choices at once is one shift and one addition.
    Source: Pagano and Tritchler, 1983, On Obtaining Permutation Distributions in Polynomial Time.
    """
    total = math.comb(len(steps), chosen)
    width = total.bit_length() + 1  # so that the sum of all digits is one digit, too
    ways = [1] + [0] * chosen
    for step in steps:
        for count in range(chosen, 0, -1):
            ways[count] += ways[count - 1] << (step * width)
    # A number is the sum of its digits, modulo base - 1.
    return (ways[chosen] >> (least * width)) % ((1 << width) - 1) / total


def smallest_p(before: int, after: int) -> float:
    """Return the p that `permutation_p` gives at best, for so many values on each side."""
    size = block_size(before, after)
    old, new = before // size, after // size
    return 1 / math.comb(old + new, old)


def sizes_needed(level: float) -> int:
    """Return how many values on each side can reach `level` at all."""
    # Before blocks begin, which start with fewer; 1e-18 is reached there.
    return next(n for n in range(1, 2 * _MOST_BLOCKS) if smallest_p(n, n) <= level)


def holm(probabilities: Sequence[float]) -> list[float]:
    """Return each p adjusted for their number: compare it with the level of the whole family.

    Holm-Bonferroni holds whatever the tests have to do with each other; rate, p99 and CPU time of a
    pager have much. Source: Holm, 1979, A Simple Sequentially Rejective Multiple Test Procedure.
    """
    order = sorted(range(len(probabilities)), key=probabilities.__getitem__)
    adjusted = [0.0] * len(probabilities)
    so_far = 0.0
    for rank, index in enumerate(order):
        so_far = max(so_far, min(1.0, probabilities[index] * (len(probabilities) - rank)))
        adjusted[index] = so_far
    return adjusted
