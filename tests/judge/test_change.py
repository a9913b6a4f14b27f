"""Two results of one host: which rows are compared, what their ratios are, which changed."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from kvmpc.judge.change import change_between, change_of, host_differences, ratio_of_sides
from tests.fakes.sweeps import sweep, trial


def test_a_kernel_may_differ_and_a_processor_may_not() -> None:
    one = sweep((1,), rounds=1)
    assert host_differences(one, sweep((1,), rounds=1, kernel="6.13")) == []
    host = {**one.host, "cpu": {"model": "another"}}
    assert "Synthetic CPU and another" in " ".join(host_differences(one, replace(one, host=host)))


def test_rows_are_matched_by_what_was_measured_not_by_their_place() -> None:
    before = sweep((1, 2, 8), ("uffd", "exit"), rounds=3)
    after = sweep((8, 1), ("exit",), rounds=2)
    found = change_between(before, after)
    assert [(row.where, row.label) for row in found.rows] == [
        ("vcpus=1", "exit(sigbus)"),
        ("vcpus=8", "exit(sigbus)"),
    ]
    assert [(each.label, each.point, each.side) for each in found.unmatched] == [
        ("uffd", "vcpus=1", "baseline"),
        ("", "vcpus=2", "baseline"),
        ("uffd", "vcpus=8", "baseline"),
    ]


def test_rounds_and_seed_do_not_make_a_row_another_and_an_option_of_the_work_does() -> None:
    before = sweep((1,), ("uffd",), rounds=2)
    assert len(change_between(before, sweep((1,), ("uffd",), rounds=5, seed=4)).rows) == 1
    other = replace(before, options={**before.options, "access": "read"})
    found = change_between(before, other)
    assert (len(found.rows), len(found.unmatched)) == (0, 2)
    assert "access=write against read" in found.unmatched[0].reason


def test_two_providers_of_exits_are_never_one_row() -> None:
    before = sweep((1,), ("exit",), rounds=2)
    assert (
        change_between(before, replace(before, labels=("exit(bitmap)",), pager_infos=())).rows == ()
    )


def test_a_ratio_is_the_middle_of_all_pairs_and_its_interval_holds_it() -> None:
    found = ratio_of_sides([20, 22, 21, 20, 23], [10, 11, 10, 10, 10])
    assert found is not None
    # 25 pairs, of which the 13th is 23/11; the interval leaves out the two lowest and highest.
    assert (found.median, found.n) == (pytest.approx(23 / 11), 5)
    assert (found.low, found.high) == (pytest.approx(21 / 11), pytest.approx(2.3))
    assert (found.spread, found.coverage) == ("interval", pytest.approx(1 - 2 * 4 / 252))


def test_a_ratio_of_too_few_has_a_range_that_is_called_one() -> None:
    found = ratio_of_sides([20, 22, 21], [10, 11, 10])
    assert found is not None
    assert (found.spread, found.coverage) == ("range", None)
    assert (found.low, found.high) == (pytest.approx(20 / 11), pytest.approx(2.2))


def test_a_side_that_is_not_above_0_has_no_ratio() -> None:
    assert ratio_of_sides([1.0, 0.0], [1.0]) is None
    assert ratio_of_sides([1.0], [-1.0]) is None


def test_one_value_has_no_interval_and_none_has_no_ratio() -> None:
    found = ratio_of_sides([20], [10, 11])
    assert found is not None
    assert (found.median, found.n) == (pytest.approx((20 / 10 * 20 / 11) ** 0.5), 1)
    assert found.is_range
    assert ratio_of_sides([], [1]) is None


def test_equal_samples_are_found_different_no_more_often_than_the_level_says() -> None:
    chance = random.Random(11)
    wrong = 0
    for _ in range(1000):
        one, two = ([chance.gauss(100, 3) for _ in range(10)] for _ in range(2))
        found = ratio_of_sides(one, two)
        assert found is not None
        low, high = found.low, found.high
        wrong += not low <= 1 <= high
    assert wrong <= 50 + 3.5 * (1000 * 0.05 * 0.95) ** 0.5


def test_slower_rows_come_worst_first_faster_ones_best_first_and_equal_ones_not_at_all() -> None:
    factors = {"uffd": 0.7, "exit": 0.5, "none": 1.0, "uffd,readers=4": 2.0}
    pagers = tuple(factors)
    change = change_between(
        sweep((4,), pagers, rounds=10), sweep((4,), pagers, rounds=10, seed=2, factor=factors.get)
    )
    assert [row.label for row in change.slower] == ["exit(sigbus)", "uffd"]
    assert [row.label for row in change.faster] == ["uffd,readers=4"]
    assert len(change.rates) == 4


def test_one_round_on_a_side_shows_no_change_however_large() -> None:
    one = sweep((4,), ("uffd",), rounds=1)
    change = change_between(one, sweep((4,), ("uffd",), rounds=9, factor=lambda _: 0.1))
    assert (len(change.rates), change.slower, change.faster) == (1, (), ())


def test_a_pager_that_failed_after_has_medians_before_and_no_ratio() -> None:
    before = sweep((4,), ("uffd",), rounds=2)
    failed = trial("uffd", 4, 3, random.Random(1), status="failed")
    after = replace(before, trials=(*before.trials, failed))
    (row,) = change_between(before, after).rows
    assert row.before["pages_per_s"] > 0
    assert (row.after, row.ratios, row.rate) == ({}, {}, None)
    assert change_of("pages_per_s", "uffd", before, after) is None
