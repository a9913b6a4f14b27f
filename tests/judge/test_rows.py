"""Which trials count, paired ratios and rows, on numbers one can do in the head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kvmpc.judge.rows import (
    Row,
    compare_rows,
    measured_trials,
    paired_ratios,
    ratio_base,
    share_base,
)
from kvmpc.judge.summary import summarise

Make = Callable[..., Any]


def _rows(result: Any) -> dict[str, Row]:
    return {row.spec: row for row in compare_rows(result)}


def test_warm_ups_and_failures_do_not_count(make_result: Make, make_trial: Make) -> None:
    kept = make_trial("uffd", 2)
    warm_up, failed = make_trial("uffd", 0), make_trial("uffd", 1, status="failed")
    assert measured_trials(make_result(warm_up, failed, kept), "uffd") == [kept]


def test_ratios_are_taken_inside_a_round_whatever_the_order(
    make_result: Make, make_trial: Make
) -> None:
    result = make_result(
        make_trial("uffd", 1, 100.0),
        make_trial("exit", 1, 150.0),
        make_trial("exit", 2, 400.0),
        make_trial("uffd", 2, 200.0),
    )
    assert paired_ratios(result, "exit", "uffd", "pages_per_s") == [1.5, 2.0]


def test_a_round_that_lacks_either_side_gives_no_ratio(make_result: Make, make_trial: Make) -> None:
    result = make_result(
        make_trial("uffd", 0, 100.0),
        make_trial("exit", 0, 900.0),
        make_trial("uffd", 1, 100.0),
        make_trial("exit", 2, 900.0),
        make_trial("uffd", 3, 0.0),
        make_trial("exit", 3, 900.0),
        make_trial("uffd", 4, metrics={}),
        make_trial("exit", 4, 900.0),
        make_trial("uffd", 5, 100.0),
        make_trial("exit", 5, status="failed"),
    )
    assert paired_ratios(result, "exit", "uffd", "pages_per_s") == []


def test_the_baseline_is_the_first_pager_given_that_fetches(
    make_result: Make, make_trial: Make
) -> None:
    trials = [make_trial(name) for name in ("exit", "uffd", "none")]
    result = make_result(*trials, pagers=("none", "uffd", "exit"))
    assert ratio_base(result) == "uffd"
    assert share_base(result) == "none"
    assert ratio_base(make_result(trials[2])) is None


def test_a_row_has_medians_ratio_and_share(make_result: Make, make_trial: Make) -> None:
    rates = {"none": (4000.0, 4000.0, 4000.0), "uffd": (1000.0, 2000.0, 3000.0)}
    rates["exit"] = (1500.0, 2000.0, 6000.0)
    result = make_result(
        *(make_trial(name, at + 1, rates[name][at]) for at in range(3) for name in rates)
    )
    rows = _rows(result)
    assert list(rows) == ["none", "uffd", "exit"]
    assert rows["exit"].label == "exit(sigbus)"
    assert rows["exit"].pages_per_s == 2000
    assert rows["exit"].mib_per_s == 2000 / 256
    assert rows["exit"].ratio == summarise([1.0, 1.5, 2.0])
    assert rows["exit"].share_of_none == 0.5
    assert rows["exit"].cpu_s_per_gib == 2.5
    assert rows["exit"].fault_p99_ns == 999_900
    assert rows["uffd"].ratio == summarise([1.0, 1.0, 1.0])
    assert rows["none"].share_of_none == 1
    assert rows["exit"].verified == "yes"
    assert (rows["exit"].ok_trials, rows["exit"].failed_trials) == (3, 0)


def _numbers(row: Row) -> set[object]:
    return {
        row.pages_per_s, row.mib_per_s, row.ratio, row.share_of_none, row.fault_p50_ns,
        row.fault_p99_ns, row.cpu_s_per_gib, row.verified,
    }  # fmt: skip


@pytest.mark.parametrize("failed_round", [0, 2])
def test_a_row_with_any_failed_trial_has_no_number(
    make_result: Make, make_trial: Make, failed_round: int
) -> None:
    trials = [
        make_trial("uffd", number, status="failed" if number == failed_round else "ok")
        for number in range(4)
    ]
    row = _rows(make_result(*trials, make_trial("exit")))["uffd"]
    assert row.failed
    assert _numbers(row) == {None}
    assert row.failed_trials == 1
    assert row.errors == ("vcpu1: page 22 holds the wrong tag",)


def test_rows_stand_without_a_failed_baseline(make_result: Make, make_trial: Make) -> None:
    result = make_result(
        make_trial("none", 1, 2000.0),
        make_trial("uffd", 1),
        make_trial("uffd", 2, status="failed"),
        make_trial("exit", 1),
    )
    row = _rows(result)["exit"]
    assert row.ratio is None
    assert row.share_of_none == 0.5
    assert row.pages_per_s == 1000


def test_a_pager_without_a_trial_has_an_empty_row(make_result: Make, make_trial: Make) -> None:
    result = make_result(make_trial("uffd", 0), pagers=("uffd", "exit"), finished=False)
    for row in compare_rows(result):
        assert not row.failed
        assert _numbers(row) == {None}


def test_a_pager_given_twice_has_one_row(make_result: Make, make_trial: Make) -> None:
    assert len(compare_rows(make_result(make_trial("uffd"), pagers=("uffd", "uffd")))) == 1


def test_overlapping_touches_give_no_fault_times(make_result: Make, make_trial: Make) -> None:
    row = _rows(make_result(make_trial("uffd"), options={"overlap": True}))["uffd"]
    assert row.fault_p50_ns is None
    assert row.fault_p99_ns is None
    assert row.pages_per_s == 1000


def test_a_row_is_verified_only_as_far_as_each_of_its_trials(
    make_result: Make, make_trial: Make
) -> None:
    result = make_result(make_trial("uffd", 1), make_trial("uffd", 2, verified=None))
    assert _rows(result)["uffd"].verified is None


@pytest.mark.parametrize("rounds", [3, 6, 20])
def test_a_fault_time_is_known_no_better_than_its_bucket(
    make_result: Make, make_trial: Make, rounds: int
) -> None:
    """All rounds fell into one bucket, of 31.6 to 33.0 us: its middle is no exact value."""
    metrics = {"pages_per_s": 1000.0, "fault_p50_ns": 32_340.0, "fault_p99_ns": 64_680.0}
    trials = [make_trial("uffd", number + 1, metrics=metrics) for number in range(rounds)]
    row = _rows(make_result(*trials))["uffd"]
    assert row.fault_p50 is not None
    assert row.fault_p99 is not None
    assert row.fault_p50_ns == 32_340
    assert row.fault_p50.low < 31_600 < 33_000 < row.fault_p50.high
    assert (row.fault_p99.low, row.fault_p99.high) == (
        pytest.approx(64_680 / (1 + 1 / 32)), pytest.approx(64_680 * (1 + 1 / 32)),
    )  # fmt: skip
    assert row.rate is not None
    assert row.rate.low == row.rate.high == 1000


@pytest.mark.parametrize(
    ("verified", "outcome"),
    [
        *((word, word) for word in ("yes", "whole", "zeros")),
        *((word, "no") for word in (None, "presence only", "FAILED", "no")),
    ],
)
def test_what_became_of_a_row_is_how_far_it_was_verified_if_at_all(
    make_result: Make, make_trial: Make, verified: str | None, outcome: str
) -> None:
    assert _rows(make_result(make_trial("uffd", verified=verified)))["uffd"].outcome == outcome
