"""Checks of what was measured in turn: what they pair, and that they hold where two runs do not."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from kvmpc.caution import Caution
from kvmpc.errors import MismatchError
from kvmpc.judge.change import host_differences
from kvmpc.judge.criteria import Criteria
from kvmpc.judge.regression import Check, check
from kvmpc.judge.told import tell
from kvmpc.judge.turns import (
    MOVED,
    by_block,
    cautions_within,
    facts_that_differ,
    in_turn,
    pairs_for,
)
from kvmpc.judge.verdicts import Compared, FailedNow, Status, Unjudged
from kvmpc.result.records import NEW, OLD, Result, Turns
from kvmpc.run.turns import draw_order
from kvmpc.show.check_table import check_notes, check_warnings
from kvmpc.show.formats import format_check

Make = Callable[..., Any]
PAGERS = ("none", "uffd", "exit", "uffd,uffds=per-vcpu", "exit,uffds=per-vcpu")
ROUNDS = 2


@pytest.fixture
def make_sides(make_trial: Make, make_result: Make) -> Callable[..., tuple[Result, Result]]:
    """Make both sides of `pairs`, with `level(block)` added to the logarithm of every speed."""

    def make(
        draw: Random,
        *,
        pairs: int = 12,
        noise: float = 0.03,
        level: Callable[[int], float] = lambda _: 0.0,
        slower: float = 1.0,
        pagers: tuple[str, ...] = PAGERS,
        hosts: tuple[dict[str, Any], dict[str, Any]] | None = None,
    ) -> tuple[Result, Result]:
        order = tuple(draw.random() < 0.5 for _ in range(pairs))
        trials: dict[str, list[Any]] = {OLD: [], NEW: []}
        block = 0
        for pair, new_first in enumerate(order):
            for side in (NEW, OLD) if new_first else (OLD, NEW):
                here = level(block) - math.log(slower if side == NEW else 1.0)
                for number in range(pair * ROUNDS + 1, (pair + 1) * ROUNDS + 1):
                    for pager in pagers:
                        speed = math.exp(here + draw.gauss(0, noise))
                        metrics = {
                            "pages_per_s": 1e5 * speed,
                            "fault_p99_ns": 1e5 / speed,
                            "cpu_s_per_gib": 5 / speed,
                        }
                        trials[side].append(make_trial(pager, number, metrics=metrics))
                block += 1
        ends = tuple(range(ROUNDS, pairs * ROUNDS + 1, ROUNDS))
        made = {
            side: make_result(
                *found,
                turns=Turns(id="ab", side=side, command="true", new_first=order, last_rounds=ends),
            )
            for side, found in trials.items()
        }
        sides = made[OLD], made[NEW]
        if hosts:
            sides = replace(sides[0], host=hosts[0]), replace(sides[1], host=hosts[1])
        return sides

    return make


Sides = Callable[..., tuple[Result, Result]]


def _judge(sides: tuple[Result, Result], criteria: Criteria | None = None) -> Check:
    return check([sides[0]], [sides[1]], criteria)


def _walk(draw: Random, step: float) -> Callable[[int], float]:
    """Return a host that wanders by `step` from block to block."""
    levels = [0.0]

    def level(block: int) -> float:
        while len(levels) <= block:
            levels.append(levels[-1] + draw.gauss(0, step))
        return levels[block]

    return level


HOSTS: dict[str, Callable[[Random], Callable[[int], float]]] = {
    "quiet": lambda _: lambda _: 0.0,
    "drift": lambda draw: (lambda slope: lambda block: slope * block)(draw.gauss(0, 0.05)),
    "walk": lambda draw: _walk(draw, 0.1),
    "a shift of its own": lambda draw: lambda _: draw.gauss(0, 0.1),
    "half a load": lambda draw: (lambda at: lambda block: -0.5 * (block > at))(draw.randrange(24)),
}


@pytest.mark.parametrize("host", HOSTS)
def test_sides_that_are_alike_turn_red_no_more_often_than_alpha_says(
    make_sides: Sides, host: str
) -> None:
    # No limit, so that the test alone decides; all rows and metrics of a block are one.
    criteria = Criteria(alpha=0.1, limits={"rate": 0, "p99": 0, "cpu": 0})
    draw = Random(host)
    red = sum(
        _judge(make_sides(draw, level=HOSTS[host](draw), pagers=("uffd",)), criteria).status
        is Status.WORSE
        for _ in range(300)
    )
    # Binomial(300, 0.1): more than 48 has a probability below 0.001.
    assert red <= 48


def test_as_two_runs_the_same_numbers_are_red_far_more_often(make_sides: Sides) -> None:
    """What measuring in turn is for: one side after the other, a host that walks."""
    draw = Random(11)
    red = {"in turn": 0, "one after the other": 0}
    for _ in range(60):
        level = _walk(draw, 0.1)
        sides = make_sides(draw, level=level, pagers=("uffd",))
        red["in turn"] += _judge(sides).status is Status.WORSE
        first, second = (
            make_sides(draw, level=_later(level, at), pagers=("uffd",))[0] for at in (0, 12)
        )
        apart = replace(first, turns=None), replace(second, turns=None)
        red["one after the other"] += _judge(apart).status is Status.WORSE
    assert red["in turn"] <= 2
    assert red["one after the other"] >= 10


def _later(level: Callable[[int], float], at: int) -> Callable[[int], float]:
    """Return a host whose blocks all are of one side, the first when `at` were measured."""
    return lambda block: level(block // 2 + at)


@pytest.mark.parametrize("host", ["quiet", "drift"])
def test_ten_per_cent_is_found_beside_noise_of_five(make_sides: Sides, host: str) -> None:
    draw = Random(12)
    found = sum(
        _judge(make_sides(draw, noise=0.05, level=_gentle(host), slower=1.1, pairs=16)).status
        is Status.WORSE
        for _ in range(60)
    )
    assert found >= 54


def _gentle(host: str) -> Callable[[int], float]:
    return lambda block: 0.01 * block if host == "drift" else 0.0


def test_the_change_is_that_of_pairs_whatever_lies_between_them(make_sides: Sides) -> None:
    draw = Random(13)
    sides = make_sides(draw, noise=0.001, level=lambda block: block // 2, slower=1.25)
    for verdict in _judge(sides).verdicts:
        assert isinstance(verdict, Compared)
        better = verdict.metric == "rate"
        assert verdict.numbers.change == pytest.approx(-0.2 if better else 0.25, abs=0.01)
        assert (verdict.numbers.baseline_n, verdict.numbers.new_n) == (12, 12)
        assert verdict.status is Status.WORSE


def test_sides_may_be_given_either_way_round(make_sides: Sides) -> None:
    old, new = make_sides(Random(14), noise=0.001, slower=1.25)
    assert _judge((old, new)).status is Status.WORSE
    assert {verdict.status for verdict in _judge((new, old)).verdicts} == {Status.BETTER}


def test_only_two_sides_of_one_command_are_pairs(make_sides: Sides) -> None:
    old, new = make_sides(Random(15))
    assert in_turn([old], [new])
    assert not in_turn([old], [old])
    assert not in_turn([old, old], [new])
    assert not in_turn([old], [replace(new, turns=None)])
    assert new.turns is not None
    other = replace(new, turns=replace(new.turns, id="cd"))
    assert not in_turn([old], [other])
    assert _judge((old, other)).unit == "round"
    assert _judge((old, new)).unit == "pair"


def test_facts_that_differ_are_told_and_not_refused(make_sides: Sides) -> None:
    hosts = (
        {"memory": {"thp_enabled": "always", "available_bytes": 1}, "load": {"avg1": 1}},
        {"memory": {"thp_enabled": "never", "available_bytes": 2}, "load": {"avg1": 2}},
    )
    sides = make_sides(Random(16), hosts=hosts)
    found = _judge(sides)
    notes = "\n".join(check_notes(found))
    assert "between the sides: memory.thp_enabled: never against always in the baseline" in notes
    assert "signed-rank tests of pairs" in notes
    assert "an order that was drawn" in notes
    document = json.loads(format_check(found, "json"))
    assert document["unit"] == "pair"
    assert document["differing"] == [
        {"field": "memory.thp_enabled", "baseline": "always", "new": "never"}
    ]
    assert host_differences(*sides) == []
    apart = tuple(replace(side, turns=None) for side in sides)
    with pytest.raises(MismatchError, match="thp_enabled"):
        _judge(apart)  # type: ignore[arg-type]
    assert host_differences(*apart)


def test_sides_that_do_not_differ_say_so(make_sides: Sides) -> None:
    notes = "\n".join(check_notes(_judge(make_sides(Random(17)))))
    assert "no fact of the host that kvmpc reads differs" in notes


def test_facts_that_move_within_a_side_are_a_caution_of_the_check(make_sides: Sides) -> None:
    old, new = make_sides(Random(18))
    moved = cautions_within([{"cpu": {"allowed_count": 2}}, {"cpu": {"allowed_count": 1}}] * 2)
    assert [caution.code for caution in moved] == [MOVED]
    assert "cpu.allowed_count: 1 after 2" in moved[0].text
    assert cautions_within([{"load": {"avg1": 2}}, {"load": {"avg1": 1}}, {}]) == []
    sides = old, replace(new, warnings=(*moved, Caution("other", "a", "b")))
    found = _judge(sides)
    warnings = " ".join(" ".join(check_warnings(found, [old], [sides[1]])).split())
    assert "cpu.allowed_count: 1 after 2" in warnings


def test_facts_are_compared_to_their_depth() -> None:
    old = {"kvm": {"modules": {"kvm_amd": {"npt": "1"}, "kvm": {"a": "b"}}}, "cpu": {"x": [1]}}
    new = {"kvm": {"modules": {"kvm_amd": {"npt": "0"}, "kvm": {"a": "b"}}}, "cpu": {"x": [1, 2]}}
    assert [str(each) for each in facts_that_differ(old, new)] == [
        "cpu.x: [1, 2] against [1] in the baseline",
        "kvm.modules.kvm_amd.npt: 0 against 1 in the baseline",
    ]
    assert [str(each) for each in facts_that_differ({}, {"hostname": "a"})] == [
        "hostname: a against unknown in the baseline"
    ]


def test_a_block_that_one_side_lacks_takes_its_pair_along(make_sides: Sides) -> None:
    old, new = make_sides(Random(19), pairs=13)
    fewer = replace(new, trials=tuple(trial for trial in new.trials if trial.round not in (3, 4)))
    (rate, *_) = [v for v in _judge((old, fewer)).verdicts if v.metric == "rate"]
    assert isinstance(rate, Compared)
    assert (rate.numbers.baseline_n, rate.numbers.new_n) == (12, 12)
    assert list(by_block(new, {1: 1.0, 2: 3.0, 4: 5.0, 99: 7.0, 0: 9.0})) == [0, 1]


def test_sides_without_a_pair_in_common_are_not_judged(make_sides: Sides) -> None:
    old, new = make_sides(Random(20), pagers=("none", "uffd"))
    one, other = (
        replace(
            side,
            trials=tuple(t for t in side.trials if t.pager == "none" or (t.round > 12) == last),
        )
        for side, last in ((old, False), (new, True))
    )
    found = _judge((one, other))
    unjudged = [verdict for verdict in found.verdicts if isinstance(verdict, Unjudged)]
    assert {verdict.pair.spec for verdict in unjudged} == {"uffd"}
    assert {verdict.reason for verdict in unjudged} == {"no pair has it on both sides"}


def test_a_pager_that_fails_on_a_side_is_told(make_sides: Sides, make_trial: Make) -> None:
    old, new = make_sides(Random(21), pagers=("none", "uffd"))
    failed = make_trial("uffd", 3, status="failed")
    found = _judge((old, replace(new, trials=(*new.trials, failed))))
    assert [type(verdict) for verdict in found.having(Status.FAILED)] == [FailedNow]


def test_too_few_pairs_are_refused_with_how_many_it_takes(make_sides: Sides) -> None:
    with pytest.raises(MismatchError) as caught:
        _judge(make_sides(Random(22), pairs=10))
    text = str(caught.value)
    assert "10 pairs could never turn red: the smallest p possible is 0.00098" in text
    assert "measure 11 pairs or more (--pairs 11)" in text
    assert _judge(make_sides(Random(22), pairs=11)).verdicts


def test_how_many_pairs_it_takes_depends_on_the_tests_and_their_families() -> None:
    assert pairs_for(Criteria(), {"rate": 5, "p99": 5, "cpu": 5}) == 11
    assert pairs_for(Criteria(), {"rate": 1}) == 7
    assert pairs_for(Criteria(alpha=0.5), {"rate": 1, "cpu": 0}) == 6  # for an interval
    own = Criteria(alpha=0.1, alphas={"rate": 0.001})
    assert pairs_for(own, {"rate": 2, "p99": 2}) == 11
    assert pairs_for(own, {"p99": 2}) == 6


def test_drift_is_no_caution_of_what_was_measured_in_turn(make_sides: Sides) -> None:
    old, _ = make_sides(Random(23), level=lambda block: 0.05 * block, pagers=("uffd",))
    assert "drift" not in {caution.code for caution in tell([old])}
    apart = replace(old, turns=None)
    assert "drift" in {caution.code for caution in tell([apart])}


def test_the_order_is_that_of_a_fair_coin_at_the_default_seed() -> None:
    assert sum(draw_order(12, 1)) == 6
