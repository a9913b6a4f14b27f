"""Which trials a run has, and in which order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from kvmpc.errors import Interrupted, UsageError
from kvmpc.result.points import points_of
from kvmpc.result.records import PROFILED, Skip
from kvmpc.run import campaign as module
from kvmpc.run.campaign import measure, planned_result
from kvmpc.run.estimate import Estimate
from kvmpc.run.plan import make_plan
from kvmpc.run.schedule import Schedule
from kvmpc.trial.signals import Interrupt
from kvmpc.units import PAGE_BYTES
from kvmpc.work.work import Work

Make = Callable[..., Any]

SPECS = ("none", "uffd", "exit")


def make_schedule(
    specs: tuple[str, ...] = SPECS, *, rounds: int = 3, warmup: int = 1, **options: Any
) -> Schedule:
    """Make a schedule of `specs` on 3 vCPUs of 997 pages; `vcpus` may be several."""
    profile = options.pop("profile", False)
    axes = {"vcpus": 3, "mem_per_vcpu": 997 * PAGE_BYTES, **options}
    return Schedule(
        make_plan(axes, specs, rounds=rounds, warmup=warmup, watchdog_s=7.0, profile=profile)
    )


@pytest.mark.parametrize("warmup", [0, 1, 2])
@pytest.mark.parametrize("rounds", [1, 2, 3, 7])
def test_every_round_has_one_trial_of_each_pager(rounds: int, warmup: int) -> None:
    schedule = make_schedule(rounds=rounds, warmup=warmup)
    steps = list(schedule.trials())
    assert len(steps) == len(schedule) == (rounds + warmup) * 3
    for begin in range(0, len(steps), 3):
        of_round = steps[begin : begin + 3]
        assert sorted(step.pager.spec for step in of_round) == sorted(SPECS)
        assert len({step.round for step in of_round}) == 1
    numbers = [step.round for step in steps[::3]]
    assert numbers == [0] * warmup + list(range(1, rounds + 1))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("warmup", [0, 1])
def test_each_pager_is_equally_often_at_each_place_of_a_round(count: int, warmup: int) -> None:
    specs = ("none", "uffd", "exit", "uffd,readers=3", "exit,uffds=3")[:count]
    steps = list(make_schedule(specs, rounds=2 * count, warmup=warmup).trials())
    measured = [step.pager.spec for step in steps if step.round]
    for place in range(count):
        assert Counter(measured[place::count]) == dict.fromkeys(specs, 2)


def test_every_other_round_goes_backwards_so_that_nobody_always_follows_the_same() -> None:
    steps = list(make_schedule(rounds=4, warmup=0).trials())
    assert [step.pager.spec for step in steps] == [
        "none", "uffd", "exit",
        "exit", "uffd", "none",
        "uffd", "exit", "none",
        "none", "exit", "uffd",
    ]  # fmt: skip


def test_a_warm_up_touches_an_eighth_of_the_pages_and_is_round_0() -> None:
    steps = list(make_schedule(warmup=2).trials())
    for step in steps[:6]:
        assert step.round == 0
        assert step.work.touched_per_part == 997 // 8
    for step in steps[6:]:
        assert step.round >= 1
        assert step.work.touched_per_part == 997


@pytest.mark.parametrize("rounds", [0, -1, 1001])
def test_rounds_out_of_range_are_refused(rounds: int) -> None:
    with pytest.raises(UsageError) as caught:
        make_schedule(rounds=rounds)
    assert (caught.value.option, caught.value.allowed) == ("--rounds", "1 to 1000")


@pytest.mark.parametrize("warmup", [-1, 1001])
def test_warm_ups_out_of_range_are_refused(warmup: int) -> None:
    with pytest.raises(UsageError) as caught:
        make_schedule(warmup=warmup)
    assert (caught.value.option, caught.value.allowed) == ("--warmup", "0 to 1000")


@pytest.mark.parametrize("again", ["uffd", "uffd,readers=1", "uffd,uffds=1"])
def test_a_pager_given_twice_is_refused_however_it_is_written(again: str) -> None:
    with pytest.raises(UsageError, match="each pager once; for more trials, --rounds"):
        make_schedule(("uffd", "exit", again))


def test_a_pager_that_cannot_be_measured_on_the_work_is_refused_before_any_trial() -> None:
    with pytest.raises(UsageError, match="one shared zero page"):
        make_schedule(access="read")


def test_every_round_goes_through_all_points_and_every_other_one_backwards() -> None:
    steps = list(make_schedule(("none", "uffd"), rounds=2, warmup=0, vcpus="1,2,5").trials())
    assert [(step.round, step.point) for step in steps] == [
        (1, 0), (1, 0), (1, 1), (1, 1), (1, 2), (1, 2),
        (2, 2), (2, 2), (2, 1), (2, 1), (2, 0), (2, 0),
    ]  # fmt: skip
    assert {step.point: step.work.vcpus for step in steps} == {0: 1, 1: 2, 2: 5}


def test_profiled_trials_come_last_one_of_each_pager_at_each_point() -> None:
    steps = list(make_schedule(("none", "uffd"), rounds=1, vcpus="1,2", profile=True).trials())
    assert [(step.round, step.point, step.pager.spec) for step in steps[-5:]] == [
        (1, 0, "none"),
        (PROFILED, 0, "none"), (PROFILED, 0, "uffd"), (PROFILED, 1, "none"), (PROFILED, 1, "uffd"),
    ]  # fmt: skip
    assert {step.work.touched_per_part for step in steps[-4:]} == {997}


def test_what_was_measured_before_is_not_measured_again(make_trial: Make) -> None:
    whole = make_schedule(warmup=2, vcpus="1,2")
    steps = list(whole.trials())
    for cut in (1, 5, 17, len(steps)):
        done = tuple(make_trial(s.pager.spec, s.round, point=s.point) for s in steps[:cut])
        assert list(replace(whole, done=done).trials()) == steps[cut:]


def test_what_cannot_run_is_skipped_and_the_rest_keeps_its_order() -> None:
    whole = make_schedule(vcpus="1,2")
    skip = Skip(point=1, pager="uffd", reason="no")
    left = list(replace(whole, skipped=(skip,)).trials())
    assert left == [s for s in whole.trials() if (s.point, s.pager.spec) != (1, "uffd")]
    assert len(left) == len(replace(whole, skipped=(skip,)))


def test_time_left_is_that_of_the_nearest_size_of_the_same_pager() -> None:
    clock, steps = (
        Estimate(),
        list(make_schedule(("uffd", "exit"), rounds=1, vcpus="1,2,16").trials()),
    )
    assert clock.left_s(steps) is None
    by_key = {(s.point, s.round, s.pager.spec): s for s in steps}
    clock.add(by_key[0, 1, "uffd"], 2.5, 2.0)
    assert clock.left_s([by_key[1, 1, "uffd"]]) == pytest.approx(4.5, abs=0.01)
    assert clock.left_s([by_key[1, 1, "exit"]]) == pytest.approx(4.5, abs=0.01)  # for want of its
    clock.add(by_key[1, 1, "exit"], 11.0, 10.0)
    left_s = clock.left_s([by_key[2, 1, "exit"], by_key[2, 1, "uffd"]])
    assert left_s == pytest.approx(80 + 1 + 32 + 0.5, abs=0.1)
    # Set-up does not shrink with the pages.
    assert clock.left_s([by_key[0, 0, "uffd"]]) == pytest.approx(0.25 + 0.5, abs=0.01)


def test_the_result_of_a_sweep_says_once_what_all_points_share() -> None:
    plan = make_schedule(vcpus="1,2", seed=7).plan
    result = planned_result(
        plan, (), tool_version="0", command=("kvmpc",), started="", host={"cpu": {}}
    )
    assert [point.options for point in result.points] == [{"vcpus": 1}, {"vcpus": 2}]
    assert "vcpus" not in result.options
    assert (result.options["seed"], result.options["rounds"]) == (7, 3)
    assert [found.options["vcpus"] for found in points_of(result)] == [1, 2]
    single = planned_result(
        make_schedule().plan, (), tool_version="0", command=(), started="", host={}
    )
    assert (single.points, single.options["vcpus"]) == ((), 3)


class FakeTrials:
    """Stands in for run_trial: notes what it was asked, and may be interrupted."""

    def __init__(self, make_trial: Make, interrupt_at: int | None = None) -> None:
        self.asked: list[tuple[int, str, int]] = []
        self.interrupt_at = interrupt_at
        self.make_trial = make_trial

    def __call__(self, kvm: object, work: Work, pager: Any, **options: Any) -> Any:
        del kvm
        assert options["watchdog_s"] == 7.0
        if len(self.asked) == self.interrupt_at:
            raise Interrupted("SIGINT")
        self.asked.append((options["round_number"], pager.spec, work.touched_per_part))
        return self.make_trial(pager.spec, options["round_number"])


def test_measuring_runs_the_steps_in_order_and_yields_each_result(
    monkeypatch: pytest.MonkeyPatch, make_trial: Make
) -> None:
    trials, schedule = FakeTrials(make_trial), make_schedule(vcpus="1,2")
    monkeypatch.setattr(module, "run_trial", trials)
    results = list(measure(None, schedule, interrupt=Interrupt()))  # type: ignore[arg-type]
    assert [(trial.point, trial.round, trial.pager) for _, trial in results] == [
        (step.point, step.round, step.pager.spec) for step in schedule.trials()
    ]
    assert trials.asked == [
        (step.round, step.pager.spec, step.work.touched_per_part) for step in schedule.trials()
    ]


def test_results_before_an_interrupt_have_been_yielded(
    monkeypatch: pytest.MonkeyPatch, make_trial: Make
) -> None:
    monkeypatch.setattr(module, "run_trial", FakeTrials(make_trial, interrupt_at=4))
    results = []

    def collect() -> None:
        results.extend(measure(None, make_schedule(), interrupt=Interrupt()))  # type: ignore[arg-type]

    with pytest.raises(Interrupted):
        collect()
    assert len(results) == 4
