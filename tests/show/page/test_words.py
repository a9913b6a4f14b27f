"""The answer in words: what it claims, and what it does not."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from kvmpc.judge.answer import contests_of
from kvmpc.judge.change import change_between
from kvmpc.judge.summary import Spread, summarise
from kvmpc.result.records import Result
from kvmpc.show.page import text
from kvmpc.show.page.panels import panels_of
from kvmpc.show.page.words import answer_in_words, change_in_words, work_of
from kvmpc.show.shell import shell_line
from tests.fakes.sweeps import sweep, trial


def _told(result: Result) -> str:
    panels = panels_of(result)
    contests = contests_of(point for panel in panels for point in panel.points)
    answer = answer_in_words(panels[0], contests)
    return " ".join([answer.lead, *answer.more])


def _rounds(**rates: list[float]) -> Result:
    """Return a result of one point with these rates, round by round."""
    chance = random.Random(1)
    trials = [
        replace(made, metrics={**made.metrics, "pages_per_s": rate})
        for spec, found in rates.items()
        for number, rate in enumerate(found, 1)
        for made in [trial(spec, 2, number, chance, rate=rate)]
    ]
    return sweep((2,), tuple(rates), trials=tuple(trials))


def test_a_clear_lead_is_told_with_its_interval_and_its_cost() -> None:
    told = _told(_rounds(uffd=[100, 101, 99, 100, 102, 98], exit=[200, 203, 199, 201, 200, 202]))
    assert told.startswith("exit(sigbus) is the fastest pager: 200.5 pages/s, 2.01 [")
    assert "How sure: it led in 6 of 6 rounds; 2.01 [" in told
    assert "] times uffd, the next." in told
    assert "CPU s for each GiB" in told


def test_pagers_that_lead_in_turn_are_not_told_apart() -> None:
    told = _told(_rounds(uffd=[100, 110, 90, 100, 105, 99], exit=[101, 95, 104, 108, 99, 100]))
    assert "that it is faster than uffd is not shown" in told
    assert "it led in 4 of 6 rounds, as often as chance makes one lead" in told


def test_a_kind_is_named_where_its_variants_are_too_alike() -> None:
    told = _told(_rounds(**{
        "uffd": [100] * 6,
        "exit": [200, 199, 200, 199, 200, 199],
        "exit,uffds=per-vcpu": [199, 200, 199, 200, 199, 200],
    }))  # fmt: skip
    assert told.startswith("Exit is the fastest kind of pager: exit(sigbus) has ")
    assert "in 6 of 6 rounds all of that kind were faster than every other" in told
    assert "Which of them is the fastest is not shown" in told


@pytest.mark.parametrize("rounds", [1, 2, 3, 5])
def test_few_rounds_claim_nothing_however_far_apart_and_say_how_many_could(rounds: int) -> None:
    told = _told(_rounds(uffd=[100] * rounds, exit=[6000] * rounds))
    assert "that it is faster than uffd is not shown" in told
    assert f"but {rounds} round{'s' * (rounds > 1)} can name none; 6 could" in told


def test_rounds_that_are_too_few_for_nine_points_say_how_many_could() -> None:
    told = _told(sweep(pagers=("uffd", "exit"), rounds=8))
    assert "8 rounds can name none of so many; 9 could" in told
    assert "the fastest" not in told
    assert "is the fastest pager" in _told(sweep(pagers=("uffd", "exit"), rounds=9))


def test_many_variants_at_one_point_are_many_too() -> None:
    rates = {"uffd": 100, "uffd,readers=4": 101, "uffd,fetch=blocking": 102, "exit": 200}
    told = _told(_rounds(**{spec: [float(rate)] * 6 for spec, rate in rates.items()}))
    assert "6 rounds can name none of so many; 7 could" in told


def test_a_pager_alone_is_not_called_the_fastest() -> None:
    assert "no other pager that fetches was measured" in _told(_rounds(uffd=[100, 100]))


def test_the_kernels_own_fault_is_never_the_winner() -> None:
    told = _told(_rounds(none=[9000, 9000], uffd=[100, 100], exit=[300, 300]))
    assert told.startswith("exit(sigbus)")
    assert "3.33%" in told
    assert "No pager that fetches gave a rate" in _told(_rounds(none=[9000, 9000]))


def test_a_sweep_says_who_leads_where() -> None:
    result = sweep((1, 2, 4, 8), ("uffd", "exit"), rounds=9)
    slow = [
        replace(t, metrics={**t.metrics, "pages_per_s": 1000.0 + t.round})
        if t.pager == "exit" and t.vcpus < 4
        else t
        for t in result.trials
    ]
    told = _told(replace(result, trials=tuple(slow)))
    assert told.startswith("At 8 vCPUs exit(sigbus) is the fastest pager")
    assert "uffd at 1 vCPU to 2 vCPUs; exit(sigbus) at 4 vCPUs to 8 vCPUs" in told


def test_a_variant_of_the_winner_does_not_hide_how_the_other_kind_stands() -> None:
    told = _told(_rounds(**{
        "uffd": [100, 101, 99], "exit": [200, 203, 199], "exit,uffds=per-vcpu": [201, 199, 204],
    }))  # fmt: skip
    assert "Of another kind, uffd has the highest: exit(sigbus),uffds=per-vcpu has 2.0" in told


def test_nothing_run_and_all_failed_are_said() -> None:
    assert "No trial was run" in _told(sweep((2,), trials=()))
    chance = random.Random(1)
    failed = trial("uffd", 2, 1, chance, status="failed")
    assert "every measured trial failed" in _told(sweep((2,), ("uffd",), trials=(failed,)))


def test_the_work_of_a_sweep_lists_what_was_swept() -> None:
    assert "vcpus=1; " in work_of(sweep((1,), rounds=1))
    told = work_of(sweep((1, 2), rounds=1, more={"fetch_delay_ns": [0, 1000]}))
    assert "fetch_delay=0ns, 1us; vcpus=1, 2" in told


def test_a_row_that_became_slower_is_named_worst_first_and_equal_ones_are_not() -> None:
    before = sweep((1, 8), ("uffd", "exit"), rounds=10, seed=1)
    after = sweep((1, 8), ("uffd", "exit"), rounds=10, seed=2,
                  factor=lambda spec: 0.7 if spec == "uffd" else 1.0)  # fmt: skip
    told = change_in_words(change_between(before, after))
    assert told.startswith("2 of 4 rows are slower after: uffd at")
    assert "exit" not in told


def test_two_runs_alike_are_said_to_be_unchanged() -> None:
    runs = (sweep((1, 8), ("uffd", "exit"), rounds=10, seed=seed) for seed in (1, 2))
    assert change_in_words(change_between(*runs)) == "No change of rate is shown: none of 4 rows."


def test_few_rounds_a_side_say_that_they_can_show_nothing() -> None:
    one = sweep((1,), ("uffd",), rounds=1)
    assert change_in_words(change_between(one, one)) == (
        "No change of rate can be shown: 1 row would take 4 rounds on each side, and there is 1."
    )
    many = sweep(rounds=6)
    assert "54 rows would take 7 rounds on each side, and there are 6" in change_in_words(
        change_between(many, many)
    )


def test_a_command_is_quoted_so_that_a_shell_reads_it_back() -> None:
    assert shell_line(["kvmpc", "a b", "it's"]) == "kvmpc 'a b' 'it'\"'\"'s'"
    assert shell_line(["x\udcff\n'"]) == "$'x\\xff\\x0a\\''"


def test_an_interval_says_a_unit_once() -> None:
    assert text.span(8100, 9400, text.duration) == "[8.1-9.4 us]"
    assert text.span(810, 9400, text.duration) == "[810 ns-9.4 us]"
    assert text.span(1200, 1300, text.short) == "[1.2-1.3k]"
    assert text.span(1, 2) == "[1.00-2.00]"


def test_a_range_is_called_one_wherever_it_stands_and_an_interval_is_in_brackets() -> None:
    few, enough = (summarise([1.5, 2.0, *[1.75] * n]) for n in (1, 4))
    assert text.interval(few) == "1.75 (range 1.50-2.00)"
    assert text.interval(enough) == "1.75 [1.50-2.00]"
    assert text.interval(summarise([1.5])) == "1.50"
    assert text.ends(1, 2, Spread.BOUNDS) == "(bounds 1.00-2.00)"
