"""A result taken apart: which points make a panel, and what a number of them is."""

from __future__ import annotations

import random
from dataclasses import replace

from kvmpc.judge.rows import usable_trials
from kvmpc.result.records import Point
from kvmpc.show.page.panels import metric, panels_of
from tests.fakes.sweeps import sweep, trial
from tests.show.page.charts import by_label, chart_of


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


def test_warm_up_and_profiled_rounds_are_in_no_rate() -> None:
    chance = random.Random(3)
    result = sweep((1, 2), ("uffd",), rounds=2)
    odd = [trial("uffd", 1, n, chance, rate=9e9) for n in (0, -1)]
    result = replace(result, trials=(*result.trials, *odd))
    assert max(by_label(chart_of(result, "rate"))["uffd"].values()) < 1e9
    (panel,) = panels_of(result)
    assert {trial.round for trial in usable_trials(panel.points[0], "uffd")} == {1, 2}


def test_cpu_use_is_cpu_time_of_both_kinds_of_thread_by_the_time_that_passed() -> None:
    made = trial("uffd", 2, 1, random.Random(1), metrics={"cpu_vcpus_s": 3.0, "cpu_readers_s": 1.0},
                 elapsed_ns=2_000_000_000)  # fmt: skip
    assert metric(made, "cpus_busy") == 2.0
    assert metric(replace(made, metrics={}), "cpus_busy") is None
