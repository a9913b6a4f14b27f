"""Findings to a result: each key has one producer, and no caution is lost."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from kvmpc.caution import Caution
from kvmpc.pagers import parse_pager
from kvmpc.result.records import TrialResult
from kvmpc.trial.outcome import Finding, blank_result, fold
from kvmpc.units import PAGE_BYTES
from kvmpc.work.work import Work

BLANK = blank_result(Work(vcpus=3, mem_per_vcpu_bytes=23 * PAGE_BYTES), parse_pager("exit"), 7)

KEYED = [f.name for f in fields(Finding) if f.default_factory is dict]
SINGLE: dict[str, Any] = {
    "verified": "yes",
    "elapsed_ns": 997,
    "histogram_cycles": ((1, 2, 3),),
    "guest_tsc_khz": 2.5e6,
    "guest_tsc_is_host_tsc": False,
}


def test_every_field_of_a_finding_is_one_of_a_result() -> None:
    names = {f.name for f in fields(Finding)} - {"cautions"}
    assert names == {*KEYED, *SINGLE}
    assert names <= {f.name for f in fields(TrialResult)}


def test_nothing_found_is_a_blank_result() -> None:
    assert fold(BLANK, []) == fold(BLANK, [Finding(), Finding()]) == BLANK
    assert (BLANK.status, BLANK.round, BLANK.expected_pages) == ("ok", 7, 69)


def test_a_blank_result_with_an_error_has_failed() -> None:
    blank = blank_result(Work(vcpus=1, mem_per_vcpu_bytes=PAGE_BYTES), parse_pager("none"), 1,
                         error="no page came")  # fmt: skip
    assert (blank.status, blank.error, blank.metrics) == ("failed", "no page came", {})


@pytest.mark.parametrize("name", KEYED)
def test_keys_of_two_producers_are_joined(name: str) -> None:
    result = fold(BLANK, [Finding(**{name: {"a": 1}}), Finding(**{name: {"b": 2, "c": 3}})])
    assert getattr(result, name) == {"a": 1, "b": 2, "c": 3}


@pytest.mark.parametrize("name", KEYED)
def test_a_key_of_two_producers_is_an_error_that_names_it(name: str) -> None:
    found = [Finding(**{name: {"a": 1, "b": 2}}), Finding(), Finding(**{name: {"b": 2}})]
    with pytest.raises(ValueError, match=f"^{name} has two producers of b$"):
        fold(BLANK, found)


@pytest.mark.parametrize("name", SINGLE)
def test_a_field_of_two_producers_is_an_error_even_where_they_agree(name: str) -> None:
    found = Finding(**{name: SINGLE[name]})
    assert getattr(fold(BLANK, [Finding(), found]), name) == SINGLE[name]
    with pytest.raises(ValueError, match=f"^{name} has two producers$"):
        fold(BLANK, [found, found])


def test_every_producers_cautions_arrive_in_their_order() -> None:
    cautions = [Caution(f"code{n}", "text", "remedy") for n in range(5)]
    found = [
        Finding(cautions=tuple(cautions[:2])),
        Finding(),
        Finding(cautions=tuple(cautions[2:])),
    ]
    assert fold(BLANK, found).warnings == tuple(cautions)


def test_folding_leaves_findings_as_they_were() -> None:
    first = Finding(metrics={"a": 1.0})
    fold(BLANK, [first, Finding(metrics={"b": 2.0})])
    assert first.metrics == {"a": 1.0}
