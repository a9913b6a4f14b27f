"""What starved trials leave of a row: they are in no number, and few others are none either."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kvmpc.errors import MismatchError
from kvmpc.judge.answer import answer_of
from kvmpc.judge.criteria import Criteria
from kvmpc.judge.regression import Status, Unjudged, check
from kvmpc.judge.rows import Outcome, compare_rows, measured_trials, usable_trials
from kvmpc.judge.starved import host_too_busy, is_busy, rounds_left
from kvmpc.result.metrics import CPU, LOST, RATE
from kvmpc.result.records import Point, Result, TrialResult

Make = Callable[..., Any]


@pytest.fixture
def rounds(make_trial: Make) -> Callable[..., list[TrialResult]]:
    """Return trials of a pager, a letter each: ``.`` good, ``x`` starved, a blank ends a round."""

    def rounds(spec: str, rates: str, good: float = 1000.0, lost: float = 0.6) -> list[TrialResult]:
        return [
            make_trial(
                spec, number, starved=one == "x",
                metrics={
                    RATE.key: good * (0.2 if one == "x" else 1), CPU.key: 2.5,
                    LOST.key: lost if one == "x" else 0.01,
                },
            )
            for number, of_round in enumerate(rates.split(), start=1)
            for one in of_round
        ]  # fmt: skip

    return rounds


def _row(result: Result, spec: str) -> Any:
    return next(row for row in compare_rows(result) if row.spec == spec)


def test_a_starved_trial_is_in_no_number(make_result: Make, rounds: Make) -> None:
    result = make_result(*rounds("uffd", "x. . ."), *rounds("exit", ". xx. .", 2000))
    uffd, exits = compare_rows(result)
    assert uffd.rate.low == uffd.rate.high == 1000
    assert exits.ratio.low == exits.ratio.high == 2
    assert (uffd.outcome, exits.outcome) == (Outcome.YES, Outcome.YES)
    assert (uffd.starved_trials, exits.starved_trials) == (1, 2)
    assert "in 2 of 5 trials, 3 of 3 rounds are left" in exits.starved
    assert len(measured_trials(result, "exit")) == 3
    assert host_too_busy(result) is None


@pytest.mark.parametrize(
    ("of_rounds", "busy"),
    [
        (". . . .", False),
        ("xxx . xxx .", False),
        ("xxx . xxx xxx", True),
        ("xxx", True),
        ("xxx xxx .", True),
        ("x. x. x.", False),
        ("x", True),
    ],
)
def test_a_row_with_less_than_half_of_its_rounds_has_no_number(
    make_result: Make, rounds: Make, of_rounds: str, busy: bool
) -> None:
    result = make_result(*rounds("uffd", of_rounds))
    row = _row(result, "uffd")
    assert is_busy(result, "uffd") is row.busy is busy
    assert (row.rate is None) is (row.outcome is Outcome.BUSY) is busy
    assert bool(usable_trials(result, "uffd")) is not busy
    assert (host_too_busy(result) is not None) is busy


def test_a_warm_up_that_was_starved_takes_nothing_away(make_result: Make, make_trial: Make) -> None:
    warm_up = make_trial("uffd", 0, starved=True)
    result = make_result(warm_up, make_trial("uffd", 1))
    assert rounds_left(result, "uffd") == (1, 1)
    assert _row(result, "uffd").starved == ""


def test_a_failure_is_worse_than_a_busy_host(make_result: Make, make_trial: Make) -> None:
    result = make_result(
        make_trial("uffd", 1, starved=True), make_trial("uffd", 2, status="failed")
    )
    assert _row(result, "uffd").outcome is Outcome.FAILED


def test_nothing_refers_to_a_busy_row_and_it_wins_nothing(make_result: Make, rounds: Make) -> None:
    result = make_result(
        *rounds("none", "xxx xxx xxx"), *rounds("uffd", "xxx xxx ."), *rounds("exit", ". . .")
    )
    row = _row(result, "exit")
    assert row.rate is not None
    assert row.ratio is None
    assert row.share_of_none is None
    answer = answer_of(result, 1)
    assert answer is not None
    assert answer.best.spec == "exit"
    assert answer.second is None


def test_what_is_said_of_a_busy_host_names_the_worst_row_and_the_limit(
    make_result: Make, rounds: Make
) -> None:
    result = make_result(
        *rounds("uffd", "xxx", lost=0.31), *rounds("exit", "xxx", lost=0.83),
        options={"vcpus": 2, "busy_limit": 0.1},
    )  # fmt: skip
    said = str(host_too_busy(result))
    assert "this host is too busy to compare: others had up to 83% of the CPU time" in said
    assert "exit(sigbus) (the worst of 2 such rows); 10% is allowed" in said
    assert "\n  remedy: " in said
    single = make_result(*rounds("uffd", "xxx"), options={"busy_limit": None})
    assert "too busy to measure" in str(host_too_busy(single))


def test_a_sweep_names_the_point(make_result: Make, make_trial: Make) -> None:
    trials = [make_trial("uffd", 1, point=0), make_trial("uffd", 1, point=1, starved=True)]
    points = tuple(Point(options={"vcpus": n}, pagers=("uffd",)) for n in (1, 8))
    assert "uffd at vcpus=8" in str(host_too_busy(make_result(*trials, points=points)))


def test_a_check_does_not_judge_a_row_whose_host_was_busy(make_result: Make, rounds: Make) -> None:
    alike = " ".join("." * 10)
    before = make_result(*rounds("uffd", alike), *rounds("exit", alike))
    after = make_result(*rounds("uffd", alike), *rounds("exit", "xxx " * 9 + "."))
    found = check([before], [after], Criteria())
    exits = [verdict for verdict in found.verdicts if verdict.pair.spec == "exit"]
    assert exits
    assert {verdict.status for verdict in exits} == {Status.UNJUDGED}
    assert all(
        isinstance(verdict, Unjudged) and "the host of the result was too busy" in verdict.reason
        for verdict in exits
    )
    assert all(v.status is Status.SAME for v in found.verdicts if v.pair.spec == "uffd")


def test_a_check_of_nothing_but_busy_rows_is_no_pass(make_result: Make, rounds: Make) -> None:
    good, busy = (make_result(*rounds("uffd", " ".join(one * 10))) for one in ".x")
    for sides in ((good, busy), (busy, good), (busy, busy)):
        with pytest.raises(MismatchError, match="too busy"):
            check([sides[0]], [sides[1]], Criteria())


def test_of_several_runs_a_busy_one_is_left_out(make_result: Make, rounds: Make) -> None:
    alike = " ".join("." * 10)
    good = [make_result(*rounds("uffd", alike, 1000 + n)) for n in range(8)]
    busy = make_result(*rounds("uffd", " ".join("x" * 10)))
    found = check(good, [*good[:7], busy], Criteria())
    assert {verdict.numbers.new_n for verdict in found.verdicts if verdict.numbers} == {7}  # type: ignore[union-attr]
