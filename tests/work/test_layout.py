"""Which pages are touched, by whom, in which order; and shares."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest

from kvmpc.units import GIB, PAGE_BYTES
from kvmpc.work.layout import Layout, shares
from kvmpc.work.work import Work

PARTS = [
    (pages, touch)
    for pages in (1, 2, 3, 23, 64, 511, 512, 513, 997, 1023, 1024, 1025, 1031, 4099, 16384)
    for touch in (1, 2, 23, 509, 511, 512, 513, 521, 997, 1023, 1024, 1025, 1031, pages - 1, pages)
    if 1 <= touch <= pages
]
HUGE = 4 * GIB // PAGE_BYTES


def make_layout(pages: int, touch: int | None = None, vcpus: int = 3, **options: Any) -> Layout:
    """Make the layout of `vcpus` parts of `pages` pages of which `touch` are touched."""
    return Layout(
        Work(vcpus=vcpus, mem_per_vcpu_bytes=pages * PAGE_BYTES, touch_pages=touch, **options)
    )


@pytest.mark.parametrize(("pages", "touch"), [*PARTS, (HUGE, 23), (HUGE, 512), (HUGE, 997)])
def test_touched_pages_are_distinct_within_the_part_and_what_is_expected(
    pages: int, touch: int
) -> None:
    layout = make_layout(pages, touch)
    touched = [layout.page_of_index(index) for index in range(touch)]
    assert touched == sorted(set(touched))
    assert touched[0] == 0
    assert touched[-1] < pages
    expected = layout.expected_part
    assert len(expected) == pages
    assert [page for page in range(pages) if expected[page]] == touched


@pytest.mark.parametrize(("pages", "touch"), PARTS)
def test_touched_pages_come_in_runs_of_2_mib_where_there_are_enough(pages: int, touch: int) -> None:
    layout = make_layout(pages, touch)
    assert layout.run_pages == (512 if touch >= 512 else 1)
    assert layout.run_stride % layout.run_pages == 0
    assert (layout.runs - 1) * layout.run_pages < touch <= layout.runs * layout.run_pages


@pytest.mark.parametrize("touch", [23, 512, 997, 10007])
def test_touched_pages_are_spread_over_a_large_part(touch: int) -> None:
    layout = make_layout(HUGE, touch)
    if touch == 512:
        assert layout.runs == 1
    else:
        # The last run begins where the spread ends; strides are whole runs.
        last_run_page = layout.page_of_index((layout.runs - 1) * layout.run_pages)
        assert last_run_page >= HUGE * (layout.runs - 1) // layout.runs - 512 * layout.runs
        assert layout.page_of_index(1) < HUGE // 22


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("order", ["sequential", "scattered"])
@pytest.mark.parametrize("seed", [0, 1, 12345])
@pytest.mark.parametrize("touch", [1, 2, 3, 4, 23, 30, 511, 512, 513, 997, 1024])
def test_every_order_visits_every_touched_page_once(
    touch: int, seed: int, order: str, overlap: bool
) -> None:
    layout = make_layout(1024, touch, vcpus=5, order=order, seed=seed, overlap=overlap)
    for vcpu in range(5):
        steps = layout.order(vcpu)
        assert 0 <= steps.start < steps.count == touch
        # The guest subtracts `count` at most once after a step.
        assert 1 <= steps.step <= steps.count
        indices = [steps.index(n) for n in range(touch)]
        assert sorted(indices) == list(range(touch))
        first = 0 if overlap else vcpu * 1024
        pages = [layout.touched_page(vcpu, n) for n in range(touch)]
        assert sorted(pages) == [first + layout.page_of_index(index) for index in range(touch)]


def test_a_sequential_order_goes_from_page_to_page() -> None:
    layout = make_layout(997)
    assert [layout.touched_page(1, n) for n in range(997)] == list(range(997, 2 * 997))


@pytest.mark.parametrize("seed", range(0, 300, 7))
def test_a_scattered_order_never_goes_to_a_neighbour_from_7_pages_on(seed: int) -> None:
    for count in [*range(7, 600), 997, 1024, 4099, 30030, 510510]:
        step = make_layout(count, order="scattered", seed=seed).order(0).step
        assert math.gcd(step, count) == 1
        assert 2 <= step % count <= count - 2


@pytest.mark.parametrize("seed", [0, 1, 4294967295])
def test_a_scattered_orders_touches_are_no_neighbours_in_memory_either(seed: int) -> None:
    for touch in (23, 513, 997):
        layout = make_layout(2048, touch, order="scattered", seed=seed)
        pages = [layout.touched_page(0, n) for n in range(touch)]
        assert all(abs(second - first) > 1 for first, second in pairwise(pages))


def test_seeds_give_different_scattered_orders() -> None:
    steps = {make_layout(9973, order="scattered", seed=seed).order(0).step for seed in range(50)}
    assert len(steps) > 25


@pytest.mark.parametrize("order", ["sequential", "scattered"])
@pytest.mark.parametrize(("vcpus", "pages"), [(23, 23), (32, 997), (160, 1024)])
def test_overlapping_vcpus_start_at_different_pages(order: str, vcpus: int, pages: int) -> None:
    layout = make_layout(pages, vcpus=vcpus, order=order, overlap=True)
    assert len({layout.touched_page(vcpu, 0) for vcpu in range(vcpus)}) == vcpus


def test_overlapping_vcpus_share_starts_only_where_there_are_fewer_pages() -> None:
    layout = make_layout(23, vcpus=32, overlap=True)
    assert {layout.touched_page(vcpu, 0) for vcpu in range(32)} == set(range(23))


def test_overlapping_scattered_vcpus_have_strides_of_their_own() -> None:
    layout = make_layout(9973, vcpus=32, order="scattered", overlap=True)
    assert len({layout.order(vcpu).step for vcpu in range(32)}) > 16


def test_parts_do_not_overlap_unless_asked_to() -> None:
    layout = make_layout(23, vcpus=7)
    touched = [layout.touched_page(vcpu, n) for vcpu in range(7) for n in range(23)]
    assert sorted(touched) == list(range(7 * 23))


@pytest.mark.parametrize(
    ("pages", "count"),
    [
        (pages, count)
        for pages in (1, 23, 64, 997, 1024, 160 * HUGE)
        for count in (1, 2, 3, 7, 23, 160, 997)
        if count <= pages
    ],
)
def test_shares_are_a_partition_into_equal_parts_that_resolve_finds(pages: int, count: int) -> None:
    found = shares(pages, count)
    assert len(found) == count
    assert found[0][0] == 0
    assert all(first + length == after for (first, length), (after, _) in pairwise(found))
    assert sum(found[-1]) == pages
    lengths = {length for _, length in found}
    assert max(lengths) - min(lengths) <= 1
    assert min(lengths) >= 1
    for share, (first, length) in enumerate(found):
        for page in (first, first + length // 2, first + length - 1):
            # The rule in loops/x86_64/install.asm.
            assert ((page + 1) * count - 1) // pages == share
