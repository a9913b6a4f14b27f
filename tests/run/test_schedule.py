"""Which trials a run has, and in which order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from kvmpc.result.records import PROFILED, Skip
from kvmpc.run.schedule import in_turn
from tests.fakes.schedules import SPECS, make_schedule

Make = Callable[..., Any]


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


@pytest.mark.parametrize("count", [1, 2, 3, 5, 23])
def test_things_in_turn_are_twice_at_every_place_in_twice_as_many_rounds(count: int) -> None:
    turns = [in_turn(range(count), turn) for turn in range(2 * count)]
    for place in zip(*turns, strict=True):
        assert Counter(place) == dict.fromkeys(range(count), 2)


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


def test_of_a_resumed_run_what_was_starved_is_still_to_be_run(make_trial: Make) -> None:
    schedule = make_schedule(("uffd", "exit"), rounds=2, warmup=1)
    done = (
        make_trial("uffd", 0, starved=True), make_trial("exit", 0),
        make_trial("uffd", 1, starved=True), make_trial("uffd", 1),
        make_trial("exit", 1, starved=True), make_trial("exit", 1, starved=True),
    )  # fmt: skip
    left = [(each.pager.spec, each.round) for each in replace(schedule, done=done).trials()]
    assert sorted(left) == [("exit", 1), ("exit", 2), ("uffd", 2)]
