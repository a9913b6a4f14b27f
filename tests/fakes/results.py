"""Synthetic results: records a test can state its arithmetic on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kvmpc.result.records import Result, TrialResult


def _make_trial(
    pager: str, round_number: int = 1, pages_per_s: float = 1000.0, **changes: object
) -> TrialResult:
    fields: dict[str, object] = {
        "pager": pager,
        "label": pager.replace("exit", "exit(sigbus)", 1),
        "fetches": not pager.startswith("none"),
        "round": round_number,
        "status": "ok",
        "error": None,
        "verified": "zeros" if pager == "none,host=cold" else "yes",
        "vcpus": 2,
        "expected_pages": 46,
        "sparse": False,
        "elapsed_ns": 46_000_000,
        "metrics": {
            "pages_per_s": pages_per_s,
            "mib_per_s": pages_per_s / 256,
            "cpu_s_per_gib": 2.5,
            "fault_p50_ns": 12_345.0,
            "fault_p99_ns": 999_900.0,
        },
        "counts": {"kvm_runs": 48, "installs": 46},
        "histogram_cycles": ((1024, 1087, 40), (2048, 2175, 6)),
        "guest_tsc_khz": 2_500_000.0,
        "guest_tsc_is_host_tsc": True,
        "per_vcpu": {"start_ns": (10, 20), "end_ns": (45_000_000, 46_000_000)},
        "per_reader": {"messages": (23, 23)},
        "pages_per_node": {"0": 46},
        "warnings": (),
    }
    if changes.get("status") == "failed":
        fields |= {"error": "vcpu1: page 22 holds the wrong tag", "verified": None, "metrics": {}}
    return TrialResult(**(fields | changes))  # type: ignore[arg-type]


def _make_result(*trials: TrialResult, **changes: object) -> Result:
    fields: dict[str, object] = {
        "tool_version": "0.1.0",
        "command": ("kvmpc", "compare", "--vcpus", "2"),
        "started": "2025-01-31T12:00:00+00:00",
        "finished": True,
        "options": {
            "vcpus": 2,
            "mem_per_vcpu_bytes": 64 << 20,
            "touch_pages": None,
            "order": "sequential",
            "access": "write",
            "overlap": False,
            "fetch_delay_ns": 0,
        },
        "pagers": tuple(dict.fromkeys(trial.pager for trial in trials)),
        "labels": tuple(dict.fromkeys(trial.label for trial in trials)),
        "host": {
            "kernel": {"release": "6.1.0-28-amd64"},
            "cpu": {"model": "AMD EPYC 7B13", "allowed": "0-7", "allowed_count": 8},
            "kvm": {"second_level_paging": "npt"},
        },
        "trials": trials,
        "warnings": (),
    }
    return Result(**(fields | changes))  # type: ignore[arg-type]


@pytest.fixture
def make_trial() -> Callable[..., TrialResult]:
    """Make a sound trial of a pager in a round; any field may be given another value."""
    return _make_trial


@pytest.fixture
def make_result() -> Callable[..., Result]:
    """Make a finished result of the trials given; any field may be given another value."""
    return _make_result
