"""Which trials a run has, and in which order."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from kvmpc import schedule as module
from kvmpc.config import Work
from kvmpc.errors import Interrupted, UsageError
from kvmpc.interrupt import Interrupt
from kvmpc.pagers import parse_pager
from kvmpc.schedule import Schedule, measure
from kvmpc.units import PAGE_BYTES

SPECS = ("none", "uffd", "exit")


def make_schedule(
    specs: tuple[str, ...] = SPECS, *, rounds: int = 3, warmup: int = 1, **options: Any
) -> Schedule:
    """Make a schedule of `specs` on 3 vCPUs of 997 pages."""
    work = Work(vcpus=3, mem_per_vcpu_bytes=997 * PAGE_BYTES, **options)
    return Schedule(work, [parse_pager(spec) for spec in specs], rounds, warmup)


@pytest.mark.parametrize("warmup", [0, 1, 2])
@pytest.mark.parametrize("rounds", [1, 2, 3, 7])
def test_every_round_has_one_trial_of_each_pager(rounds: int, warmup: int) -> None:
    schedule = make_schedule(rounds=rounds, warmup=warmup)
    steps = list(schedule.steps())
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
    steps = list(make_schedule(specs, rounds=2 * count, warmup=warmup).steps())
    measured = [step.pager.spec for step in steps if step.round]
    for place in range(count):
        assert Counter(measured[place::count]) == dict.fromkeys(specs, 2)


def test_every_other_round_goes_backwards_so_that_nobody_always_follows_the_same() -> None:
    steps = list(make_schedule(rounds=4, warmup=0).steps())
    assert [step.pager.spec for step in steps] == [
        "none", "uffd", "exit",
        "exit", "uffd", "none",
        "uffd", "exit", "none",
        "none", "exit", "uffd",
    ]  # fmt: skip


def test_a_warm_up_touches_an_eighth_of_the_pages_and_is_round_0() -> None:
    steps = list(make_schedule(warmup=2).steps())
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


class FakeTrials:
    """Stands in for run_trial: notes what it was asked, and may be interrupted."""

    def __init__(self, interrupt_at: int | None = None) -> None:
        self.asked: list[tuple[int, str, int]] = []
        self.interrupt_at = interrupt_at

    def __call__(self, kvm: object, work: Work, pager: Any, **options: Any) -> str:
        del kvm
        assert options["watchdog_s"] == 7.0
        if len(self.asked) == self.interrupt_at:
            raise Interrupted("SIGINT")
        self.asked.append((options["round_number"], pager.spec, work.touched_per_part))
        return f"result {len(self.asked)}"


def test_measuring_runs_the_steps_in_order_and_yields_each_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trials, schedule = FakeTrials(), make_schedule()
    monkeypatch.setattr(module, "run_trial", trials)
    results = list(measure(None, schedule, interrupt=Interrupt(), watchdog_s=7.0))  # type: ignore[arg-type]
    assert results == [f"result {n}" for n in range(1, 13)]
    assert trials.asked == [
        (step.round, step.pager.spec, step.work.touched_per_part) for step in schedule.steps()
    ]


def test_results_before_an_interrupt_have_been_yielded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "run_trial", FakeTrials(interrupt_at=4))
    results = []

    def collect() -> None:
        trials = measure(None, make_schedule(), interrupt=Interrupt(), watchdog_s=7.0)  # type: ignore[arg-type]
        results.extend(trials)

    with pytest.raises(Interrupted):
        collect()
    assert len(results) == 4
