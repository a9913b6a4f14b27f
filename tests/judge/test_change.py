"""Two results of one host: which rows are compared, what their ratios are, which changed."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from kvmpc.judge.answer import FALSE_HEADLINES
from kvmpc.judge.change import Change, change_between, change_of, host_differences
from kvmpc.judge.intervals import CONFIDENCE
from kvmpc.judge.summary import Summary
from kvmpc.result.metrics import FAULT_P99, RATE
from kvmpc.result.records import Point, Result, Turns
from tests.fakes.results import fake_result, fake_trial
from tests.fakes.sweeps import DOUBLED, USUAL, sweep, trial


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


def _ratio(before: Sequence[float], after: Sequence[float]) -> Summary | None:
    """Return the rate after over that before, of results with these rates."""
    one, two = (
        fake_result(*(
            fake_trial("uffd", number, metrics={RATE.key: rate})
            for number, rate in enumerate(rates, 1)
        ))
        for rates in (before, after)
    )  # fmt: skip
    return change_of(RATE, "uffd", one, two)


def test_a_ratio_is_the_middle_of_all_pairs_and_its_interval_holds_it() -> None:
    found = _ratio([10, 11, 10, 10, 10], [20, 22, 21, 20, 23])
    assert found is not None
    # 25 pairs, of which the 13th is 23/11; the interval leaves out the two lowest and highest.
    assert (found.median, found.n) == (pytest.approx(23 / 11), 5)
    assert (found.low, found.high) == (pytest.approx(21 / 11), pytest.approx(2.3))
    assert (found.spread, found.coverage) == ("interval", pytest.approx(1 - 2 * 4 / 252))


def test_a_ratio_of_too_few_has_a_range_that_is_called_one() -> None:
    found = _ratio([10, 11, 10], [20, 22, 21])
    assert found is not None
    assert (found.spread, found.coverage) == ("range", None)
    assert (found.low, found.high) == (pytest.approx(20 / 11), pytest.approx(2.2))


def test_one_value_has_a_range_and_none_or_none_above_0_has_no_ratio() -> None:
    found = _ratio([10, 11], [20])
    assert found is not None
    assert (found.median, found.n) == (pytest.approx((20 / 10 * 20 / 11) ** 0.5), 1)
    assert found.is_range
    for before, after in (([1.0], []), ([], [1.0]), ([1.0], [1.0, 0.0]), ([-1.0], [1.0])):
        assert _ratio(before, after) is None


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
    assert (change.can_show, change.needed) == (False, 4)


def test_many_rounds_on_one_side_make_up_for_few_on_the_other() -> None:
    few, many = sweep((4,), ("uffd",), rounds=3), sweep((4,), ("uffd",), rounds=9, seed=2)
    assert change_between(few, many).can_show


def test_many_rows_take_more_rounds() -> None:
    """45 rows of 6 rounds can show nothing: 2/924 of a chance each. 7 rounds can."""
    for rounds, can in ((6, False), (7, True)):
        slow = lambda spec: 0.5 if spec == "exit" else 1.0  # noqa: E731
        one = sweep(DOUBLED, USUAL[:5], rounds=rounds)
        two = sweep(DOUBLED, USUAL[:5], rounds=rounds, seed=2, factor=slow)
        change = change_between(one, two)
        assert (len(change.rates), change.can_show, change.needed) == (45, can, 7)
        assert [row.label for row in change.slower] == ["exit(sigbus)"] * 9 * can


def _comparison(draw: random.Random, rows: int, rounds: int) -> Change:
    """Return that of two runs of one kernel, `rows` pagers and points in each."""
    pagers = USUAL[:5]
    points = tuple(
        Point(options={"vcpus": n + 1}, pagers=pagers) for n in range(rows // len(pagers))
    )
    results = [
        fake_result(*(
            fake_trial(spec, number, metrics={RATE.key: draw.lognormvariate(11, 0.05)}, point=point)
            for number in range(1, rounds + 1)
            for point in range(len(points))
            for spec in pagers
        ), pagers=pagers, points=points if len(points) > 1 else ())
        for _ in range(2)
    ]  # fmt: skip
    return change_between(*results)


@pytest.mark.parametrize(("rows", "times"), [(5, 100), (20, 50), (45, 30)])
@pytest.mark.parametrize("rounds", [6, 7, 10])
def test_two_runs_alike_name_a_row_in_a_twentieth_of_all_comparisons_at_most(
    rows: int, times: int, rounds: int
) -> None:
    draw = random.Random(f"{rows} {rounds}")
    found = [_comparison(draw, rows, rounds) for _ in range(times)]
    assert all(len(change.rates) == rows for change in found)
    named = sum(bool(change.slower or change.faster) for change in found)
    expected = times * FALSE_HEADLINES
    assert named <= expected + 3.5 * math.sqrt(expected)


def test_a_row_that_is_named_has_an_interval_that_leaves_1_out() -> None:
    draw = random.Random(3)
    for _ in range(30):
        change = _comparison(draw, 5, 8)
        for row in change.rows:
            assert row.rate is not None
            assert row.p is not None
            assert (row.p <= 1 - CONFIDENCE) == (not row.rate.low <= 1 <= row.rate.high)


def test_a_pager_that_failed_after_has_medians_before_and_no_ratio() -> None:
    before = sweep((4,), ("uffd",), rounds=2)
    failed = trial("uffd", 4, 3, random.Random(1), status="failed")
    after = replace(before, trials=(*before.trials, failed))
    (row,) = change_between(before, after).rows
    assert row.before["pages_per_s"] > 0
    assert (row.after, row.ratios, row.rate) == ({}, {}, None)
    assert change_of(RATE, "uffd", before, after) is None


def test_a_change_of_a_fault_time_is_known_no_better_than_both_buckets() -> None:
    sides = [
        fake_result(*(
            fake_trial("uffd", number, metrics={FAULT_P99.key: value, RATE.key: value})
            for number in range(1, 9)
        ))
        for value in (1000.0, 2000.0)
    ]  # fmt: skip
    p99, rate = change_of(FAULT_P99, "uffd", *sides), change_of(RATE, "uffd", *sides)
    assert p99 is not None
    assert rate is not None
    assert (p99.low, p99.median, p99.high) == (
        pytest.approx(2 / (33 / 32) ** 2), pytest.approx(2), pytest.approx(2 * (33 / 32) ** 2),
    )  # fmt: skip
    assert (rate.low, rate.high) == (pytest.approx(2), pytest.approx(2))


def _in_turn(pairs: int, slower: float) -> list[Result]:
    """Return two sides of which a pair's rates are near, and those of others far."""
    draw = random.Random(pairs)
    levels = [draw.uniform(0, 3) for _ in range(pairs)]
    order = (False,) * pairs
    return [
        fake_result(
            *(
                fake_trial("uffd", number, 1000 * math.exp(level + draw.gauss(0, 0.01)) / by)
                for number, level in enumerate(levels, 1)
            ),
            turns=Turns(
                id="ab", side=side, command="true", new_first=order,
                last_rounds=tuple(range(1, pairs + 1)),
            ),
        )
        for side, by in (("old", 1.0), ("new", slower))
    ]  # fmt: skip


def test_ratios_of_what_was_measured_in_turn_are_those_of_pairs() -> None:
    before, after = _in_turn(12, 1.25)
    found = change_between(before, after)
    assert found.paired
    (row,) = found.slower
    assert row.rate is not None
    assert row.rate.n == 12
    assert row.rate.median == pytest.approx(0.8, abs=0.01)
    assert 0.75 < row.rate.low < row.rate.median < row.rate.high < 0.85
    assert row.p == 2 / 2**12
    apart = change_between(replace(before, turns=None), after)
    assert not apart.paired
    assert apart.slower == ()


def test_too_few_pairs_show_their_range_and_no_change() -> None:
    found = change_between(*_in_turn(5, 1.25))
    (row,) = found.rows
    assert row.rate is not None
    assert row.rate.is_range
    assert (found.can_show, found.needed, found.slower) == (False, 6, ())


def test_blocks_that_one_side_lacks_are_left_out() -> None:
    before, after = _in_turn(8, 1.0)
    (row,) = change_between(before, replace(after, trials=after.trials[2:])).rows
    assert row.rate is not None
    assert row.rate.n == 6
    assert change_of(RATE, "uffd", before, replace(after, trials=())) is None
