"""What the values of two sides say of a change: its size, its interval, how likely it is by chance.

All three come from one statistic, so that they cannot contradict each other: in how many of all
pairs of an old and a new value the new one is higher (Mann and Whitney's U). It asks for no
distribution, and one wild round moves it by as much as any other. Pure functions of numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from kvmpc.judge.intervals import Interval, shift, shift_interval, shift_p
from kvmpc.judge.resampling import smallest_p

__all__ = ["Evidence", "TwoSamples"]


class Evidence(Protocol):
    """What was measured of one thing on both sides, as logarithms: a shift of them is a ratio."""

    @property
    def sizes(self) -> tuple[int, int]:
        """How many values each side has, the baseline first."""

    @property
    def shift(self) -> float:
        """By how much the new side lies above the baseline."""

    @property
    def smallest_p(self) -> float:
        """The p that values so many could have at best."""

    def interval(self, confidence: float) -> Interval | None:
        """Return the interval of `shift`; None of too few values."""

    def p(self, sign: int) -> float:
        """Return how likely so high a shift is by chance; of sign -1, so low a one."""


@dataclass(frozen=True)
class TwoSamples:
    """Evidence of two sides that were measured apart: no value of one belongs to one of the other.

    Both in the order measured, and not empty.
    """

    baseline: Sequence[float]
    new: Sequence[float]

    @property
    def sizes(self) -> tuple[int, int]:
        """How many values each side has."""
        return len(self.baseline), len(self.new)

    @property
    def shift(self) -> float:
        """By how much the new side lies above the baseline."""
        return shift(self.baseline, self.new)

    @property
    def smallest_p(self) -> float:
        """The p where every new value is the higher one."""
        return smallest_p(*self.sizes)

    def interval(self, confidence: float) -> Interval | None:
        """Return the interval of `shift`; None of too few values."""
        return shift_interval(self.baseline, self.new, confidence)

    def p(self, sign: int) -> float:
        """Return how likely so high a shift is by chance; of sign -1, so low a one."""
        return shift_p(
            [value * sign for value in self.baseline], [value * sign for value in self.new]
        )
