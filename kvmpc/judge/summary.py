"""Medians with intervals: what several values of one thing say together."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from kvmpc.judge.resampling import FEWEST_FOR_INTERVAL, median_interval

__all__ = ["Summary", "median", "summarise", "summarise_ratios"]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The middle and the spread of `n` values.

    low, high: 95 % interval of the median, by bootstrap; the range where `n` is too small for one.
    """

    median: float
    lowest: float
    highest: float
    low: float
    high: float
    n: int

    @property
    def is_range(self) -> bool:
        """Whether `n` is too small for an interval."""
        return self.n < FEWEST_FOR_INTERVAL


def median(values: Iterable[float]) -> float | None:
    """Return the median, or None of nothing."""
    known = sorted(values)  # by hand: the statistics module takes 15 ms to import
    if not known:
        return None
    middle = len(known) // 2
    return known[middle] if len(known) % 2 else (known[middle - 1] + known[middle]) / 2


def summarise(values: Iterable[float]) -> Summary | None:
    """Return middle and spread of `values`, or None of nothing."""
    known = sorted(values)
    middle = median(known)
    if middle is None:
        return None
    low, high = median_interval(known)
    return Summary(
        median=middle, lowest=known[0], highest=known[-1], low=low, high=high, n=len(known)
    )


def summarise_ratios(ratios: Iterable[float]) -> Summary | None:
    """Return the summary of `ratios`, whose median is taken of their logarithms.

    So that of an even number, too, the median of the inverse ratios is the inverse of this one.
    """
    logarithms = summarise(map(math.log, ratios))
    if logarithms is None:
        return None
    return Summary(
        median=math.exp(logarithms.median),
        lowest=math.exp(logarithms.lowest),
        highest=math.exp(logarithms.highest),
        low=math.exp(logarithms.low),
        high=math.exp(logarithms.high),
        n=logarithms.n,
    )
