"""Medians and intervals, on numbers one can do in the head."""

from __future__ import annotations

import math

import pytest

from kvmpc.judge.summary import (
    Spread,
    Summary,
    median,
    summarise,
    summarise_ratios,
    summarise_shift,
)


def test_the_median_of_an_even_number_lies_between_the_two_in_the_middle() -> None:
    assert median([3, 1, 2]) == 2
    assert median([4, 1, 2, 3]) == 2.5
    assert median([]) is None


def test_a_summary_has_the_middle_the_ends_and_the_number() -> None:
    assert summarise([3.0, 1.0, 2.0]) == Summary(median=2, low=1, high=3, n=3, spread=Spread.RANGE)
    assert summarise([]) is None


def test_from_six_values_on_there_is_an_interval_and_below_that_a_range() -> None:
    for n in range(1, 6):
        few = summarise(map(float, range(n)))
        assert few is not None
        assert (few.low, few.high, few.n) == (0, n - 1, n)
        assert (few.is_range, few.spread, few.coverage) == (True, "range", None)
    for n, low, coverage in ((6, 0, 0.96875), (25, 7, 0.9567)):
        enough = summarise(map(float, range(n)))
        assert enough is not None
        assert (enough.low, enough.high) == (low, n - 1 - low)
        assert (enough.is_range, enough.spread) == (False, "interval")
        assert enough.coverage == pytest.approx(coverage, abs=1e-4)


def test_a_shift_of_few_values_has_the_range_of_all_pairs() -> None:
    found = summarise_shift([1.0, 2.0, 3.0], [11.0, 12.0])
    assert found == Summary(median=9.5, low=8, high=11, n=2, spread=Spread.RANGE)
    assert summarise_shift([], [1.0]) is None
    assert summarise_shift([1.0], []) is None


def test_a_shift_lies_in_its_interval_where_the_difference_of_medians_does_not() -> None:
    before, after = [0.0] * 5 + [9.0] * 4, [0.0] * 4 + [9.0] * 5
    found = summarise_shift(before, after)
    assert found is not None
    assert found.low <= found.median <= found.high
    assert (found.median, found.spread) == (0, "interval")


def test_values_known_to_a_factor_make_an_interval_no_narrower_than_that() -> None:
    same = summarise([100.0] * 8)
    assert same is not None
    blurred = same.blurred(math.log1p(1 / 32))
    assert (blurred.low, blurred.median, blurred.high) == (
        pytest.approx(100 / 1.03125), 100, pytest.approx(103.125),
    )  # fmt: skip
    assert (blurred.spread, blurred.coverage) == (same.spread, same.coverage)
    assert same.blurred(0) == same


def test_the_median_of_inverse_ratios_is_the_inverse_of_their_median() -> None:
    ratios = [0.5, 0.8, 1.25, 4.0]
    one, other = summarise_ratios(ratios), summarise_ratios(1 / ratio for ratio in ratios)
    assert one is not None
    assert other is not None
    assert abs(one.median * other.median - 1) < 1e-12
    assert summarise_ratios([]) is None
