"""The gate on synthetic runs: how often it is wrong, and what it refuses to answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from kvmpc.errors import MismatchError, UsageError
from kvmpc.judge.criteria import JUDGED, Criteria
from kvmpc.judge.matching import pair_cautions
from kvmpc.judge.regression import Check, FailedNow, Status, check
from kvmpc.result.records import Point, Result, Skip

Make = Callable[..., Any]

PAGERS = ("none,host=cold", "uffd", "exit")
RATES = {"none,host=cold": 400_000.0, "uffd": 100_000.0, "exit": 150_000.0}


@pytest.fixture
def make_run(make_trial: Make, make_result: Make) -> Make:
    """Make a run of `rounds` of each pager, with noise on everything, correlated within a trial."""

    def make(
        draw: Random,
        *,
        rounds: int = 10,
        noise: float = 0.03,
        pagers: Sequence[str] = PAGERS,
        slower: dict[str, float] | None = None,
        whole: float = 1.0,
        **changes: object,
    ) -> Result:
        trials = []
        for number in range(1, rounds + 1):
            for pager in pagers:
                speed = draw.lognormvariate(0, noise) / (slower or {}).get(pager, 1.0) / whole
                metrics = {
                    "pages_per_s": RATES[pager] * speed,
                    "fault_p99_ns": 1e5 / speed * draw.lognormvariate(0, noise / 3),
                    "cpu_s_per_gib": 5 / speed * draw.lognormvariate(0, noise / 3),
                }
                trials.append(make_trial(pager, number, metrics=metrics))
        return make_result(*trials, **changes)  # type: ignore[no-any-return]

    return make


def _red(found: Check) -> set[tuple[str, str]]:
    return {(v.pair.spec, v.metric) for v in found.verdicts if v.status.red}


def _of(found: Check, pager: str, metric: str = "rate") -> Any:
    (verdict,) = [v for v in found.verdicts if (v.pair.spec, v.metric) == (pager, metric)]
    return verdict


# How often it is wrong.


@pytest.mark.parametrize("rounds", [(10, 10), (7, 15)])
def test_equal_runs_turn_red_no_more_often_than_alpha_says(
    make_run: Make, rounds: tuple[int, int]
) -> None:
    # No limit, so that the test alone decides; three metrics of a pager are nearly one.
    criteria = Criteria(alpha=0.1, limits={"rate": 0, "p99": 0, "cpu": 0})
    draw = Random(5)
    red = sum(
        bool(_red(check([make_run(draw, rounds=rounds[0])], [make_run(draw, rounds=rounds[1])],
                        criteria)))
        for _ in range(200)
    )  # fmt: skip
    # Binomial(200, 0.1): more than 34 has a probability below 0.001.
    assert red <= 34
    assert red > 0, "a gate that never turns red tests nothing"


def test_equal_runs_stay_green_with_the_limits_as_they_are(make_run: Make) -> None:
    draw = Random(6)
    assert sum(bool(_red(check([make_run(draw)], [make_run(draw)]))) for _ in range(100)) <= 1


def test_a_tenth_slower_is_found_with_ten_rounds_at_three_percent_noise(make_run: Make) -> None:
    draw = Random(7)
    found = 0
    for _ in range(100):
        red = _red(check([make_run(draw)], [make_run(draw, slower={"uffd": 1.1})]))
        found += ("uffd", "rate") in red
        assert {pager for pager, _ in red} <= {"uffd"}
    assert found >= 95


def test_a_tenth_slower_is_found_with_unequal_rounds(make_run: Make) -> None:
    draw = Random(8)
    found = sum(
        ("uffd", "rate")
        in _red(
            check([make_run(draw, rounds=20)], [make_run(draw, slower={"uffd": 1.1}, rounds=8)])
        )
        for _ in range(50)
    )
    assert found >= 47


def test_what_the_whole_host_lost_is_divided_out_when_asked(make_run: Make) -> None:
    draw = Random(9)
    old, new = make_run(draw), make_run(draw, whole=1.3)
    assert ("exit", "rate") in _red(check([old], [new]))
    normalised = check([old], [new], Criteria(normalise=True))
    assert _red(normalised) == set()
    assert {verdict.pair.spec for verdict in normalised.verdicts} == {"uffd", "exit"}
    slower = make_run(draw, whole=1.3, slower={"uffd": 1.2})
    assert ("uffd", "rate") in _red(check([old], [slower], Criteria(normalise=True)))


def test_runs_that_drift_are_judged_by_run(make_run: Make) -> None:
    # Each run on a host 10 % faster or slower; by round this would be red half of the time.
    draw = Random(10)

    def side(slower: float = 1.0) -> list[Result]:
        return [
            make_run(draw, noise=0.01, whole=slower * draw.lognormvariate(0, 0.1)) for _ in range(6)
        ]

    criteria = Criteria(alpha=0.05, limits={"p99": None, "cpu": None})
    pooled = [check(side(), side(), criteria) for _ in range(40)]
    assert {found.unit for found in pooled} == {"run"}
    assert sum(bool(_red(found)) for found in pooled) <= 6
    assert sum(bool(_red(check(side(), side(1.5), criteria))) for _ in range(10)) >= 9


# What a verdict says.


def test_red_rows_come_first_and_say_how_much(make_run: Make) -> None:
    draw = Random(1)
    found = check([make_run(draw)], [make_run(draw, slower={"exit": 1.25, "uffd": 0.8})])
    assert [verdict.status for verdict in found.verdicts][:3] == [Status.WORSE] * 3
    worse = _of(found, "exit")
    numbers = worse.numbers
    assert numbers.change == pytest.approx(-0.2, abs=0.03)
    assert numbers.change_low < numbers.change < numbers.change_high
    assert numbers.p < worse.adjusted <= 0.01
    assert (numbers.baseline_n, numbers.new_n) == (10, 10)
    assert _of(found, "uffd").status == Status.BETTER
    assert _of(found, "none,host=cold").status == Status.SAME
    assert _of(found, "exit", "p99").numbers.change > 0.2


def test_a_change_within_its_limit_is_not_red_however_sure(make_run: Make) -> None:
    draw = Random(2)
    old, new = make_run(draw, noise=0.002), make_run(draw, noise=0.002, slower={"uffd": 1.04})
    found = check([old], [new])
    assert _of(found, "uffd").adjusted < 0.01
    assert _of(found, "uffd").status == Status.SAME
    assert ("uffd", "rate") in _red(check([old], [new], Criteria(limits={"rate": 0.03})))
    assert ("uffd", "rate") not in _red(
        check([old], [new], Criteria(limits={"rate": 0.03}, alphas={"rate": 1e-6}))
    )


def test_a_metric_that_is_off_is_not_judged(make_run: Make) -> None:
    draw = Random(3)
    found = check([make_run(draw)], [make_run(draw)], Criteria(limits={"p99": None}))
    assert {verdict.metric for verdict in found.verdicts} == {"rate", "cpu"}


def test_overlap_has_no_fault_times_to_judge(make_run: Make) -> None:
    options = {"vcpus": 2, "mem_per_vcpu_bytes": 1 << 20, "overlap": True}
    draw = Random(3)
    found = check([make_run(draw, options=options)], [make_run(draw, options=options)])
    assert "p99" not in {verdict.metric for verdict in found.verdicts}


# Too few rounds.


def test_rounds_that_could_never_turn_red_are_refused_with_the_number_needed(
    make_run: Make,
) -> None:
    draw = Random(1)
    with pytest.raises(MismatchError, match=r"could never turn red(?s:.*)--rounds 6") as caught:
        check([make_run(draw, rounds=3)], [make_run(draw, rounds=3)])
    assert "3 rounds against 3" in caught.value.problems[0]
    check([make_run(draw, rounds=6)], [make_run(draw, rounds=6)])


def test_a_row_with_too_few_rounds_is_unjudged_beside_others(make_run: Make) -> None:
    draw = Random(1)
    new = make_run(draw)
    few = replace(new, trials=tuple(t for t in new.trials if t.pager != "exit" or t.round <= 2))
    found = check([make_run(draw)], [few])
    assert _of(found, "exit").status == Status.UNJUDGED
    assert "2 rounds against 10" in _of(found, "exit").reason
    assert _of(found, "uffd").status == Status.SAME


def test_one_run_against_several_asks_for_more_runs(make_run: Make) -> None:
    draw = Random(1)
    with pytest.raises(MismatchError, match="6 runs or more on each side"):
        check([make_run(draw), make_run(draw)], [make_run(draw)])


# Failed trials.


def _with_failure(result: Result, pager: str, make_trial: Make) -> Result:
    return replace(result, trials=(*result.trials, make_trial(pager, 11, status="failed")))


def test_a_pager_that_fails_now_is_red_once_and_has_no_number(
    make_run: Make, make_trial: Make
) -> None:
    draw = Random(1)
    found = check([make_run(draw)], [_with_failure(make_run(draw), "exit", make_trial)])
    (failed,) = [verdict for verdict in found.verdicts if verdict.pair.spec == "exit"]
    assert failed.status == Status.FAILED
    assert isinstance(failed, FailedNow)
    assert failed.reason == "1 of 11 trials failed: vcpu1: page 22 holds the wrong tag"
    assert failed.pair.label == "exit(sigbus)"


def test_a_pager_that_failed_in_the_baseline_is_not_compared(
    make_run: Make, make_trial: Make
) -> None:
    draw = Random(1)
    found = check([_with_failure(make_run(draw), "exit", make_trial)], [make_run(draw)])
    assert [(each.side, each.label, each.reason) for each in found.unmatched] == [
        ("new", "exit(sigbus)", "failed in the baseline")
    ]


def test_a_reference_that_failed_cannot_be_normalised_by(make_run: Make, make_trial: Make) -> None:
    draw = Random(1)
    broken = _with_failure(make_run(draw), "none,host=cold", make_trial)
    found = check([make_run(draw)], [broken], Criteria(normalise=True))
    assert _of(found, "uffd").status == Status.UNJUDGED
    assert "none,host=cold failed" in _of(found, "uffd").reason


# What matches.


def test_a_pager_on_one_side_only_is_listed(make_run: Make) -> None:
    draw = Random(1)
    found = check([make_run(draw, pagers=PAGERS[:2])], [make_run(draw, pagers=PAGERS[1:])])
    assert {(each.side, each.label, each.reason) for each in found.unmatched} == {
        ("new", "exit(sigbus)", "not in the baseline"),
        ("baseline", "none,host=cold", "not in the result"),
    }


def test_providers_of_exits_are_never_mixed(make_run: Make) -> None:
    draw = Random(1)
    new = make_run(draw)
    other = replace(new, labels=("none,host=cold", "uffd", "exit(bitmap)"))
    found = check([make_run(draw)], [other])
    assert {(each.side, each.label) for each in found.unmatched} == {
        ("baseline", "exit(sigbus)"), ("new", "exit(bitmap)"),
    }  # fmt: skip
    assert {verdict.pair.spec for verdict in found.verdicts} == {"none,host=cold", "uffd"}


def test_options_that_differ_are_named_with_both_values(make_run: Make) -> None:
    draw = Random(1)
    old = make_run(draw)
    new = replace(old, options={**old.options, "vcpus": 4, "mem_per_vcpu_bytes": 32 << 20})
    with pytest.raises(MismatchError, match="nothing matches") as caught:
        check([old], [new])
    assert "vcpus=4 against 2, mem_per_vcpu=32M against 64M" in str(caught.value)


def test_how_often_and_how_long_is_no_part_of_a_point(make_run: Make) -> None:
    draw = Random(1)
    old = make_run(draw)
    new = replace(old, options={**old.options, "rounds": 9, "warmup": 2, "watchdog_s": 1.0})
    assert check([old], [new]).unmatched == ()


def test_an_option_newer_than_the_baseline_matches_at_its_default(make_run: Make) -> None:
    draw = Random(1)
    old = make_run(draw)
    new = replace(old, options={**old.options, "seed": 1, "timed": True, "colour": None})
    assert check([old], [new]).unmatched == ()
    with pytest.raises(MismatchError, match="seed=2 against 1"):
        check([old], [replace(old, options={**old.options, "seed": 2})])
    with pytest.raises(MismatchError, match="colour"):
        check([old], [replace(old, options={**old.options, "colour": {"sky": "blue"}})])


def _sweep(make_run: Make, draw: Random, vcpus: Sequence[int], **changes: Any) -> Result:
    runs = [make_run(draw, **changes) for _ in vcpus]
    return replace(
        runs[0],
        points=tuple(Point(options={"vcpus": n}, pagers=PAGERS) for n in vcpus),
        trials=tuple(
            replace(trial, point=at) for at, run in enumerate(runs) for trial in run.trials
        ),
    )


def test_points_are_compared_with_their_own_kind(make_run: Make) -> None:
    draw = Random(1)
    found = check([_sweep(make_run, draw, (1, 2, 4))], [_sweep(make_run, draw, (4, 2, 8))])
    assert {verdict.pair.point for verdict in found.verdicts} == {"vcpus=2", "vcpus=4"}
    assert [(each.side, each.point) for each in found.unmatched] == [
        ("baseline", "vcpus=1"), ("new", "vcpus=8"),
    ]  # fmt: skip
    assert "nearest: vcpus=8 against" in found.unmatched[1].reason


def test_a_skipped_pager_is_listed_with_its_reason(make_run: Make) -> None:
    draw = Random(1)
    new = make_run(draw)
    skipping = replace(
        new,
        trials=tuple(trial for trial in new.trials if trial.pager != "exit"),
        skipped=(Skip(point=0, pager="exit", reason="no userfaultfd"),),
    )
    (alone,) = check([make_run(draw)], [skipping]).unmatched
    assert (alone.side, alone.label) == ("baseline", "exit(sigbus)")
    assert alone.reason == "skipped in the result: no userfaultfd"


def test_an_empty_result_matches_nothing(make_run: Make, make_result: Make) -> None:
    draw = Random(1)
    for sides in (([make_run(draw)], [make_result()]), ([make_result()], [make_run(draw)])):
        with pytest.raises(MismatchError, match="nothing matches"):
            check(*sides)
    with pytest.raises(MismatchError, match="has no result"):
        check([], [make_run(draw)])


# Hosts.

HOST = {
    "hostname": "lab1",
    "kernel": {"release": "6.1.0", "cmdline": "quiet"},
    "cpu": {"model": "AMD EPYC 7B13", "allowed_count": 8, "microcode": "0x1"},
    "kvm": {"second_level_paging": "npt", "vendor_module": "kvm_amd"},
    "memory": {"total_bytes": 64 << 30, "thp_enabled": "madvise"},
    "frequency": {"governors": ["performance"]},
    "cpuidle": {"states": [{"name": "POLL"}, {"name": "C1"}, {"name": "C2", "disabled": True}]},
    "vulnerabilities": {"retbleed": "Mitigation: untrained return thunk"},
}


def _but(group: str, **facts: object) -> dict[str, object]:
    return {**HOST, group: {**HOST[group], **facts}}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("host", "told"),
    [
        (_but("cpu", model="Xeon"), "cpu.model: Xeon against AMD EPYC 7B13 in the baseline"),
        (_but("cpu", allowed_count=4), "cpu.allowed_count: 4 against 8"),
        (_but("kvm", second_level_paging="shadow"), "kvm.second_level_paging: shadow against npt"),
        (_but("kvm", vendor_module=None), "kvm.vendor_module: unknown against kvm_amd"),
        (_but("memory", total_bytes=32 << 30), "memory.total: 32.0 GiB against 64.0 GiB"),
        (_but("memory", thp_enabled="always"), "memory.thp_enabled: always against madvise"),
        (_but("frequency", governors=["powersave"]), "frequency.governors: powersave against"),
        (_but("cpuidle", states=[{"name": "C1"}, {"name": "C2"}]), "cpuidle.states: C1 C2 against"),
        (_but("kernel", cmdline="mitigations=off"), "mitigations: off against auto"),
    ],
)
def test_hosts_that_differ_are_refused_by_field(make_run: Make, host: Any, told: str) -> None:
    draw = Random(1)
    old, new = make_run(draw, host=HOST), make_run(draw, host=host)
    with pytest.raises(MismatchError) as caught:
        check([old], [new])
    assert told in str(caught.value)
    field = caught.value.problems[0].removeprefix("hosts differ in ").partition(":")[0]
    found = check([old], [new], Criteria(allow_host=(field,)))
    assert [caution.code for caution in found.cautions] == ["host-differs"]


def test_every_field_that_differs_is_named_and_each_needs_its_own_waiver(make_run: Make) -> None:
    draw = Random(1)
    host = {**_but("cpu", model="Xeon"), "kvm": {}}
    with pytest.raises(MismatchError) as caught:
        check([make_run(draw, host=HOST)], [make_run(draw, host=host)],
              Criteria(allow_host=("cpu.model",)))  # fmt: skip
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    "host",
    [
        _but("kernel", release="6.12.0"),
        _but("memory", total_bytes=(64 << 30) - (1 << 30)),
        _but("vulnerabilities", retbleed="Mitigation: something new"),
        _but("cpu", microcode="0x2"),
        {**HOST, "hostname": "lab2"},
    ],
)
def test_what_a_kernel_may_change_is_no_reason_to_refuse(make_run: Make, host: Any) -> None:
    draw = Random(1)
    check([make_run(draw, host=HOST)], [make_run(draw, host=host)])


def test_another_kvmpc_is_a_caution(make_run: Make) -> None:
    draw = Random(1)
    found = check([make_run(draw)], [make_run(draw, tool_version="0.2.0")])
    assert [caution.code for caution in found.cautions] == ["tool-version"]
    assert "0.2.0 against 0.1.0" in found.cautions[0].text


def test_a_stand_in_row_is_marked_across_kernels(make_run: Make) -> None:
    draw = Random(1)
    old, new = make_run(draw, host=HOST), make_run(draw, host=_but("kernel", release="6.12.0"))
    found = check([old], [new])
    assert [caution.code for caution in pair_cautions(_of(found, "exit").pair)] == [
        "exit-walks-unknown"
    ]
    assert not list(pair_cautions(_of(found, "uffd").pair))
    assert not list(pair_cautions(_of(check([old], [old]), "exit").pair))
    annotated = replace(
        new,
        trials=tuple(replace(trial, counts={"exits_annotated": 46}) for trial in new.trials),
    )
    (caution,) = pair_cautions(_of(check([old], [annotated]), "exit").pair)
    assert caution.code == "exit-form-changed"
    assert "annotated exits" in caution.text


@pytest.mark.parametrize(
    "wrong",
    [
        {"alpha": 0.0},
        {"alpha": 0.6},
        {"alpha": float("nan")},
        {"limits": {"rate": -0.1}},
        {"limits": {"rate": float("nan")}},
        {"limits": {"speed": 0.1}},
        {"alphas": {"speed": 0.1}},
        {"allow_host": ("colour",)},
        {"limits": dict.fromkeys(JUDGED)},
    ],
)
def test_criteria_that_make_no_sense_are_refused(wrong: Any) -> None:
    with pytest.raises(UsageError):
        Criteria(**wrong)
