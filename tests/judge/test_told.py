"""How cautions are told: once, in the words of the worst, this run's before the host's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kvmpc.caution import HOST, Caution
from kvmpc.judge.told import of_run, tell, worst
from kvmpc.result.records import Point

Make = Callable[..., Any]


def _skew(share: float) -> Caution:
    return Caution("start-skew", f"late by {share:.0%}", "more pages", size=share)


ALWAYS = Caution("nested-host", "it is itself a VM", "bare metal", kind=HOST)
SETTING = Caution("swap", "swap is on", "swapoff -a")


def test_the_worst_of_many_trials_is_quoted_whosever_it_is(
    make_result: Make, make_trial: Make
) -> None:
    shares = {"none": (0.08, 0.2, 0.1), "exit": (0.029, 0.03, 0.02)}
    trials = [
        make_trial(spec, n + 1, warnings=(_skew(shares[spec][n]),))
        for n in range(3)
        for spec in ("exit", "none")
    ]
    (told,) = tell([make_result(*trials)])
    assert told.text == "none: late by 20% (the worst; so or similar in 6 trials)"
    assert str(told) == f"{told.text}; more pages"
    assert told.places == ("exit(sigbus)", "none")


def test_texts_that_differ_in_more_than_numbers_are_one_thing(
    make_result: Make, make_trial: Make
) -> None:
    said = ("3 returns to Python", "a return to Python and more", "many returns")
    trials = [
        make_trial("uffd", n + 1, warnings=(Caution("rare-returns", text, "see", size=n),))
        for n, text in enumerate(said)
    ]
    (told,) = tell([make_result(*trials)])
    assert told.caution.text == "many returns"


def test_what_documents_without_sizes_say_is_told_in_the_words_of_the_first(
    make_result: Make, make_trial: Make
) -> None:
    trials = [
        make_trial("uffd", n, warnings=(Caution("start-skew", f"late by {n}", "x"),))
        for n in (1, 2, 3)
    ]
    assert tell([make_result(*trials)])[0].caution.text == "late by 1"


def test_this_run_comes_first_and_of_it_what_happened(make_result: Make, make_trial: Make) -> None:
    trials = [make_trial("uffd", n, warnings=(_skew(0.1),)) for n in (1, 2, 3)]
    during = {"elapsed_s": 10.0, "cpus_count": 4, "other_cpu_s": 30.0}
    result = make_result(*trials, warnings=(ALWAYS, SETTING), during=during)
    assert [told.code for told in tell([result])] == [
        "other-load", "start-skew", "swap", "nested-host",
    ]  # fmt: skip
    assert [told.code for told in worst([result], 2)] == ["other-load", "start-skew"]
    assert [told.code for told in of_run(tell([result]))] == ["other-load", "start-skew", "swap"]


def test_what_an_older_document_says_of_its_host_is_of_the_host(
    make_result: Make, make_trial: Make
) -> None:
    old = (Caution("mitigations", "they are on", "mitigations=off"), SETTING)
    trials = [make_trial("uffd", n) for n in (1, 2, 3)]
    told = tell([make_result(*trials, warnings=old)])
    assert [(each.code, each.caution.kind) for each in told] == [
        ("swap", "run"), ("mitigations", "host"),
    ]  # fmt: skip


def test_warm_ups_say_nothing_and_profiled_trials_when_asked(
    make_result: Make, make_trial: Make
) -> None:
    trials = [make_trial("uffd", n, warnings=(_skew(0.1),)) for n in (0, -1)]
    result = make_result(*trials, *(make_trial("uffd", n) for n in (1, 2, 3)))
    assert tell([result]) == []
    assert [told.times for told in tell([result], profiled=True)] == [1]


def test_a_trial_of_a_sweep_is_named_with_its_point(make_result: Make, make_trial: Make) -> None:
    trials = [
        make_trial("uffd", n, point=point, warnings=(_skew(0.1 + point),))
        for point in (0, 1)
        for n in (1, 2, 3)
    ]
    points = tuple(Point(options={"vcpus": n}, pagers=("uffd",)) for n in (1, 2))
    (told,) = tell([make_result(*trials, points=points)])
    assert told.where == "vcpus=2: uffd"
    assert told.times == 6


def test_several_runs_are_told_as_one(make_result: Make, make_trial: Make) -> None:
    def run(load: float) -> Any:
        during = {"elapsed_s": 10.0, "cpus_count": 4, "other_cpu_s": load}
        trials = [make_trial("uffd", n) for n in (1, 2, 3)]
        return make_result(*trials, during=during, warnings=(ALWAYS,))

    load, always = tell([run(10.0), run(30.0), run(20.0)])
    assert load.text.startswith("during the run other processes took 75%")
    assert load.text.endswith("(the worst; so or similar in 3 runs)")
    assert always.code == "nested-host"
