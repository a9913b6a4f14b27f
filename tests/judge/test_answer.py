"""Who is the fastest: what is claimed, by which rounds, and what is not."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import permutations

import pytest

from kvmpc.judge.answer import (
    FALSE_HEADLINES,
    Answer,
    Why,
    answer_of,
    chance_of,
    contests_of,
    rounds_needed,
)
from kvmpc.result.metrics import RATE
from kvmpc.result.points import points_of
from kvmpc.result.records import Point, Result
from tests.fakes.results import fake_result, fake_trial
from tests.fakes.sweeps import sweep, trial


def _rounds(**rates: list[float | None]) -> Result:
    """Return a result of one point with these rates, round by round; None: no such trial."""
    chance = random.Random(1)
    trials = [
        replace(made, metrics={**made.metrics, "pages_per_s": rate})
        for spec, values in rates.items()
        for number, rate in enumerate(values, 1)
        if rate is not None
        for made in [trial(spec, 2, number, chance, rate=rate)]
    ]
    return sweep((2,), tuple(rates), trials=tuple(trials))


def _answer(**rates: list[float | None]) -> Answer:
    answer = _of_point(_rounds(**rates))
    assert answer is not None
    return answer


def _of_point(point: Result) -> Answer | None:
    return answer_of(point, contests_of([point]))


@pytest.mark.parametrize(
    ("uffd", "other", "why"),
    [
        ([100] * 6, [200] * 6, Why.LED),
        ([100] * 6, [101, 105, 110, 102, 104, 140], Why.LED),
        ([100] * 5, [200] * 5, Why.TOO_FEW),
        ([100], [200], Why.TOO_FEW),
        ([100] * 6, [200, 200, 200, 200, 200, 100], Why.NOT_SHOWN),  # a tie is not led
        ([100] * 6, [99, 99, 99, 101, 101, 102], Why.NOT_SHOWN),
        ([100] * 9, [99, *[200] * 8], Why.LED),
        ([100] * 9, [99, 99, *[200] * 7], Why.NOT_SHOWN),
        ([100, None], [None, 200], Why.NO_COMMON_ROUND),
        ([100] * 7, [None, *[200] * 6], Why.LED),
        ([100] * 6, [None, *[200] * 5], Why.TOO_FEW),
    ],
)
def test_what_shows_that_a_pager_is_the_fastest(
    uffd: list[float | None], other: list[float | None], why: Why
) -> None:
    answer = _answer(uffd=uffd, exit=other)
    assert answer.why is why
    assert answer.sure is (why is Why.LED)


def test_a_round_that_lacks_one_pager_counts_for_none() -> None:
    answer = _answer(**{
        "uffd": [100] * 7, "uffd,readers=4": [150] * 7, "exit": [None, *[200] * 5, 120],
    })  # fmt: skip
    assert (answer.rounds, answer.led, answer.why) == (6, 5, Why.NOT_SHOWN)


def test_variants_too_alike_to_tell_apart_may_be_the_fastest_kind_together() -> None:
    rates: dict[str, list[float | None]] = {
        "uffd": [100] * 6,
        "exit": [200, 199, 200, 199, 200, 199],
        "exit,uffds=per-vcpu": [199, 200, 199, 200, 199, 200],
    }
    answer = _answer(**rates)
    assert (answer.why, answer.led, answer.kind_led) == (Why.KIND_LED, 3, 6)
    assert not answer.sure
    slower = _answer(**{**rates, "uffd": [100] * 5 + [199.5]})
    assert (slower.why, slower.kind_led) == (Why.NOT_SHOWN, 5)


def test_one_pager_of_a_kind_is_the_kind_and_says_nothing_twice() -> None:
    assert _answer(uffd=[100] * 6, exit=[200] * 6).kind_led is None
    alike = _answer(**{"exit": [100] * 6, "exit,uffds=per-vcpu": [200] * 6})
    assert (alike.why, alike.kind_led) == (Why.LED, None)


def test_more_points_take_more_rounds() -> None:
    assert [rounds_needed(contests) for contests in (0, 1, 2, 3, 9, 18, 100)] == [
        6, 6, 7, 7, 9, 10, 12,
    ]  # fmt: skip
    point = _rounds(uffd=[100] * 8, exit=[200] * 8)
    assert [answer.why for answer in (answer_of(point, 1), answer_of(point, 9)) if answer] == [
        Why.LED, Why.TOO_FEW,
    ]  # fmt: skip


def test_every_point_where_pagers_contend_counts_and_one_with_many_variants_twice() -> None:
    two = _rounds(uffd=[100] * 2, exit=[200] * 2)
    alone = _rounds(none=[900] * 2, exit=[200] * 2)
    many = _rounds(**{
        "uffd": [1, 1], "uffd,readers=4": [2, 2], "uffd,fetch=blocking": [3, 3], "exit": [4, 4],
    })  # fmt: skip
    assert [contests_of(points) for points in ([], [two], [alone], [many], [two, alone, many])] == [
        0, 1, 0, 2, 3,
    ]  # fmt: skip


# What may happen in a round: an order of pagers, the fastest first. A claim is false where its
# pagers do not beat every other one in more than half of all rounds.


def _false_claims(
    kinds: Sequence[int], orders: Mapping[tuple[int, ...], float], rounds: int, least: int
) -> float:
    """Return exactly how likely it is that a false claim leads in `least` of `rounds` or more."""
    pagers = range(len(kinds))
    sets = {frozenset([pager]) for pager in pagers}
    sets |= {frozenset(p for p in pagers if kinds[p] == kind) for kind in set(kinds)}

    def beats(one: int, other: int) -> float:
        return sum(p for order, p in orders.items() if order.index(one) < order.index(other))

    false = [
        claim
        for claim in sets
        if any(beats(i, j) <= 0.5 for i in claim for j in pagers if j not in claim)
    ]
    by_claims: dict[tuple[bool, ...], float] = {}
    for order, p in orders.items():
        led = tuple(frozenset(order[: len(claim)]) == claim for claim in false)
        by_claims[led] = by_claims.get(led, 0.0) + p

    def likely(left: int, types: list[tuple[tuple[bool, ...], float]], counts: list[int]) -> float:
        (led, p), *rest = types
        if not rest:
            ends = [count + left * leads for count, leads in zip(counts, led, strict=True)]
            return p**left if max(ends, default=0) >= least else 0.0
        return sum(
            math.comb(left, n)
            * p**n
            * likely(left - n, rest, [c + n * leads for c, leads in zip(counts, led, strict=True)])
            for n in range(left + 1)
        )

    return likely(rounds, list(by_claims.items()), [0] * len(false))


def _drawn_orders(draw: random.Random, pagers: int) -> dict[tuple[int, ...], float]:
    every = list(permutations(range(pagers)))
    orders = draw.sample(every, min(len(every), draw.choice((2, 2, 3, 3, 4, 5))))
    parts = draw.choice((2, 4, 8, 16))
    cuts = sorted(draw.randrange(parts + 1) for _ in orders[1:])
    ends = zip([0, *cuts], [*cuts, parts], strict=True)
    return {order: (b - a) / parts for order, (a, b) in zip(orders, ends, strict=True) if b > a}


@pytest.mark.parametrize("kinds", [(0, 1), (0, 0), (0, 0, 0, 0), (0, 0, 1), (0, 0, 1, 1)])
@pytest.mark.parametrize(("rounds", "least"), [(6, 6), (10, 9)])
def test_no_noise_makes_false_claims_likelier_than_two_pagers_do(
    kinds: tuple[int, ...], rounds: int, least: int
) -> None:
    draw = random.Random(f"{kinds} {rounds}")
    limit = chance_of(rounds, least)
    found = [
        _false_claims(kinds, _drawn_orders(draw, len(kinds)), rounds, least) for _ in range(1000)
    ]
    assert max(found) <= limit + 1e-12
    assert max(found) == pytest.approx(limit)  # so that it was looked for where it matters


def test_a_third_of_a_kind_can_add_to_it_so_that_such_a_point_counts_twice() -> None:
    orders = {(0, 1, 2, 3): 0.25, (0, 3, 2, 1): 0.25, (2, 1, 0, 3): 0.25, (2, 3, 1, 0): 0.25}
    found = _false_claims((0, 0, 0, 1), orders, 6, 6)
    assert chance_of(6, 6) < found <= 2 * chance_of(6, 6)


# Whole results, of pagers with a common course of rounds and noise of their own.

VARIANTS = ("uffd", "exit", "exit,uffds=per-vcpu", "uffd,uffds=per-vcpu", "uffd,readers=4")


def _result(
    draw: random.Random, points: int, rounds: int, rates: Mapping[str, float], noise: float = 0.05
) -> Result:
    trials = []
    for point in range(points):
        for number in range(1, rounds + 1):
            course = draw.lognormvariate(0, 0.1)
            for spec, rate in rates.items():
                metrics = {RATE.key: rate * course * draw.lognormvariate(0, noise)}
                trials.append(fake_trial(spec, number, metrics=metrics, point=point))
    made = tuple(Point(options={"vcpus": n + 1}, pagers=tuple(rates)) for n in range(points))
    return fake_result(*trials, pagers=tuple(rates), points=made)


def _named(result: Result) -> list[Why]:
    points = points_of(result)
    contests = contests_of(points)
    answers = [answer_of(point, contests) for point in points]
    return [a.why for a in answers if a is not None and a.why in (Why.LED, Why.KIND_LED)]


@pytest.mark.parametrize("points", [1, 9])
@pytest.mark.parametrize("pagers", [2, 4, 5])
@pytest.mark.parametrize("rounds", [6, 7, 10, 20])
def test_a_result_of_identical_pagers_names_one_in_a_twentieth_of_all_at_most(
    points: int, pagers: int, rounds: int
) -> None:
    draw = random.Random(f"{points} {pagers} {rounds}")
    alike = dict.fromkeys(VARIANTS[:pagers], 1e5)
    results = 200 if points == 1 else 30
    named = sum(bool(_named(_result(draw, points, rounds, alike))) for _ in range(results))
    expected = results * FALSE_HEADLINES
    assert named <= expected + 3.5 * math.sqrt(expected)


@pytest.mark.parametrize(
    ("rounds", "points", "why"),
    [(6, 1, Why.LED), (10, 1, Why.LED), (10, 9, Why.LED)],
)
def test_a_lead_of_1_7_is_seen_through_noise(rounds: int, points: int, why: Why) -> None:
    draw = random.Random(17)
    rates = {**dict.fromkeys(VARIANTS[:4], 1e5), "exit": 1.7e5}
    for _ in range(20):
        assert _named(_result(draw, points, rounds, rates)) == [why] * points


def test_six_rounds_name_the_kind_whose_variants_are_alike() -> None:
    draw = random.Random(18)
    rates = {
        "uffd": 1e5,
        "uffd,uffds=per-vcpu": 1.25e5,
        "exit": 1.7e5,
        "exit,uffds=per-vcpu": 1.7e5,
    }
    named = [_named(_result(draw, 1, 6, rates)) for _ in range(60)]
    assert all(named)
    assert sum(found == [Why.KIND_LED] for found in named) > 50


def test_the_best_is_compared_with_the_next_one_and_with_the_best_of_another_kind() -> None:
    answer = _answer(**{
        "uffd": [100, 101, 99], "exit": [200, 203, 199], "exit,uffds=per-vcpu": [201, 199, 204],
    })  # fmt: skip
    assert answer.second is not None
    assert answer.other is not None
    assert answer.over_other is not None
    assert (answer.best.spec, answer.second.spec) == ("exit,uffds=per-vcpu", "exit")
    assert answer.other.spec == "uffd"
    assert answer.over_other.median == pytest.approx(2.01)


def test_the_next_one_is_not_told_twice_where_it_is_of_another_kind() -> None:
    answer = _answer(uffd=[100] * 3, exit=[200] * 3)
    assert (answer.other, answer.over_other) == (None, None)


def test_a_pager_alone_is_the_best_of_nothing() -> None:
    answer = _answer(uffd=[100, 100])
    assert (answer.why, answer.second, answer.lead, answer.baseline) == (
        Why.ALONE, None, None, None,
    )  # fmt: skip


def test_the_kernels_own_fault_never_wins_but_is_the_whole_of_the_share() -> None:
    answer = _answer(none=[9000] * 2, uffd=[100] * 2, exit=[300] * 2)
    assert answer.reference is not None
    assert answer.share is not None
    assert (answer.best.spec, answer.reference.spec) == ("exit", "none")
    assert answer.share.median == pytest.approx(1 / 30)
    assert _of_point(_rounds(none=[9000] * 2)) is None


def test_a_pager_with_a_failed_trial_neither_wins_nor_is_compared_with() -> None:
    result = _rounds(uffd=[100] * 3, exit=[300] * 3, none=[900] * 3)
    for spec in ("exit", "none"):
        failed = trial(spec, 2, 4, random.Random(1), status="failed")
        result = replace(result, trials=(*result.trials, failed))
    answer = _of_point(result)
    assert answer is not None
    assert (answer.best.spec, answer.why) == ("uffd", Why.ALONE)
    assert answer.share is None


def test_nothing_run_and_nothing_sound_have_no_answer() -> None:
    assert _of_point(sweep((2,), trials=())) is None
    failed = trial("uffd", 2, 1, random.Random(1), status="failed")
    assert _of_point(sweep((2,), ("uffd",), trials=(failed,))) is None
