"""Medians with intervals: what several values of one thing say together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from kvmpc.judge.intervals import (
    Interval,
    differences,
    median_interval,
    middle,
    shift_interval,
)
from kvmpc.judge.paired import Pairs

__all__ = [
    "Spread",
    "Summary",
    "median",
    "summarise",
    "summarise_pairs",
    "summarise_ratios",
    "summarise_shift",
]


class Spread(StrEnum):
    """What `low` and `high` of a summary are."""

    INTERVAL = "interval"
    """The 95 % interval: where values are alike and independent, it holds the truth so often."""
    RANGE = "range"
    """Lowest and highest: too few values for an interval, and no claim how often it holds."""
    BOUNDS = "bounds"
    """Between them it lies for certain; what separates them is no chance."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The middle and the spread of `n` values.

    low, high: what `spread` says; coverage: of an interval, how often one such holds the truth.
    """

    median: float
    low: float
    high: float
    n: int
    spread: Spread = Spread.RANGE
    coverage: float | None = None

    @property
    def is_range(self) -> bool:
        """Whether the values are too few for an interval."""
        return self.spread is Spread.RANGE

    def blurred(self, blur: float) -> Summary:
        """Return the summary of values each known only to a factor of e^`blur` to either side."""
        if not blur:
            return self
        return replace(self, low=self.low * math.exp(-blur), high=self.high * math.exp(blur))

    def exp(self) -> Summary:
        """Return the summary of the values whose logarithms these are."""
        low, middle, high = map(math.exp, (self.low, self.median, self.high))
        return replace(self, low=low, median=middle, high=high)


def median(values: Iterable[float]) -> float | None:
    """Return the median, or None of nothing."""
    known = sorted(values)  # by hand: the statistics module takes 15 ms to import
    return middle(known) if known else None


def summarise(values: Iterable[float]) -> Summary | None:
    """Return middle and spread of `values`, or None of nothing."""
    known = sorted(values)
    if not known:
        return None
    return _summary(middle(known), median_interval(known), known, len(known))


def summarise_ratios(ratios: Iterable[float]) -> Summary | None:
    """Return the summary of `ratios`, whose median is taken of their logarithms.

    So that of an even number, too, the median of the inverse ratios is the inverse of this one.
    """
    logarithms = summarise(map(math.log, ratios))
    return None if logarithms is None else logarithms.exp()


def summarise_shift(before: Sequence[float], after: Sequence[float]) -> Summary | None:
    """Return by how much `after` lies above `before`; n is that of the smaller side.

    Neither is paired with the other: the middle is that of all pairwise differences, and always
    lies in its interval, as the difference of two medians need not. None where a side has nothing.
    """
    if not before or not after:
        return None
    every = differences(before, after)
    n = min(len(before), len(after))
    return _summary(middle(every), shift_interval(before, after), every, n)


def summarise_pairs(before: Sequence[float], after: Sequence[float]) -> Summary | None:
    """Return by how much `after` lies above `before`, whose values belong to each other in turn.

    None where there is no pair.
    """
    if not before:
        return None
    pairs = Pairs(before, after)
    each = [new - old for old, new in zip(before, after, strict=True)]
    return _summary(pairs.shift, pairs.interval(), each, len(each))


def _summary(middle: float, found: Interval | None, values: Sequence[float], n: int) -> Summary:
    """Return a summary with the interval that was found, or with the range of `values`."""
    if found is None:
        return Summary(median=middle, low=min(values), high=max(values), n=n)
    return Summary(
        median=middle, low=found.low, high=found.high, n=n,
        spread=Spread.INTERVAL, coverage=found.coverage,
    )  # fmt: skip
