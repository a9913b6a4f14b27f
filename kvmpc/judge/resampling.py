"""What few values can show: a test of two samples, and what several tests show together.

The test is the whole permutation distribution of the values themselves, with no seed, and assumes
no distribution. Pure functions of numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

__all__ = [
    "block_size",
    "blocks",
    "holm",
    "permutation_p",
    "sizes_needed",
    "smallest_p",
]

_GRID: Final = 1000
_MOST_BLOCKS: Final = 16


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
