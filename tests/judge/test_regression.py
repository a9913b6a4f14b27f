"""Checks of synthetic runs: how often they are wrong, and what they refuse to answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from kvmpc.errors import MismatchError
from kvmpc.judge.criteria import Criteria
from kvmpc.judge.regression import Check, check
from kvmpc.judge.verdicts import FailedNow, Status
from kvmpc.result.metrics import HOST_SPEED
from kvmpc.result.records import Result

Make = Callable[..., Any]


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
    assert red > 0, "a check that never turns red tests nothing"


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
    old, new = make_run(draw, noise=0.01), make_run(draw, noise=0.01, slow_host=1.3)
    plain = check([old], [new])
    assert {pager for pager, _ in _red(plain)} == {"none", "uffd", "exit"}
    assert "host-speed" in {caution.code for caution in plain.cautions}
    normalised = check([old], [new], Criteria(normalise=True))
    assert normalised.status is None
    assert {verdict.pair.spec for verdict in normalised.verdicts} == {"none", "uffd", "exit"}
    (caution,) = normalised.cautions
    assert "host itself is 23.0% slower" in caution.text
    numbers = _of(normalised, "uffd").numbers
    assert numbers.new == pytest.approx(numbers.baseline, rel=0.03), "as on the baseline's host"
    slower = make_run(draw, noise=0.01, slow_host=1.3, slower={"uffd": 1.2})
    found = check([old], [slower], Criteria(normalise=True))
    assert {pager for pager, _ in _red(found)} == {"uffd"}


def test_a_dip_of_the_loop_in_one_trial_is_no_speed_of_the_host(make_run: Make) -> None:
    """One loop in ten is a sixth slower for its 2 ms, and the trial behind it is not."""
    draw = Random(23)

    def dipped() -> Result:
        run = make_run(draw, noise=0.01)
        trials = [
            replace(
                trial,
                metrics=trial.metrics | {
                    HOST_SPEED.key: trial.metrics[HOST_SPEED.key]
                    * (1 / 1.2 if draw.random() < 0.1 else 1.0)
                },
            )
            for trial in run.trials
        ]  # fmt: skip
        return replace(run, trials=tuple(trials))

    for _ in range(10):
        old, new = dipped(), dipped()
        plain, normalised = (
            check([old], [new], Criteria(normalise=asked)) for asked in (False, True)
        )
        assert not _red(normalised)
        for pager in ("uffd", "exit"):
            found, apart = _of(normalised, pager).numbers, _of(plain, pager).numbers
            assert found.change == pytest.approx(apart.change, abs=0.01)
            width = apart.change_high - apart.change_low
            assert found.change_high - found.change_low < 1.5 * width


@pytest.mark.parametrize("normalise", [False, True])
def test_what_hits_every_fault_is_red_however_it_is_judged(make_run: Make, normalise: bool) -> None:
    draw = Random(15)
    old, new = make_run(draw, noise=0.01), make_run(draw, noise=0.01, whole=1 / 0.7)
    found = check([old], [new], Criteria(normalise=normalise))
    assert {pager for pager, _ in _red(found)} == {"none", "uffd", "exit"}
    assert not found.having(Status.BETTER)


@pytest.mark.parametrize("normalise", [False, True])
def test_a_faster_none_is_laid_to_no_pager(make_run: Make, normalise: bool) -> None:
    draw = Random(16)
    old = make_run(draw, noise=0.01)
    new = make_run(draw, noise=0.01, slower={"none": 1 / 1.25})
    found = check([old], [new], Criteria(normalise=normalise))
    assert found.status is None
    assert {verdict.pair.spec for verdict in found.having(Status.BETTER)} == {"none"}
    assert {verdict.pair.spec for verdict in found.having(Status.SAME)} == {"uffd", "exit"}


@pytest.mark.parametrize("lacking", ["baseline", "result"])
def test_what_has_no_speed_of_its_host_is_not_normalised(make_run: Make, lacking: str) -> None:
    draw = Random(17)
    sides = [
        [make_run(draw, host_speed=None if lacking == side else 2e8)]
        for side in ("baseline", "result")
    ]
    with pytest.raises(MismatchError, match="measure that side again") as caught:
        check(*sides, Criteria(normalise=True))
    assert f"30 of 30 trials of the {lacking} do not have" in str(caught.value)
    assert check(*sides).status in (None, Status.UNSURE)


def test_a_run_without_none_can_be_normalised(make_run: Make) -> None:
    draw = Random(18)
    sides = [[make_run(draw, noise=0.01, pagers=("uffd",), slow_host=host)] for host in (1, 1.2)]
    assert check(*sides, Criteria(normalise=True)).status is None


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
    found = check(
        [make_run(draw, noise=0.02)],
        [make_run(draw, noise=0.02, slower={"exit": 1.25, "uffd": 0.8})],
    )
    assert [verdict.status for verdict in found.verdicts][:3] == [Status.WORSE] * 3
    worse = _of(found, "exit")
    numbers = worse.numbers
    assert numbers.change == pytest.approx(-0.2, abs=0.03)
    assert numbers.change_low < numbers.change < numbers.change_high
    assert numbers.p_worse < worse.adjusted_worse <= 0.01
    assert numbers.p_better > 0.99
    assert (numbers.baseline_n, numbers.new_n) == (10, 10)
    better = _of(found, "uffd")
    assert better.status == Status.BETTER
    assert better.numbers.p_better < better.adjusted_better <= 0.01
    assert better.numbers.p_worse > 0.99
    assert _of(found, "none").status == Status.SAME
    assert _of(found, "exit", "p99").numbers.change > 0.2


def test_a_change_within_its_limit_is_not_red_however_sure(make_run: Make) -> None:
    draw = Random(2)
    old, new = make_run(draw, noise=0.002), make_run(draw, noise=0.002, slower={"uffd": 1.04})
    found = check([old], [new])
    assert _of(found, "uffd").adjusted_worse < 0.01
    assert _of(found, "uffd").status == Status.SAME
    assert ("uffd", "rate") in _red(check([old], [new], Criteria(limits={"rate": 0.03})))
    assert ("uffd", "rate") not in _red(
        check([old], [new], Criteria(limits={"rate": 0.03}, alphas={"rate": 1e-6}))
    )


def _exact(make_run: Make, **slower: float) -> Result:
    """Return a run whose rounds differ by a thousandth each, in all metrics."""
    run = make_run(Random(1), noise=0.0, slower=slower)
    return replace(
        run,
        trials=tuple(
            replace(t, metrics={k: v * (1 + t.round / 1000) for k, v in t.metrics.items()})
            for t in run.trials
        ),
    )


@pytest.mark.parametrize(
    ("slower", "status"),
    [
        (1.0, Status.SAME),
        (1.04, Status.SAME),  # surely slower, and surely by less than is tolerated
        (0.97, Status.SAME),
        (1.2, Status.WORSE),
        (0.8, Status.BETTER),
    ],
)
def test_without_noise_a_verdict_is_what_the_limit_says(
    make_run: Make, slower: float, status: Status
) -> None:
    found = check([_exact(make_run)], [_exact(make_run, uffd=slower)])
    assert _of(found, "uffd").status is status
    assert _of(found, "exit").status is Status.SAME
    expected = {Status.WORSE: Status.WORSE}.get(status)
    assert found.status is expected


def _states(numbers: Any, limit: float, better: int) -> set[Status]:
    """Return what an interval allows to be said at all."""
    low, high = sorted(better * end for end in (numbers.change_low, numbers.change_high))
    allowed = {Status.UNSURE}
    allowed |= {Status.WORSE} if high < 0 and better * numbers.change < -limit else set()
    allowed |= {Status.BETTER} if low > 0 and better * numbers.change > limit else set()
    return allowed | ({Status.SAME} if -limit <= low and high <= limit else set())


@pytest.mark.parametrize("alpha", [0.01, 0.5])
def test_no_verdict_contradicts_the_interval_beside_it(make_run: Make, alpha: float) -> None:
    draw = Random(12)
    seen = set()
    for noise in (0.01, 0.03, 0.1):
        for uffd in (0.7, 0.9, 1.0, 1.06, 1.15, 1.5):
            sides = [
                make_run(draw, noise=noise),
                make_run(draw, noise=noise, slower={"uffd": uffd}),
            ]
            found = check([sides[0]], [sides[1]], Criteria(alpha=alpha))
            for verdict in found.verdicts:
                numbers: Any = verdict.numbers  # type: ignore[union-attr]
                better = 1 if verdict.metric == "rate" else -1
                assert numbers.change_low <= numbers.change <= numbers.change_high
                assert verdict.status in _states(numbers, verdict.limit, better)  # type: ignore[union-attr]
                seen.add(verdict.status)
            statuses = {verdict.status for verdict in found.verdicts}
            whole = Status.WORSE if Status.WORSE in statuses else None
            assert found.status is (whole or (Status.UNSURE if Status.UNSURE in statuses else None))
    assert seen == {Status.WORSE, Status.BETTER, Status.SAME, Status.UNSURE}


def test_noise_that_hides_a_large_change_is_unsure_and_says_how_blind_it_is(make_run: Make) -> None:
    draw = Random(14)
    found = check([make_run(draw, noise=0.3)], [make_run(draw, noise=0.3, slower={"uffd": 1.2})])
    verdict = _of(found, "uffd")
    assert verdict.status is found.status is Status.UNSURE
    assert verdict.numbers.change_low < -0.05
    # A rate falls, a time rises; less than was there could not have been seen.
    assert -1 < verdict.numbers.sees < -0.2
    assert _of(found, "uffd", "cpu").numbers.sees > 0.2


def test_what_a_row_sees_is_never_less_than_its_limit(make_run: Make) -> None:
    found = check([_exact(make_run)], [_exact(make_run)])
    for verdict in found.verdicts:
        numbers: Any = verdict.numbers  # type: ignore[union-attr]
        assert abs(numbers.sees) > verdict.limit  # type: ignore[union-attr]
    blind = check([_exact(make_run)], [_exact(make_run)], Criteria(limits={"rate": 1.5}))
    assert _of(blind, "uffd").numbers.sees is None, "no rate falls by 150 %"
    assert _of(blind, "uffd").status is Status.SAME


def test_a_p99_is_no_surer_than_its_histogram_is_fine(make_run: Make) -> None:
    # All in one bucket: what the rounding hides belongs to the interval.
    found = check([make_run(Random(1), noise=0.0)], [make_run(Random(1), noise=0.0)])
    p99 = _of(found, "uffd", "p99").numbers
    assert (p99.change_low, p99.change_high) == pytest.approx((-0.0597, 0.0635), abs=1e-3)
    rate = _of(found, "uffd").numbers
    assert (rate.change_low, rate.change, rate.change_high) == pytest.approx((0, 0, 0))


@pytest.mark.parametrize("rate", [1e-300, 1e300])
def test_absurd_numbers_are_judged(make_run: Make, rate: float) -> None:
    new = make_run(Random(1))
    odd = replace(
        new, trials=tuple(replace(t, metrics=dict.fromkeys(t.metrics, rate)) for t in new.trials)
    )
    assert check([make_run(Random(2))], [odd]).status is Status.WORSE
    assert check([odd], [make_run(Random(2))]).status is Status.WORSE


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


def test_the_number_needed_is_that_of_the_rows_there_are(make_run: Make) -> None:
    # Five pagers by default: 15 tests, for which six on each side are too few.
    draw = Random(1)
    pagers = ("none", "uffd", "exit", "uffd,uffds=per-vcpu", "exit,uffds=per-vcpu")
    for several in (False, True):

        def side(n: int, several: bool = several) -> list[Result]:
            rounds = [1] * n if several else [n]
            return [make_run(draw, pagers=pagers, rounds=count) for count in rounds]

        with pytest.raises(MismatchError, match=r"measure 7 (rounds|runs) or more on each side"):
            check(side(6), side(6))
        assert len(check(side(7), side(7)).verdicts) == 15


def test_a_row_with_too_few_rounds_is_unjudged_beside_others(make_run: Make) -> None:
    draw = Random(1)
    new = make_run(draw, noise=0.01)
    few = replace(new, trials=tuple(t for t in new.trials if t.pager != "exit" or t.round <= 2))
    found = check([make_run(draw, noise=0.01)], [few])
    assert _of(found, "exit").status == Status.UNJUDGED
    assert "2 rounds against 10" in _of(found, "exit").reason
    assert _of(found, "uffd").status == Status.SAME
    assert found.status is Status.UNSURE


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


def test_a_pager_that_may_fail_is_listed_and_the_others_are_judged(
    make_run: Make, make_trial: Make
) -> None:
    old, new = _exact(make_run), _with_failure(_exact(make_run), "exit", make_trial)
    assert check([old], [new]).status is Status.FAILED
    found = check([old], [new], Criteria(allow_missing=("exit",)))
    assert found.status is None
    assert [(each.label, each.reason.partition(":")[0]) for each in found.unmatched] == [
        ("exit(sigbus)", "1 of 11 trials failed")
    ]


def test_a_pager_that_failed_in_the_baseline_is_not_compared(
    make_run: Make, make_trial: Make
) -> None:
    draw = Random(1)
    found = check([_with_failure(make_run(draw), "exit", make_trial)], [make_run(draw)])
    assert [(each.side, each.label, each.reason) for each in found.unmatched] == [
        ("new", "exit(sigbus)", "failed in the baseline")
    ]
