"""Two results beside each other: which rows are compared, and what their ratios are."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from kvmpc.show.page.compare import chart_of, compare, host_differences, ratio_of_medians
from kvmpc.show.page.panels import panels_of
from tests.fakes.sweeps import sweep


def test_a_kernel_may_differ_and_a_processor_may_not() -> None:
    one = sweep((1,), rounds=1)
    assert host_differences(one, sweep((1,), rounds=1, kernel="6.13")) == []
    host = {**one.host, "cpu": {"model": "another"}}
    assert "Synthetic CPU and another" in " ".join(host_differences(one, replace(one, host=host)))


def test_rows_are_matched_by_what_was_measured_not_by_their_place() -> None:
    before = sweep((1, 2, 8), ("uffd", "exit"), rounds=3)
    after = sweep((8, 1), ("exit",), rounds=2)
    found = compare(before, after)
    assert [(row.where, row.label) for row in found.rows] == [
        ("vcpus=1", "exit(sigbus)"),
        ("vcpus=8", "exit(sigbus)"),
    ]
    assert [(label, where, side) for label, where, side, _ in found.unmatched] == [
        ("uffd", "vcpus=1", "before"),
        ("all pagers", "vcpus=2", "before"),
        ("uffd", "vcpus=8", "before"),
    ]


def test_rounds_and_seed_do_not_make_a_row_another_and_an_option_of_the_work_does() -> None:
    before = sweep((1,), ("uffd",), rounds=2)
    assert len(compare(before, sweep((1,), ("uffd",), rounds=5, seed=4)).rows) == 1
    other = replace(before, options={**before.options, "access": "read"})
    found = compare(before, other)
    assert (len(found.rows), len(found.unmatched)) == (0, 2)
    assert "access=write against read" in found.unmatched[0][3]


def test_two_providers_of_exits_are_never_one_row() -> None:
    before = sweep((1,), ("exit",), rounds=2)
    other = replace(before, labels=("exit(bitmap)",), pager_infos=())
    assert compare(before, other).rows == ()


def test_a_ratio_is_that_of_the_medians_and_its_interval_holds_it() -> None:
    found = ratio_of_medians([20, 22, 21, 20, 23], [10, 11, 10, 10, 10])
    assert found is not None
    assert found.median == pytest.approx(2.1)
    low, high = found.low, found.high
    assert low <= 2.1 <= high


def test_one_value_has_no_interval_and_none_has_no_ratio() -> None:
    found = ratio_of_medians([20], [10, 11])
    assert found is not None
    assert (found.median, found.n) == (pytest.approx(20 / 10.5), 1)
    assert ratio_of_medians([], [1]) is None


def test_equal_samples_are_found_different_about_as_often_as_the_level_says() -> None:
    chance = random.Random(11)
    wrong = 0
    for _ in range(200):
        one, two = ([chance.gauss(100, 3) for _ in range(10)] for _ in range(2))
        found = ratio_of_medians(one, two)
        assert found is not None
        low, high = found.low, found.high
        wrong += not low <= 1 <= high
    assert wrong <= 20


def test_a_chart_shows_after_over_before_at_each_point() -> None:
    before = sweep((1, 2, 4), ("uffd",), rounds=4)
    after = sweep((2, 4), ("uffd",), rounds=4, factor=lambda _: 0.5, seed=3)
    ((first, second),) = compare(before, after).panels
    chart = chart_of(first, second, "ba")
    assert [dot.x for dot in chart.lines[0].dots] == [2, 4]
    assert all(dot.y == pytest.approx(0.5, rel=0.1) for dot in chart.lines[0].dots)
    assert panels_of(before) == [first]
    assert sorted(second) == [1, 2]
