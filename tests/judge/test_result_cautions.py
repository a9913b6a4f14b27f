"""What a finished result says against itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kvmpc.judge.result_cautions import variation
from kvmpc.judge.told import Told, tell
from kvmpc.result.records import Point

Make = Callable[..., Any]


def cautions_of_result(result: Any) -> list[Told]:
    return tell([result])


def _codes(result: Any) -> list[str]:
    return [caution.code for caution in cautions_of_result(result)]


def test_a_steady_run_of_three_rounds_has_no_caution(make_result: Make, make_trial: Make) -> None:
    trials = [make_trial("uffd", number, 1000.0 + number) for number in range(4)]
    assert _codes(make_result(*trials)) == []


@pytest.mark.parametrize(("rounds", "told"), [(1, "a single round"), (2, "2 rounds")])
def test_too_few_rounds_are_said_with_a_remedy(
    make_result: Make, make_trial: Make, rounds: int, told: str
) -> None:
    (caution,) = cautions_of_result(
        make_result(*(make_trial("uffd", n + 1) for n in range(rounds)))
    )
    assert caution.code == "few-rounds"
    assert caution.text.startswith(told)
    assert "--rounds 6" in caution.caution.remedy


def test_a_run_that_is_not_finished_is_not_told_to_have_few_rounds(
    make_result: Make, make_trial: Make
) -> None:
    assert _codes(make_result(make_trial("uffd"), finished=False)) == []
    assert _codes(make_result()) == []


def test_an_unsteady_row_is_named(make_result: Make, make_trial: Make) -> None:
    rates = {"uffd": (100.0, 101.0, 99.0), "exit": (100.0, 150.0, 80.0)}
    result = make_result(
        *(make_trial(name, at + 1, rates[name][at]) for at in range(3) for name in rates)
    )
    (caution,) = cautions_of_result(result)
    assert caution.code == "unsteady"
    assert caution.text.startswith("exit(sigbus): the rate varies by 33%")


def test_rows_with_the_same_caution_are_named_as_one_the_worst(
    make_result: Make, make_trial: Make
) -> None:
    trials = [
        make_trial(name, n, 100.0 + by * n) for n in (1, 2, 3) for name, by in (("uffd", 30.0),
                                                                              ("exit", 60.0))
    ]  # fmt: skip
    (caution,) = cautions_of_result(make_result(*trials))
    assert caution.text.startswith("exit(sigbus): the rate varies")
    assert caution.text.endswith("(the worst; so or similar in 2 rows)")


def test_warm_ups_profiled_and_failed_rounds_are_no_spread(
    make_result: Make, make_trial: Make
) -> None:
    trials = [make_trial("uffd", n, rate) for n, rate in ((0, 1.0), (-1, 5.0), (1, 100.0),
                                                         (2, 100.0), (3, 100.0))]  # fmt: skip
    assert _codes(make_result(*trials, make_trial("uffd", 4, status="failed"))) == []


def test_a_row_of_a_sweep_is_named_with_its_point(make_result: Make, make_trial: Make) -> None:
    trials = [
        make_trial("uffd", number, 100.0 * number if point else 100.0, point=point)
        for point in (0, 1)
        for number in (1, 2, 3)
    ]
    points = tuple(Point(options={"vcpus": n}, pagers=("uffd",)) for n in (1, 2))
    (caution,) = cautions_of_result(make_result(*trials, points=points))
    assert caution.text.startswith("vcpus=2: uffd: the rate varies")


def test_a_rate_that_drifts_is_said(make_result: Make, make_trial: Make) -> None:
    steps = [make_trial("uffd", n, 100.0 + n % 3 + (7 if n > 6 else 0)) for n in range(1, 13)]
    (caution,) = cautions_of_result(make_result(*steps))
    assert caution.code == "drift"
    assert "second half of the rounds is +7%" in caution.text
    alternating = [make_trial("uffd", n, 100.0 + 7 * (n % 2)) for n in range(1, 13)]
    assert _codes(make_result(*alternating)) == []


DURING = {"elapsed_s": 10.0, "cpus_count": 4, "own_cpu_s": 20.0, "other_cpu_s": 1.0}


@pytest.mark.parametrize(
    ("during", "codes"),
    [
        ({}, []),
        (DURING, []),
        ({**DURING, "other_cpu_s": 8.0}, ["other-load"]),
        ({**DURING, "steal_cpu_s": 2.0}, ["stolen-time"]),
        ({**DURING, "throttled_count": 0}, []),
        ({**DURING, "throttled_count": 3}, ["frequency-moved"]),
        ({**DURING, "max_khz": [3_000_000, 2_000_000]}, ["frequency-limit-moved"]),
        ({**DURING, "cpus": ["0-3", "0-1"]}, ["cpus-changed"]),
        ({**DURING, "cpus": ["0", "1"] * 9}, ["cpus-changed"]),
        ({**DURING, "cpus": "0-3"}, []),
        ({**DURING, "reclaim": {"pgscan_direct": 5, "pgsteal_direct": 5}}, ["memory-reclaim"]),
        ({**DURING, "reclaim": {"cgroup_max": 1}}, ["memory-reclaim"]),
        ({**DURING, "reclaim": {"pgscan_kswapd": 10_000, "pgsteal_kswapd": 10_000}}, []),
        ({**DURING, "reclaim": {"pgscan_kswapd": 10_001}}, ["memory-reclaim"]),
        ({**DURING, "reclaim": {"pgscan_direct": "many", "allocstall": None}}, []),
        ({**DURING, "reclaim": [1]}, []),
        ({"elapsed_s": "long", "cpus_count": None, "other_cpu_s": True, "max_khz": 1}, []),
        ({**DURING, "elapsed_s": 0.0, "other_cpu_s": 8.0}, []),
    ],
)
def test_what_the_host_did_meanwhile_is_said(
    make_result: Make, make_trial: Make, during: Any, codes: list[str]
) -> None:
    result = make_result(*(make_trial("uffd", n) for n in (1, 2, 3)), during=during)
    assert _codes(result) == codes


def test_variation_is_deviation_over_mean() -> None:
    assert variation([90.0, 110.0]) == pytest.approx(0.1414, abs=1e-4)
    assert variation([5.0]) is None
    assert variation([0.0, 0.0]) is None


def test_a_row_with_a_failed_trial_has_no_rates_to_caution_about(
    make_result: Make, make_trial: Make
) -> None:
    rates = (100.0, 150.0, 80.0)
    trials = [make_trial("uffd", at + 1, rate) for at, rate in enumerate(rates)]
    assert _codes(make_result(*trials)) == ["unsteady"]
    assert _codes(make_result(*trials, make_trial("uffd", 4, status="failed"))) == []
