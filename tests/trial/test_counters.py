"""Context switches and KVM's own counters in a trial's result, and how they stand to ours."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import Any

import pytest

from kvmpc.abi import kvm as abi
from kvmpc.errors import KernelError
from kvmpc.kernel import kvm_stats
from kvmpc.kernel.kvm import Kvm
from kvmpc.result.records import TrialResult
from kvmpc.trial.kvm_counters import TrialStats
from kvmpc.trial.rig import Rig

pytestmark = pytest.mark.kvm

Run = Callable[..., TrialResult]

PAGERS = ("none", "none,host=populated", "uffd", "uffd,readers=2", "exit", "exit,uffds=per-vcpu")


@pytest.fixture
def offered(kvm: Kvm) -> None:
    """Skip where KVM has no binary statistics."""
    if not kvm.check_extension(abi.KVM_CAP_BINARY_STATS_FD):
        pytest.skip("KVM_CAP_BINARY_STATS_FD is not offered (Linux 5.14)")


def test_a_vcpu_sleeps_once_a_page_in_uffd_and_never_in_exit(run: Run) -> None:
    """What the pagers are compared for: the fault that sleeps, and the one that comes back."""
    uffd = run("uffd", pages=997, vcpus=1)
    assert uffd.counts["switches_voluntary_vcpus"] >= 0.9 * 997
    assert uffd.counts["switches_voluntary_readers"] > 0
    leaves = run("exit", pages=997, vcpus=1)
    assert leaves.counts["switches_voluntary_vcpus"] < 0.1 * 997
    assert "switches_voluntary_readers" not in leaves.counts
    for result in (uffd, leaves):
        assert (
            sum(result.per_vcpu["switches_voluntary"])
            == (result.counts["switches_voluntary_vcpus"])
        )


@pytest.mark.usefixtures("offered")
@pytest.mark.parametrize("spec", PAGERS)
def test_kvms_counters_agree_with_ours(run: Run, spec: str) -> None:
    result = run(spec, pages=997)
    assert result.error is None
    assert [w for w in result.warnings if w.code.startswith("kvm-stats")] == []
    assert result.kvm_stats["exits"] >= result.counts["kvm_runs"]
    assert result.kvm_stats["mmio_exits"] == 0


@pytest.mark.usefixtures("offered")
@pytest.mark.parametrize("spec", ["uffd", "exit"])
def test_counters_are_deltas_of_all_vcpus(run: Run, spec: str) -> None:
    """Not of what it took to come to the gate, and not of one vCPU alone."""
    small, large = (run(spec, pages=pages, vcpus=3) for pages in (23, 997))
    if "pf_taken" not in small.kvm_stats:
        pytest.skip("this kernel has no pf_taken (Linux 6.0)")
    faults = [result.kvm_stats["pf_taken"] for result in (small, large)]
    assert 3 * 23 <= faults[0] < 3 * 23 * 5
    assert faults[1] - faults[0] >= 3 * (997 - 23)


@pytest.mark.usefixtures("offered")
def test_accesses_that_kvm_emulates_agree_too(run: Run) -> None:
    """In ring 0 a KVM without hardware paging emulates the guest."""
    result = run("exit", pages=23, ring=0)
    assert result.error is None
    assert [w for w in result.warnings if w.code.startswith("kvm-stats")] == []


@pytest.mark.usefixtures("offered")
@pytest.mark.parametrize(
    ("number", "codes"), [(errno.ENOTTY, []), (errno.EMFILE, ["kvm-stats-unread"])]
)
def test_a_trial_does_without_counters(
    run: Run, monkeypatch: pytest.MonkeyPatch, number: int, codes: list[str]
) -> None:
    def fail(*_: Any) -> None:
        raise KernelError("KVM_GET_STATS_FD", number)

    monkeypatch.setattr(kvm_stats, "StatsFd", fail)
    result = run("exit")
    assert result.error is None
    assert result.kvm_stats == {}
    assert [w.code for w in result.warnings if w.code.startswith("kvm-stats")] == codes


def test_a_failed_trial_has_no_counters(run: Run) -> None:
    def fail(*_: Any) -> None:
        raise KernelError("made up", errno.EIO)

    result = run("exit", before_ready=fail)
    assert result.status == "failed"
    assert result.kvm_stats == {}


@pytest.mark.parametrize("spec", ["uffd", "exit"])
def test_counters_are_read_before_the_gate_and_after_the_last_page(
    run: Run, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    """So they cost nothing that is measured, however many vCPUs there are to read."""
    moments: dict[str, int] = {}
    begin, end = TrialStats.begin, TrialStats.end

    def beginning(self: TrialStats) -> None:
        begin(self)
        moments["begun"] = time.monotonic_ns()

    def ending(self: TrialStats) -> None:
        moments["ending"] = time.monotonic_ns()
        end(self)

    def note(rig: Rig) -> None:
        moments["gate"] = rig.gate.gate_ns
        moments["last"] = max(record.end_ns for record in rig.vcpu_records)

    monkeypatch.setattr(TrialStats, "begin", beginning)
    monkeypatch.setattr(TrialStats, "end", ending)
    assert run(spec, vcpus=7, before_verify=note).error is None
    assert moments["begun"] < moments["gate"] < moments["last"] < moments["ending"]


@pytest.mark.usefixtures("offered")
def test_reading_holds_one_descriptor_at_a_time(
    run: Run, held: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, seen = held().fds, []
    real = kvm_stats.StatsFd

    def counted(owner: Any) -> Any:
        fd = real(owner)
        seen.append(held().fds)
        return fd

    run("exit", vcpus=1)
    monkeypatch.setattr(kvm_stats, "StatsFd", counted)
    run("exit", vcpus=7)
    assert len(seen) == 2 * (1 + 7)
    assert len(set(seen)) == 1
    assert held().fds == before
