"""Charts of what lies within one point: arithmetic that a reader can do by hand."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from kvmpc.result.records import TrialResult
from kvmpc.show.page.panels import panels_of
from kvmpc.show.page.point_charts import spread_of, survival
from tests.fakes.sweeps import complete, sweep, trial
from tests.show.page.charts import by_label, chart_of


def test_survival_falls_from_all_touches_to_the_last_one() -> None:
    dots = survival([(1000.0, 6), (2000.0, 3), (8000.0, 1)])
    assert {dot.x: dot.y for dot in dots} == pytest.approx({1000: 0.4, 2000: 0.1, 8000: 0.1})


def test_survival_of_one_bucket_still_is_a_line() -> None:
    dots = survival([(1600.0, 5)])
    assert {dot.x: dot.y for dot in dots} == pytest.approx({1500: 1.0, 1600: 0.2})


def test_the_distribution_is_in_ns_by_the_guests_clock_over_all_measured_rounds() -> None:
    made = trial("uffd", 1, 1, random.Random(1), histogram_cycles=((0, 999, 1), (1000, 1999, 3)),
                 guest_tsc_khz=1_000_000.0)  # fmt: skip
    result = sweep((1,), ("uffd",), trials=(made, replace(made, round=2)))
    chart = chart_of(result, "latency")
    assert by_label(chart)["uffd"] == pytest.approx({1000: 0.75, 2000: 1 / 8})
    assert chart.table.rows[0] == ("uffd", "1 us", "2 us", "2 us", "2 us", "2 us", "2 us", "8")


def test_with_overlap_there_is_no_distribution_and_the_page_says_why() -> None:
    result = sweep((1,), ("uffd",), rounds=1)
    result = replace(result, options={**result.options, "overlap": True})
    assert "overlap" in chart_of(result, "latency").absent


def test_fairness_is_each_vcpus_time_over_its_trials_median_and_that_over_trials() -> None:
    made = [
        trial("uffd", 3, number, random.Random(1), per_vcpu={
            "start_ns": (100, 100, 100), "end_ns": (200, 300, last)})
        for number, last in enumerate((500, 700, 2100), start=1)
    ]  # fmt: skip
    result = sweep((3,), ("uffd",), trials=tuple(made))
    (panel,) = panels_of(result)
    assert spread_of(panel.points[0], "uffd") == (0.5, 0.5, 1, 3, 3)
    table = chart_of(result, "fairness").table
    assert table.headers == ("pager", "fastest", "p10", "median", "p90", "slowest")
    assert table.rows == (("uffd", "0.50", "0.50", "1.00", "3.00", "3.00"),)


def test_one_vcpu_alone_is_neither_fair_nor_unfair() -> None:
    assert "two vCPUs" in chart_of(sweep((1,), ("uffd",), rounds=1), "fairness").absent


SAMPLED = {"ns": (1000, 2000, 9000), "touches": (5, 20, 99), "installs": (5, 10, 10)}


@pytest.fixture
def sampled() -> TrialResult:
    ends = {"end_ns": (1000, 3000)}
    return trial("uffd", 2, 1, random.Random(1), elapsed_ns=3000, per_vcpu=ends, timeline=SAMPLED)


def test_guest_speed_is_touches_between_samples_up_to_the_last_page(sampled: TrialResult) -> None:
    chart = chart_of(sweep((2,), ("uffd",), trials=(sampled,)), "timeline")
    assert by_label(chart)["uffd"] == pytest.approx({1000: 5e6, 2000: 15e6})


def test_with_further_passes_it_is_a_share_of_full_speed_where_who_is_done_counts_as_full(
    sampled: TrialResult,
) -> None:
    made = replace(sampled, metrics={"full_speed_touches_per_s": 5e7, "to_half_speed_ns": 1000.0})
    chart = chart_of(sweep((2,), ("uffd",), trials=(made,)), "timeline")
    assert by_label(chart)["uffd"] == pytest.approx({1000: 0.1, 2000: 0.3 + 0.5, 3000: 1})
    assert chart.table.rows[0] == ("uffd", "3 us", "1 us", "-", "50,000,000")


def test_the_latency_split_shows_the_parts_that_a_pager_has() -> None:
    result = complete(sweep((2,), ("none", "uffd"), rounds=3))
    chart = chart_of(result, "split")
    assert [line.label for line in chart.lines] == ["noticed", "fetch", "install", "back"]
    assert [row[0] for row in chart.table.rows] == ["uffd"]
