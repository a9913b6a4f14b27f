"""Medians and intervals, on numbers one can do in the head."""

from __future__ import annotations

from kvmpc.judge.summary import Summary, median, summarise, summarise_ratios


def test_the_median_of_an_even_number_lies_between_the_two_in_the_middle() -> None:
    assert median([3, 1, 2]) == 2
    assert median([4, 1, 2, 3]) == 2.5
    assert median([]) is None


def test_a_summary_has_the_middle_the_ends_and_the_number() -> None:
    assert summarise([3.0, 1.0, 2.0]) == Summary(median=2, lowest=1, highest=3, low=1, high=3, n=3)
    assert summarise([]) is None


def test_from_six_values_on_there_is_an_interval_within_the_range() -> None:
    few, enough = summarise(map(float, range(5))), summarise(map(float, range(25)))
    assert few is not None
    assert enough is not None
    assert few.is_range
    assert (few.low, few.high) == (few.lowest, few.highest)
    assert not enough.is_range
    assert enough.lowest < enough.low < enough.median < enough.high < enough.highest


def test_the_median_of_inverse_ratios_is_the_inverse_of_their_median() -> None:
    ratios = [0.5, 0.8, 1.25, 4.0]
    one, other = summarise_ratios(ratios), summarise_ratios(1 / ratio for ratio in ratios)
    assert one is not None
    assert other is not None
    assert abs(one.median * other.median - 1) < 1e-12
    assert summarise_ratios([]) is None
