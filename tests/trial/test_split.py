"""The latency split on real KVM: parts that are there, that fit the whole, and change nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvmpc.result.records import TrialResult

pytestmark = pytest.mark.kvm

Run = Callable[..., TrialResult]

UFFD = {"noticed", "install", "install_back"}
EXIT = UFFD | {"back"}
SPECS = {
    "uffd": UFFD,
    "uffd,fetch=blocking": UFFD,
    "uffd,readers=2,uffds=per-vcpu": UFFD,
    "exit": EXIT,
    "exit,uffds=2": EXIT,
}


def parts_of(result: TrialResult) -> set[str]:
    """Return the parts whose p50 and p99 a trial has."""
    names = {"noticed", "fetch", "install", "back", "install_back"}
    return {n for n in names if {f"{n}_p50_ns", f"{n}_p99_ns"} <= result.metrics.keys()}


INVARIANT = {"constant_tsc", "nonstop_tsc"} <= set(Path("/proc/cpuinfo").read_text().split())


@pytest.fixture
def run_split(run: Run) -> Run:
    """Run a trial with --split; skip where guest and host share no TSC.

    Where the TSC is not invariant (under emulation), the kernel may call it unstable, and KVM then
    moves the guest's away from the host's (kvm_arch_vcpu_load): a split has to notice that itself.
    """

    def run_split(spec: str, **options: Any) -> TrialResult:
        result = run(spec, split=True, **options)
        assert result.error is None
        assert result.verified in ("yes", "zeros")
        if "split-clock" in {caution.code for caution in result.warnings}:
            pytest.skip("guest and host do not read one TSC here")
        if not INVARIANT and "split-order" in {caution.code for caution in result.warnings}:
            pytest.skip("the TSC is not invariant here, and has gone back")
        return result

    return run_split


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"access": "read", "order": "scattered", "touch_pages": 7},
        {"vcpus": 160, "order": "scattered"},
        {"vcpus": 1, "pages": 2},
        {"passes": 3},
    ],
)
def test_each_pager_has_the_parts_that_can_be_had_and_they_are_in_order(
    run_split: Run, spec: str, options: dict[str, Any]
) -> None:
    result = run_split(spec, **options)
    assert parts_of(result) == SPECS[spec]
    assert "split-order" not in {caution.code for caution in result.warnings}
    for part in SPECS[spec]:
        assert 0 < result.metrics[f"{part}_p50_ns"] <= result.metrics[f"{part}_p99_ns"]


@pytest.mark.parametrize("spec", SPECS)
def test_a_fetch_lasts_at_least_its_delay(run_split: Run, spec: str) -> None:
    result = run_split(spec, fetch_delay_ns=300_000)
    assert parts_of(result) == SPECS[spec] | {"fetch"}
    assert result.metrics["fetch_p50_ns"] >= 0.99 * 300_000


@pytest.mark.parametrize("spec", ["uffd", "exit"])
def test_with_one_vcpu_the_parts_make_up_the_whole(run_split: Run, spec: str) -> None:
    result = run_split(spec, vcpus=1, pages=997)
    metrics = result.metrics
    whole = metrics["fault_p50_ns"]
    # Medians of parts do not add up to the median of the whole; of one vCPU, alone, they nearly do.
    assert 0.5 * whole < metrics["noticed_p50_ns"] + metrics["install_back_p50_ns"] < 1.5 * whole


@pytest.mark.parametrize("spec", ["none", "none,host=populated"])
def test_where_nothing_is_fetched_all_parts_are_absent(run_split: Run, spec: str) -> None:
    assert parts_of(run_split(spec)) == set()
