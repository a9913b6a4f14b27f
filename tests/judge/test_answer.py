"""Who is the fastest: what is claimed, by which rounds, and what is not."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from kvmpc.judge.answer import Answer, Why, answer_of
from kvmpc.result.records import Result
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
    answer = answer_of(_rounds(**rates))
    assert answer is not None
    return answer


@pytest.mark.parametrize(
    ("uffd", "other", "why"),
    [
        ([100] * 6, [200] * 6, Why.INTERVAL_ABOVE_1),
        ([100] * 3, [200] * 3, Why.INTERVAL_ABOVE_1),
        ([100], [200], Why.ONE_ROUND),
        ([100] * 2, [200] * 2, Why.FEW_ROUNDS),
        ([100] * 3, [101, 105, 140], Why.TOO_NEAR),
        ([100] * 3, [99, 105, 140], Why.INTERVAL_HOLDS_1),
        ([100] * 6, [99, 99, 99, 101, 101, 102], Why.INTERVAL_HOLDS_1),
        ([100, None], [None, 200], Why.NO_COMMON_ROUND),
    ],
)
def test_what_shows_that_a_pager_is_the_fastest(
    uffd: list[float | None], other: list[float | None], why: Why
) -> None:
    answer = _answer(uffd=uffd, exit=other)
    assert answer.why is why
    assert answer.sure is (why is Why.INTERVAL_ABOVE_1)


def test_many_rounds_may_agree_less_well_than_few() -> None:
    rates = [101.0, 105, 110, 102, 104, 140]
    assert _answer(uffd=[100] * 6, exit=rates).sure
    assert not _answer(uffd=[100] * 5, exit=rates[1:]).sure


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
    assert answer_of(_rounds(none=[9000] * 2)) is None


def test_a_pager_with_a_failed_trial_neither_wins_nor_is_compared_with() -> None:
    result = _rounds(uffd=[100] * 3, exit=[300] * 3, none=[900] * 3)
    for spec in ("exit", "none"):
        failed = trial(spec, 2, 4, random.Random(1), status="failed")
        result = replace(result, trials=(*result.trials, failed))
    answer = answer_of(result)
    assert answer is not None
    assert (answer.best.spec, answer.why) == ("uffd", Why.ALONE)
    assert answer.share is None


def test_nothing_run_and_nothing_sound_have_no_answer() -> None:
    assert answer_of(sweep((2,), trials=())) is None
    failed = trial("uffd", 2, 1, random.Random(1), status="failed")
    assert answer_of(sweep((2,), ("uffd",), trials=(failed,))) is None
