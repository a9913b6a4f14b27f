"""Charts of one number a pager: arithmetic that a reader can do by hand."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from kvmpc.result.records import Result
from kvmpc.show.page.chart import CurvesChart, RowsChart
from kvmpc.show.page.panels import panels_of
from kvmpc.show.page.rate_charts import charts_of, readers_families, spaced
from tests.fakes.sweeps import sweep, trial
from tests.show.page.charts import by_label, chart_of


def _flat(rates: dict[tuple[str, int], float], vcpus: tuple[int, ...] = (1, 8)) -> Result:
    """Return one round without noise; rates by pager and vCPUs."""
    chance = random.Random()
    chance.gauss = lambda mu=0.0, sigma=1.0: mu * sigma * 0  # type: ignore[method-assign,assignment]
    specs = list(dict.fromkeys(spec for spec, _ in rates))
    return sweep(
        vcpus,
        specs,
        rounds=1,
        trials=tuple(
            trial(spec, n, 1, chance, point=vcpus.index(n), rate=rate)
            for (spec, n), rate in rates.items()
        ),
    )


def test_a_single_point_has_rows_instead_of_lines() -> None:
    (panel,) = panels_of(sweep((2,), rounds=1))
    assert panel.axis is None
    forms = {chart.key: type(chart) for chart in charts_of(panel)}
    assert forms["rate"] is RowsChart
    assert forms["latency"] is CurvesChart


def test_rates_ratios_and_shares_are_what_the_trials_say() -> None:
    result = _flat({
        ("none", 1): 1000, ("uffd", 1): 100, ("exit", 1): 200,
        ("none", 8): 8000, ("uffd", 8): 50, ("exit", 8): 400,
    })  # fmt: skip
    assert by_label(chart_of(result, "rate"))["exit(sigbus)"] == pytest.approx({1: 200, 8: 400})
    assert by_label(chart_of(result, "ratio"))["exit(sigbus)"] == pytest.approx({1: 2, 8: 8})
    assert by_label(chart_of(result, "share"))["uffd"] == pytest.approx({1: 0.1, 8: 0.00625})


def test_a_pager_with_a_failed_trial_is_in_no_chart_of_that_point_also_if_others_were_sound() -> (
    None
):
    result = sweep((1, 2), ("uffd", "exit"), rounds=2)
    chance = random.Random(3)
    failed = trial("exit", 2, 3, chance, point=1, status="failed")
    result = replace(result, trials=(*result.trials, failed))
    rates = by_label(chart_of(result, "rate"))
    assert list(rates["exit(sigbus)"]) == [1]
    assert list(rates["uffd"]) == [1, 2]


def test_pagers_that_differ_in_readers_only_are_a_family() -> None:
    labels = {
        "uffd": "uffd", "uffd,readers=16": "uffd,readers=16", "uffd,readers=4": "uffd,readers=4",
        "uffd,uffds=per-vcpu": "uffd,uffds=per-vcpu", "exit": "exit(sigbus)",
        "uffd,readers=2,fetch=blocking": "uffd,readers=2,fetch=blocking",
    }  # fmt: skip
    assert readers_families(labels) == {
        "uffd": {1: "uffd", 4: "uffd,readers=4", 16: "uffd,readers=16"}
    }


def test_against_readers_there_is_a_line_for_each_point_and_against_vcpus_the_fewest_only() -> None:
    result = sweep((1, 2), ("uffd", "uffd,readers=4", "exit"), rounds=1)
    assert set(by_label(chart_of(result, "readers-rate"))) == {
        "uffd at 1 vCPU",
        "uffd at 2 vCPUs",
    }
    assert list(by_label(chart_of(result, "readers-rate"))["uffd at 1 vCPU"]) == [1, 4]
    assert set(by_label(chart_of(result, "rate"))) == {"uffd", "exit(sigbus)"}


def test_whoever_leads_somewhere_is_in_the_first_chart_however_many_readers_it_has() -> None:
    rates = {
        (f"uffd,readers={r}" if r > 1 else "uffd", n): 100.0 + (r == 16 and n == 8)
        for r in (1, 4, 16) for n in (1, 8)
    }  # fmt: skip
    chart = chart_of(_flat(rates), "rate")
    assert set(by_label(chart)) == {"uffd", "uffd,readers=16"}
    assert "uffd,readers=16" in {row[0] for row in chart.table.rows}
    assert "whoever leads" in chart.note


def test_of_many_points_a_few_are_kept_evenly_the_ends_among_them() -> None:
    assert spaced(range(9), 3) == [0, 4, 8]
    assert spaced(range(2), 6) == [0, 1]
    assert spaced(range(9), 1) == [8]


def test_what_a_result_lacks_gives_no_chart_but_a_sentence_that_says_what_would_give_it() -> None:
    result = sweep((1, 2), ("uffd", "exit"), rounds=1)
    absent = {
        chart.key: chart.absent for chart in charts_of(panels_of(result)[0]) if not chart.lines
    }
    assert "--profile" in absent["spin"]
    assert "--profile" in absent["locks"]
    assert "pager none" in absent["share"]
    assert "--passes" in absent["timeline"]
    assert "split" in absent


def test_a_single_point_with_readers_shows_beside_them_what_needs_none() -> None:
    result = sweep((4,), ("uffd", "uffd,readers=4", "none", "exit"), rounds=1)
    found = by_label(chart_of(result, "readers-rate"))
    assert list(found) == ["uffd", "exit(sigbus), no readers"]
    assert list(found["exit(sigbus), no readers"]) == [1, 4]
