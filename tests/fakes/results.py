"""Results that nobody measured: records a test can state its arithmetic on.

The one maker of trials and results. Pagers are parsed, so that specs, labels and keys are those
that a run writes; metrics and counts are some of those that a trial has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import pytest

from kvmpc.errors import UsageError
from kvmpc.pagers import parse_pager
from kvmpc.result.metrics import CPU, FAULT_P50, FAULT_P99, MIB_RATE, RATE
from kvmpc.result.pager_info import PagerInfo, pager_of_spelling
from kvmpc.result.records import FAILED, Result, TrialResult
from kvmpc.run.describe import pager_info
from kvmpc.units import MIB
from kvmpc.work.work import Work

__all__ = ["WORK", "fake_result", "fake_trial", "info_of", "make_result", "make_trial"]

WORK = Work(vcpus=2, mem_per_vcpu_bytes=64 * MIB)


def info_of(spec: str) -> PagerInfo:
    """Return what the pager of `spec` is; one that nobody knows may be a later kvmpc's."""
    try:
        return pager_info(parse_pager(spec))
    except UsageError:
        return pager_of_spelling(spec, spec)


def fake_trial(
    spec: str,
    round_number: int = 1,
    pages_per_s: float = 1000.0,
    *,
    work: Work = WORK,
    metrics: Mapping[str, float] | None = None,
    **changes: Any,
) -> TrialResult:
    """Return a sound trial of a pager on `work`; any field may be given another value.

    metrics: instead of those that are made up. A failed one has none, and an error.
    """
    info = info_of(spec)
    pages = work.expected_pages
    elapsed_ns = round(pages / pages_per_s * 1e9) if pages_per_s else 10**9
    made_up = {
        RATE.key: pages_per_s,
        MIB_RATE.key: pages_per_s / 256,
        CPU.key: 2.5,
        FAULT_P50.key: 12_345.0,
        FAULT_P99.key: 999_900.0,
    }
    fields: dict[str, Any] = {
        "pager": info.spec,
        "label": info.label,
        "fetches": info.fetches,
        "round": round_number,
        "status": "ok",
        "error": None,
        "verified": "zeros" if info.keys.get("host") == "cold" else "yes",
        "vcpus": work.vcpus,
        "expected_pages": pages,
        "sparse": work.sparse,
        "elapsed_ns": elapsed_ns,
        "metrics": made_up if metrics is None else metrics,
        "counts": {"kvm_runs": pages + 2} | ({"installs": pages} if info.fetches else {}),
        "histogram_cycles": ((1024, 1087, pages - 6), (2048, 2175, 6)),
        "guest_tsc_khz": 2_500_000.0,
        "guest_tsc_is_host_tsc": True,
        "per_vcpu": {"start_ns": (1000,) * work.vcpus, "end_ns": (elapsed_ns,) * work.vcpus},
        "per_reader": {"received": (pages,)} if info.kind == "uffd" else {},
        "pages_per_node": {"0": pages},
        "warnings": (),
    }
    if changes.get("status") == FAILED:
        fields |= {"error": "vcpu1: page 22 holds the wrong tag", "verified": None, "metrics": {}}
    return TrialResult(**(fields | changes))


def fake_result(*trials: TrialResult, work: Work = WORK, **changes: Any) -> Result:
    """Return a finished result of the trials given; any field may be given another value.

    pagers: those of the trials, where not given; what is said of them goes with them.
    """
    pagers = changes.get("pagers", tuple(dict.fromkeys(trial.pager for trial in trials)))
    labels = {trial.pager: trial.label for trial in trials}
    infos = {spec: info_of(spec) for spec in pagers}
    fields: dict[str, Any] = {
        "tool_version": "0.1.0",
        "command": ("kvmpc", "compare", "--vcpus", "2"),
        "started": "2025-01-31T12:00:00+00:00",
        "finished": True,
        "options": asdict(work),
        "pagers": pagers,
        "labels": tuple(labels.get(spec, info.label) for spec, info in infos.items()),
        "host": {
            "kernel": {"release": "6.1.0-28-amd64"},
            "cpu": {"model": "AMD EPYC 7B13", "allowed": "0-7", "allowed_count": 8},
            "kvm": {"second_level_paging": "npt"},
        },
        "trials": trials,
        "warnings": (),
    }
    # Of a label that a test made up, its spelling is all there is.
    if fields["labels"] == tuple(info.label for info in infos.values()) and "labels" not in changes:
        fields["pager_infos"] = tuple(infos.values())
    return Result(**(fields | changes))


@pytest.fixture
def make_trial() -> Callable[..., TrialResult]:
    """Make a sound trial of a pager in a round; any field may be given another value."""
    return fake_trial


@pytest.fixture
def make_result() -> Callable[..., Result]:
    """Make a finished result of the trials given; any field may be given another value."""
    return fake_result
