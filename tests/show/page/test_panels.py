"""From results to what charts show: arithmetic that a reader can do by hand."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from kvmpc.judge.rows import usable_trials
from kvmpc.result.records import Point, Result, TrialResult
from kvmpc.show.page.counters import counters
from kvmpc.show.page.panels import Chart, metric, panels_of, shown_pagers
from kvmpc.show.page.point_charts import spreads_of, survival
from kvmpc.show.page.published import SHAPES, shape_chart
from kvmpc.show.page.rate_charts import charts_of, readers_families, spaced
from tests.fakes.sweeps import complete, sweep, trial


def _chart(result: Result, key: str, panel: int = 0) -> Chart:
    return next(chart for chart in charts_of(panels_of(result)[panel]) if chart.key == key)


def _by_label(chart: Chart) -> dict[str, dict[float, float]]:
    return {line.label: {dot.x: dot.y for dot in line.dots} for line in chart.lines}


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


def test_a_sweep_over_vcpus_is_one_panel_with_points_in_order_of_vcpus() -> None:
    (panel,) = panels_of(sweep((8, 1, 2), rounds=1))
    assert panel.axis is not None
    assert panel.axis.option == "vcpus"
    assert panel.xs == (1, 2, 8)
    assert [point.options["vcpus"] for point in panel.points] == [1, 2, 8]


def test_other_options_that_vary_set_panels_apart() -> None:
    result = sweep((1, 2), rounds=1, more={"fetch_delay_ns": [0, 200_000], "order": ["a", "b"]})
    found = [(panel.title, panel.xs) for panel in panels_of(result)]
    assert found == [
        ("fetch_delay=0ns order=a", (1, 2)),
        ("fetch_delay=200us order=a", (1, 2)),
        ("fetch_delay=0ns order=b", (1, 2)),
        ("fetch_delay=200us order=b", (1, 2)),
    ]


def test_an_option_that_changes_with_the_axis_sets_nothing_apart() -> None:
    result = sweep((1, 2, 64), rounds=1)
    points = tuple(
        Point(
            options={**point.options, "mem_per_vcpu_bytes": 1 << (16 if index == 2 else 20)},
            pagers=point.pagers,
        )
        for index, point in enumerate(result.points)
    )
    (panel,) = panels_of(replace(result, points=points))
    assert panel.xs == (1, 2, 64)
    assert panel.follows == ("mem_per_vcpu_bytes",)


def test_without_vcpus_another_number_that_varies_is_the_axis_and_a_zero_makes_it_linear() -> None:
    (panel,) = panels_of(sweep((4,), rounds=1, more={"fetch_delay_ns": [0, 30_000, 200_000]}))
    assert panel.axis is not None
    assert panel.axis.option == "fetch_delay_ns"
    assert not panel.axis.log
    assert (
        _chart(sweep((4,), rounds=1, more={"fetch_delay_ns": [0, 30_000]}), "rate").x_log is False
    )


def test_a_single_point_has_rows_instead_of_lines() -> None:
    (panel,) = panels_of(sweep((2,), rounds=1))
    assert panel.axis is None
    kinds = {chart.key: chart.kind for chart in charts_of(panel)}
    assert kinds["rate"] == "rows"
    assert kinds["latency"] == "curves"


def test_rates_ratios_and_shares_are_what_the_trials_say() -> None:
    result = _flat({
        ("none", 1): 1000, ("uffd", 1): 100, ("exit", 1): 200,
        ("none", 8): 8000, ("uffd", 8): 50, ("exit", 8): 400,
    })  # fmt: skip
    assert _by_label(_chart(result, "rate"))["exit(sigbus)"] == pytest.approx({1: 200, 8: 400})
    assert _by_label(_chart(result, "ratio"))["exit(sigbus)"] == pytest.approx({1: 2, 8: 8})
    assert _by_label(_chart(result, "share"))["uffd"] == pytest.approx({1: 0.1, 8: 0.00625})


def test_a_pager_with_a_failed_trial_is_in_no_chart_of_that_point_also_if_others_were_sound() -> (
    None
):
    result = sweep((1, 2), ("uffd", "exit"), rounds=2)
    chance = random.Random(3)
    failed = trial("exit", 2, 3, chance, point=1, status="failed")
    result = replace(result, trials=(*result.trials, failed))
    rates = _by_label(_chart(result, "rate"))
    assert list(rates["exit(sigbus)"]) == [1]
    assert list(rates["uffd"]) == [1, 2]


def test_warm_up_and_profiled_rounds_are_in_no_rate() -> None:
    chance = random.Random(3)
    result = sweep((1, 2), ("uffd",), rounds=2)
    odd = [trial("uffd", 1, n, chance, rate=9e9) for n in (0, -1)]
    result = replace(result, trials=(*result.trials, *odd))
    assert max(_by_label(_chart(result, "rate"))["uffd"].values()) < 1e9
    (panel,) = panels_of(result)
    assert {trial.round for trial in usable_trials(panel.points[0], "uffd")} == {1, 2}


def test_cpu_use_is_cpu_time_of_both_kinds_of_thread_by_the_time_that_passed() -> None:
    made = trial("uffd", 2, 1, random.Random(1), metrics={"cpu_vcpus_s": 3.0, "cpu_readers_s": 1.0},
                 elapsed_ns=2_000_000_000)  # fmt: skip
    assert metric(made, "cpus_busy") == 2.0
    assert metric(replace(made, metrics={}), "cpus_busy") is None


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
    assert set(_by_label(_chart(result, "readers-rate"))) == {
        "uffd at 1 vCPU",
        "uffd at 2 vCPUs",
    }
    assert list(_by_label(_chart(result, "readers-rate"))["uffd at 1 vCPU"]) == [1, 4]
    assert set(_by_label(_chart(result, "rate"))) == {"uffd", "exit(sigbus)"}


def test_of_many_points_a_few_are_kept_evenly_the_ends_among_them() -> None:
    assert spaced(range(9), 3) == [0, 4, 8]
    assert spaced(range(2), 6) == [0, 1]
    assert spaced(range(9), 1) == [8]


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
    chart = _chart(result, "latency")
    assert _by_label(chart)["uffd"] == pytest.approx({1000: 0.75, 2000: 1 / 8})
    assert chart.table[1] == ("uffd", "1 us", "2 us", "2 us", "2 us", "2 us", "2 us", "8")


def test_with_overlap_there_is_no_distribution_and_the_page_says_why() -> None:
    result = sweep((1,), ("uffd",), rounds=1)
    result = replace(result, options={**result.options, "overlap": True})
    assert "overlap" in _chart(result, "latency").absent


def test_fairness_is_each_vcpus_time_over_its_trials_median() -> None:
    made = trial("uffd", 3, 1, random.Random(1), per_vcpu={
        "start_ns": (100, 100, 100), "end_ns": (200, 300, 500)})  # fmt: skip
    result = sweep((3,), ("uffd",), trials=(made, replace(made, round=2)))
    (panel,) = panels_of(result)
    assert spreads_of(panel.points[0], "uffd") == ([0.5, 0.5, 1, 1, 2, 2], 4)


def test_one_vcpu_alone_is_neither_fair_nor_unfair() -> None:
    assert "two vCPUs" in _chart(sweep((1,), ("uffd",), rounds=1), "fairness").absent


def test_what_a_result_lacks_gives_no_chart_but_a_sentence_that_says_what_would_give_it() -> None:
    result = sweep((1, 2), ("uffd", "exit"), rounds=1)
    absent = {chart.key: chart.absent for chart in charts_of(panels_of(result)[0]) if chart.absent}
    assert "--profile" in absent["spin"]
    assert "--profile" in absent["locks"]
    assert "pager none" in absent["share"]
    assert "--passes" in absent["timeline"]
    assert "split" in absent


def test_a_profile_gives_the_share_of_spin_locks_and_whose_they_are_but_no_rate() -> None:
    plain = sweep((1, 10), ("none", "uffd"), rounds=2)
    result = complete(plain)
    assert _by_label(_chart(result, "spin"))["uffd"] == pytest.approx({1: 0, 10: 0.81})
    spin = next(line for line in _chart(result, "spin").lines if line.label == "uffd")
    assert [dot.high - dot.low for dot in spin.dots] == pytest.approx([0.06, 0.06])
    stack = _by_label(_chart(result, "locks"))
    assert stack["uffd queues"][1] == pytest.approx(0.81 * 0.7)
    assert stack["held or waited for, interrupts off"][1] == pytest.approx(0.06)
    assert _chart(result, "rate").lines == _chart(plain, "rate").lines


def test_counters_are_by_page_and_what_hardly_happens_is_left_out() -> None:
    (panel,) = panels_of(complete(sweep((8,), ("uffd", "exit"), rounds=2)))
    headers, rows = counters(panel, shown_pagers(panel))
    assert headers == ("counter", "uffd", "exit(sigbus)")
    assert rows == [("exits", "2", "2"), ("pf_fixed", "1", "1")]


SAMPLED = {"ns": (1000, 2000, 9000), "touches": (5, 20, 99), "installs": (5, 10, 10)}


@pytest.fixture
def sampled() -> TrialResult:
    ends = {"end_ns": (1000, 3000)}
    return trial("uffd", 2, 1, random.Random(1), elapsed_ns=3000, per_vcpu=ends, timeline=SAMPLED)


def test_guest_speed_is_touches_between_samples_up_to_the_last_page(sampled: TrialResult) -> None:
    chart = _chart(sweep((2,), ("uffd",), trials=(sampled,)), "timeline")
    assert _by_label(chart)["uffd"] == pytest.approx({1000: 5e6, 2000: 15e6})


def test_with_further_passes_it_is_a_share_of_full_speed_where_who_is_done_counts_as_full(
    sampled: TrialResult,
) -> None:
    made = replace(sampled, metrics={"full_speed_touches_per_s": 5e7, "to_half_speed_ns": 1000.0})
    chart = _chart(sweep((2,), ("uffd",), trials=(made,)), "timeline")
    assert _by_label(chart)["uffd"] == pytest.approx({1000: 0.1, 2000: 0.3 + 0.5, 3000: 1})
    assert chart.table[1] == ("uffd", "3 us", "1 us", "-", "50,000,000")


def test_a_single_point_with_readers_shows_beside_them_what_needs_none() -> None:
    result = sweep((4,), ("uffd", "uffd,readers=4", "none", "exit"), rounds=1)
    found = _by_label(_chart(result, "readers-rate"))
    assert list(found) == ["uffd", "exit(sigbus), no readers"]
    assert list(found["exit(sigbus), no readers"]) == [1, 4]


def test_the_latency_split_shows_the_parts_that_a_pager_has() -> None:
    result = complete(sweep((2,), ("none", "uffd"), rounds=3))
    chart = _chart(result, "split")
    assert [line.label for line in chart.lines] == ["noticed", "fetch", "install", "back"]
    assert [row[0] for row in chart.table[1:]] == ["uffd"]


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_divided_by_its_own_first_point_and_names_its_source(name: str) -> None:
    (panel,) = panels_of(sweep((1, 2, 4), ("uffd",), rounds=1))
    chart = shape_chart(panel, name)
    assert all(line.dots[0].y == 1 for line in chart.lines)
    assert sum(line.published for line in chart.lines) == len(SHAPES[name].curves)
    assert SHAPES[name].source in chart.note


def test_published_rates_of_one_vcpu_become_those_of_all() -> None:
    (panel,) = panels_of(sweep((1, 2, 4), ("uffd",), rounds=1))
    curves = _by_label(shape_chart(panel, "moorthy-2023"))
    assert curves["moorthy-2023: exit"][256] == pytest.approx(16 * 256 / 307)


def test_a_shape_takes_a_sweep_over_vcpus() -> None:
    (panel,) = panels_of(sweep((4,), ("uffd",), rounds=1))
    assert "sweep over vCPUs" in shape_chart(panel, "moorthy-v7").absent
