"""The answer in words: what it claims, and what it does not."""

from __future__ import annotations

import random
from dataclasses import replace

from kvmpc.judge.change import change_between
from kvmpc.result.records import Result
from kvmpc.show.page import text
from kvmpc.show.page.panels import panels_of
from kvmpc.show.page.words import answer_in_words, change_in_words, work_of
from tests.fakes.sweeps import sweep, trial


def _told(result: Result) -> str:
    answer = answer_in_words(panels_of(result)[0])
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
    told = _told(_rounds(uffd=[100, 101, 99, 100, 102], exit=[200, 203, 199, 201, 200]))
    assert told.startswith("exit(sigbus) is the fastest pager: 200 pages/s, 2.01 [")
    assert "times uffd, the next, over 5 rounds: the interval lies above 1" in told
    assert "CPU s for each GiB" in told


def test_pagers_whose_interval_holds_1_are_not_told_apart() -> None:
    told = _told(_rounds(uffd=[100, 110, 90, 100, 105], exit=[101, 95, 104, 108, 99]))
    assert "that it is faster than uffd is not shown" in told
    assert "the interval holds 1, so the two are not told apart" in told


def test_three_rounds_that_agree_only_just_show_nothing_and_three_that_agree_do() -> None:
    near = _told(_rounds(uffd=[100, 100, 100], exit=[101, 105, 140]))
    assert "too near to 1" in near
    assert "it is their range" in near
    far = _told(_rounds(uffd=[100, 100, 100], exit=[6000, 6100, 6200]))
    assert "is the fastest pager" in far


def test_one_round_claims_nothing() -> None:
    told = _told(_rounds(uffd=[100], exit=[200]))
    assert "is not shown" in told
    assert "one round only" in told
    assert "--rounds" in told


def test_two_rounds_claim_nothing_however_alike() -> None:
    assert "two rounds do not show" in _told(_rounds(uffd=[100, 100], exit=[200, 200]))


def test_a_pager_alone_is_not_called_the_fastest() -> None:
    assert "no other pager that fetches was measured" in _told(_rounds(uffd=[100, 100]))


def test_the_kernels_own_fault_is_never_the_winner() -> None:
    told = _told(_rounds(none=[9000, 9000], uffd=[100, 100], exit=[300, 300]))
    assert told.startswith("exit(sigbus)")
    assert "3.33%" in told
    assert "No pager that fetches gave a rate" in _told(_rounds(none=[9000, 9000]))


def test_a_sweep_says_who_leads_where() -> None:
    result = sweep((1, 2, 4, 8), ("uffd", "exit"), rounds=5)
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
    assert "Of another kind, uffd is the fastest" in told


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
    assert told.startswith("2 of 4 rows became slower: uffd at")
    assert "exit" not in told


def test_one_round_a_side_says_nothing_of_a_change() -> None:
    one = sweep((1,), ("uffd",), rounds=1)
    assert "nothing can be said" in change_in_words(change_between(one, one))


def test_a_command_is_quoted_so_that_a_shell_reads_it_back() -> None:
    assert text.shell_line(["kvmpc", "a b", "it's"]) == "kvmpc 'a b' 'it'\"'\"'s'"
    assert text.shell_line(["x\udcff\n'"]) == "$'x\\xff\\x0a\\''"


def test_an_interval_says_a_unit_once() -> None:
    assert text.span(8100, 9400, text.duration) == "[8.1-9.4 us]"
    assert text.span(810, 9400, text.duration) == "[810 ns-9.4 us]"
    assert text.span(1200, 1300, text.short) == "[1.2-1.3k]"
    assert text.span(1, 2) == "[1.00-2.00]"
