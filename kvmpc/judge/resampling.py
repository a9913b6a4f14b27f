"""What few values can show: the least p that so many have, and what several tests show together.

Pure functions of numbers.
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
    "sizes_needed",
    "smallest_p",
]

_MOST_BLOCKS: Final = 16


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


def smallest_p(before: int, after: int) -> float:
    """Return the p that `shift_p` gives at best, for so many values on each side."""
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
