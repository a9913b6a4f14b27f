"""How few values can show anything, and several tests together."""

from __future__ import annotations

import math

import pytest

from kvmpc.judge.intervals import shift_p
from kvmpc.judge.resampling import block_size, blocks, holm, sizes_needed, smallest_p


@pytest.mark.parametrize("sizes", [(1, 1), (3, 3), (4, 9), (31, 31), (32, 40), (100, 100)])
def test_the_smallest_p_is_that_of_sides_that_do_not_overlap(sizes: tuple[int, int]) -> None:
    before, after = range(sizes[0]), range(1000, 1000 + sizes[1])
    assert shift_p(before, after) == pytest.approx(smallest_p(*sizes))


def test_a_hundred_neighbours_are_not_the_evidence_of_a_hundred() -> None:
    assert smallest_p(100, 100) == 1 / math.comb(32, 16)
    assert [block_size(*sizes) for sizes in ((31, 1000), (32, 32), (100, 99))] == [1, 2, 6]


@pytest.mark.parametrize(("count", "size"), [(31, 1), (33, 2), (100, 6)])
def test_blocks_hold_every_value_once_and_in_order(count: int, size: int) -> None:
    found = blocks(range(count), size)
    assert [value for block in found for value in block] == list(range(count))
    assert {len(block) for block in found} <= {size, size + 1}


@pytest.mark.parametrize(("level", "needed"), [(0.05, 3), (0.01, 5), (0.01 / 15, 7), (1e-6, 12)])
def test_the_number_needed_is_the_first_that_reaches_the_level(level: float, needed: int) -> None:
    assert sizes_needed(level) == needed
    assert smallest_p(needed, needed) <= level < smallest_p(needed - 1, needed - 1)


def test_holm_multiplies_by_the_tests_that_are_left() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
