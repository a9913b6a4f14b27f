"""Buckets and quantiles of a histogram of cycles."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from kvmpc.result.histogram import BLUR, bucket_bounds, cycles_to_ns, quantile_cycles


def test_buckets_lie_beside_each_other_and_are_narrow() -> None:
    bounds = [bucket_bounds(bucket) for bucket in range(600)]
    for (_, end), (begin, highest) in pairwise(bounds):
        assert begin == end + 1
        assert (highest - begin + 1) * 16 <= max(16, begin)


def test_cycles_become_ns_at_the_rate_of_the_counter() -> None:
    assert cycles_to_ns(2500, 2_500_000) == 1000


@pytest.mark.parametrize(
    ("quantile", "middle"),
    [(0, 14.5), (0.5, 14.5), (0.51, 24.5), (0.99, 24.5), (0.999, 94.5), (1, 94.5)],
)
def test_a_quantile_lies_in_the_bucket_of_its_nearest_rank(quantile: float, middle: float) -> None:
    assert quantile_cycles([(10, 19, 500), (20, 29, 490), (90, 99, 10)], quantile) == middle


def test_a_rank_is_exact_where_its_product_is_not() -> None:
    assert 0.07 * 100 > 7
    assert quantile_cycles([(1, 1, 7), (2, 2, 93)], 0.07) == 1


def test_a_quantile_is_the_midpoint_of_its_bucket() -> None:
    assert quantile_cycles([(1024, 1087, 3)], 0.5) == 1055.5


def test_an_empty_histogram_has_no_quantile() -> None:
    with pytest.raises(ValueError, match="empty"):
        quantile_cycles([], 0.5)


def test_no_touch_is_farther_from_the_middle_of_its_bucket_than_the_blur() -> None:
    for bucket in range(16, 600):
        lowest, highest = bucket_bounds(bucket)
        middle = quantile_cycles([(lowest, highest, 1)], 0.5)
        assert math.log(middle / lowest) <= BLUR
        assert math.log(highest / middle) <= BLUR
    assert max(
        math.log(sum(bounds) / 2 / bounds[0]) for bounds in map(bucket_bounds, range(400, 416))
    ) > (BLUR * 0.99)
