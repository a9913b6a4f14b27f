"""Tests of two samples, against what can be enumerated or is known."""

from __future__ import annotations

import math
from itertools import combinations
from random import Random

import pytest

from kvmpc.judge.resampling import holm, permutation_p, sizes_needed, smallest_p


def _normal(draw: Random, n: int, mean: float = 0.0, noise: float = 1.0) -> list[float]:
    return [draw.gauss(mean, noise) for _ in range(n)]


def test_a_side_without_values_has_no_test() -> None:
    for before, after in (([1.0], []), ([], [1.0])):
        with pytest.raises(ValueError, match="without values"):
            permutation_p(before, after)


def _enumerated(before: list[float], after: list[float]) -> float:
    pooled = [*before, *after]
    sums = [math.fsum(chosen) for chosen in combinations(pooled, len(after))]
    return sum(total >= math.fsum(after) - 1e-12 for total in sums) / len(sums)


@pytest.mark.parametrize("sizes", [(1, 1), (1, 5), (5, 1), (3, 3), (4, 7), (7, 4), (6, 6)])
def test_p_is_that_of_all_permutations(sizes: tuple[int, int]) -> None:
    draw = Random(sum(sizes))
    for shift in (-1, 0, 1, 5):
        # Whole numbers up to 1000 with both ends among them: the grid is exact.
        before = [0.0, *(float(draw.randrange(900)) for _ in range(sizes[0] - 1))]
        after = [float(min(1000, draw.randrange(800) + 40 * shift)) for _ in range(sizes[1])]
        after[0] = 1000.0
        after = [max(0.0, value) for value in after]
        assert permutation_p(before, after) == pytest.approx(_enumerated(before, after))


def test_p_is_smallest_where_all_new_values_are_higher() -> None:
    assert permutation_p([1, 2, 3], [4, 5, 6]) == 1 / 20 == smallest_p(3, 3)
    assert permutation_p([4, 5, 6], [1, 2, 3]) == 1
    assert permutation_p([5, 5], [5, 5]) == 1


@pytest.mark.parametrize("sizes", [(10, 10), (5, 12), (40, 40), (7, 100)])
def test_p_of_equal_samples_is_not_small_too_often(sizes: tuple[int, int]) -> None:
    draw = Random(11)
    small = sum(
        permutation_p(_normal(draw, sizes[0]), _normal(draw, sizes[1])) <= 0.1 for _ in range(300)
    )
    # Binomial(300, 0.1): more than 48 has a probability below 0.001.
    assert 12 <= small <= 48


def test_one_wild_value_is_no_evidence() -> None:
    steady = [1.0 + k / 100 for k in range(10)]
    assert permutation_p(steady, [*steady[1:], 1e6]) > 0.05


def test_values_that_drift_together_are_not_taken_for_many() -> None:
    # Two halves of one slow wave: 100 rounds each, but hardly more than two independent values.
    wave = [math.sin(k / 40) for k in range(200)]
    noise = Random(2)
    jitter = [value + noise.gauss(0, 0.1) for value in wave]
    assert smallest_p(100, 100) == 1 / math.comb(32, 16)
    assert permutation_p(jitter[100:], jitter[:100]) > smallest_p(100, 100)


@pytest.mark.parametrize(("level", "needed"), [(0.05, 3), (0.01, 5), (0.01 / 15, 7), (1e-6, 12)])
def test_the_number_needed_is_the_first_that_reaches_the_level(level: float, needed: int) -> None:
    assert sizes_needed(level) == needed
    assert smallest_p(needed, needed) <= level < smallest_p(needed - 1, needed - 1)


def test_holm_multiplies_by_the_tests_that_are_left() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
