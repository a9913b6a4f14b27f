"""What two samples say of a change: p against all permutations, and one mind with the interval."""

from __future__ import annotations

import math
from itertools import combinations
from random import Random

import pytest

from kvmpc.judge import intervals
from kvmpc.judge.evidence import TwoSamples
from kvmpc.judge.intervals import shift_p
from kvmpc.judge.resampling import smallest_p


def _enumerated(before: list[float], after: list[float]) -> float:
    """Return the share of all ways to deal the pooled ranks in which U is no larger; no ties."""
    pooled = sorted([*before, *after])

    def below(chosen: set[float]) -> int:
        others = [value for value in pooled if value not in chosen]
        return sum(new < old for new in chosen for old in others)

    seen = below(set(after))
    ways = list(combinations(pooled, len(after)))
    return sum(below(set(way)) <= seen for way in ways) / len(ways)


@pytest.mark.parametrize("sizes", [(1, 1), (1, 4), (4, 1), (3, 3), (4, 6), (6, 4), (5, 5)])
def test_p_is_that_of_all_ways_to_deal_the_values(sizes: tuple[int, int]) -> None:
    draw = Random(sum(sizes))
    for mean in (-1, 0, 1, 9):
        before = [draw.gauss(0, 1) for _ in range(sizes[0])]
        after = [draw.gauss(mean, 1) for _ in range(sizes[1])]
        assert shift_p(before, after) == pytest.approx(_enumerated(before, after))


@pytest.mark.parametrize("sizes", [(4, 4), (7, 9), (10, 10), (20, 8), (40, 70)])
def test_p_and_interval_are_of_one_mind(sizes: tuple[int, int]) -> None:
    draw = Random(sum(sizes))
    for _ in range(60):
        before = [round(draw.gauss(0, 1), 1) for _ in range(sizes[0])]
        after = [round(draw.gauss(0.8, 1), 1) for _ in range(sizes[1])]
        evidence = TwoSamples(before, after)
        for level in (0.025, 0.01, 0.01 / 15):
            interval = evidence.interval(1 - 2 * level)
            assert (interval is None) == (evidence.smallest_p > level)
            if interval is not None:
                assert (interval.low > 0) == (evidence.p(1) <= level)
                assert (interval.high < 0) == (evidence.p(-1) <= level)
                assert interval.low <= evidence.shift <= interval.high


def test_p_is_smallest_where_all_new_values_are_higher() -> None:
    assert shift_p([1, 2, 3], [4, 5, 6]) == 1 / 20 == smallest_p(3, 3)
    assert shift_p([4, 5, 6], [1, 2, 3]) == 1
    assert shift_p([5, 5], [5, 5]) == 1
    assert TwoSamples([4, 5, 6], [1, 2, 3]).p(-1) == 1 / 20
    with pytest.raises(ValueError, match="without values"):
        shift_p([], [1])


@pytest.mark.parametrize("sizes", [(10, 10), (7, 15)])
@pytest.mark.parametrize("ties", [False, True])
def test_p_of_equal_samples_is_not_small_too_often(sizes: tuple[int, int], ties: bool) -> None:
    draw = Random(11)

    def side(n: int) -> list[float]:
        return [round(draw.gauss(0, 1), 1 if ties else 9) for _ in range(n)]

    small = sum(shift_p(side(sizes[0]), side(sizes[1])) <= 0.1 for _ in range(400))
    # Binomial(400, 0.1): more than 60 has a probability below 0.001.
    assert 4 <= small <= 60


def test_p_of_many_values_comes_from_the_normal_distribution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw = Random(3)
    sides = [[draw.gauss(mean, 1) for _ in range(16)] for mean in (0, 0.5)]
    exact = shift_p(*sides)
    monkeypatch.setattr(intervals, "_MOST_COUNTED", 0)
    assert shift_p(*sides) == pytest.approx(exact, rel=0.05)
    assert not math.isclose(shift_p(*sides), exact, rel_tol=1e-9)
