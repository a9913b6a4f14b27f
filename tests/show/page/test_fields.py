"""Every field of a result reaches the page, or is left out on purpose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

import pytest

from kvmpc.caution import Caution
from kvmpc.result.records import Point, Result, TrialResult, Turns
from tests.fakes.sweeps import complete, skipped, sweep

BASE = complete(sweep((2,), ("none", "uffd"), rounds=2))

OF_RESULT: Mapping[str, tuple[Any, str]] = {
    "tool_version": ("9.8.7", "kvmpc 9.8.7"),
    "command": (("kvmpc", "odd-word"), "kvmpc odd-word"),
    "started": ("2031-03-04T05:06:07+00:00", "2031-03-04"),
    "finished": (False, "is unfinished"),
    "options": ({**BASE.options, "order": "odd-order"}, "order=odd-order"),
    "pagers": ((*BASE.pagers, "odd-pager"), "odd-pager"),
    "labels": (("none", "odd-label"), "odd-label"),
    "pager_infos": ((replace(BASE.pager("uffd"), label="odd-info"),), "odd-info"),
    "host": ({**BASE.host, "odd": {"fact": "odd-value"}}, "odd-value"),
    "trials": ((), "No trial was run"),
    "warnings": ((Caution("odd", "odd-caution", "odd-remedy"),), "odd-remedy"),
    "points": ((Point(options={"vcpus": 771}, pagers=BASE.pagers),), "vcpus=771"),
    "skipped": ((skipped(0, "uffd", "odd-reason"),), "odd-reason"),
    "spec": ("odd-key = 1", "odd-key = 1"),
    "question": ("Is it odd?", "Asked: Is it odd?"),
    "turns": (
        Turns(id="ab", side="new", command="odd-command", new_first=(True,), last_rounds=(2,)),
        "The side new of two that were measured in turn, in 1 of 1 blocks; before each block: "
        "odd-command",
    ),
    "during": ({"elapsed_s": 10, "cpus_count": 4, "other_cpu_s": 20}, "other processes took 50%"),
}
"""Field -> a value, and what the page then says."""

FAILS = {"status": "failed", "error": "odd-error"}
OF_TRIAL: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "pager": ({"pager": "another"}, ""),
    "label": ({"label": "exit(sigbus)"}, "a pessimistic stand-in"),
    "fetches": ({"fetches": False}, "No pager that fetches gave a rate"),
    "round": ({"round": 1}, ""),
    "status": (FAILS, "FAILED"),
    "error": (FAILS, "odd-error"),
    "verified": ({"verified": None}, ""),
    "expected_pages": ({"expected_pages": 7}, ""),
    "elapsed_ns": ({"elapsed_ns": 7_770_000_000}, "7.77 s"),
    "metrics": ({"metrics": {"pages_per_s": 71_230.0}}, "71,230"),
    "counts": ({"counts": {"switches_odd": 9999}}, "context switches odd"),
    "histogram_cycles": ({"histogram_cycles": ((0, 249_999, 777),)}, "100 us"),
    "guest_tsc_khz": ({"guest_tsc_khz": 1e3}, ""),
    "per_vcpu": ({"per_vcpu": {"start_ns": (0, 0), "end_ns": (100, 777)}}, "1.77"),
    "warnings": ({"warnings": (Caution("odd", "odd-text", "odd-remedy"),)}, "odd-text"),
    "point": ({"point": 1}, ""),
    "kvm_stats": ({"kvm_stats": {"odd_stat": 9999}}, "odd_stat"),
    "timeline": ({"timeline": {}}, ""),
    "profile": ({"profile": None}, ""),
    "starved": ({"starved": True}, "0 of 2 rounds are left"),
}
"""Field -> how it changes in every trial of uffd, and what the page then says, if any one thing."""

LEFT_OUT = {
    "vcpus": "the point's options say it",
    "sparse": "the point's options say how many pages are touched",
    "guest_tsc_is_host_tsc": "what follows from it is in the metrics, or absent",
    "per_reader": "too much of it; what is wrong with it is a caution",
    "pages_per_node": "what is wrong with it is a caution",
}
"""Field of a trial -> why no page has it: the result file does."""


def _with(changes: Mapping[str, Any]) -> Result:
    trials = tuple(replace(t, **changes) if t.pager == "uffd" else t for t in BASE.trials)
    points = tuple(Point(options={"vcpus": n}, pagers=BASE.pagers) for n in (2, 3))
    return replace(BASE, trials=trials, points=points if "point" in changes else ())


def test_no_field_is_forgotten() -> None:
    assert {field.name for field in fields(Result)} == set(OF_RESULT)
    assert {field.name for field in fields(TrialResult)} == {*OF_TRIAL, *LEFT_OUT}


@pytest.mark.parametrize("name", OF_RESULT)
def test_a_field_of_a_result_reaches_the_page(told: Callable[[Result], str], name: str) -> None:
    value, text = OF_RESULT[name]
    before, after = told(BASE), told(replace(BASE, **{name: value}))
    assert text in after
    assert text not in before


@pytest.mark.parametrize("name", OF_TRIAL)
def test_a_field_of_a_trial_reaches_the_page(told: Callable[[Result], str], name: str) -> None:
    changes, text = OF_TRIAL[name]
    before, after = told(BASE), told(_with(changes))
    assert before != after
    assert text in after
    assert not text or text not in before


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_is_left_out_on_purpose_changes_no_page(
    told: Callable[[Result], str], name: str
) -> None:
    odd = {
        "vcpus": 771, "sparse": True, "guest_tsc_is_host_tsc": False,
        "per_reader": {"reads": (771,)}, "pages_per_node": {"1": 771},
    }  # fmt: skip
    assert told(_with({name: odd[name]})) == told(BASE)
