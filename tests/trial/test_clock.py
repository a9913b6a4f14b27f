"""Guest and host read the same clock, and the loops' stamps enclose the guest's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from kvmpc.host.facts import collect
from kvmpc.kernel.kvm import Kvm, Vcpu
from kvmpc.result.histogram import bucket_bounds
from kvmpc.result.records import TrialResult
from kvmpc.trial.rig import Rig

pytestmark = pytest.mark.kvm


@dataclass(frozen=True)
class Span:
    """TSC cycles from start to end of one vCPU, as the host's loop and as the guest saw it."""

    host_start: int
    host_end: int
    guest_start: int
    guest_end: int


def _spans_into(found: list[Span]) -> Callable[[Rig], None]:
    """Return a hook that notes every vCPU's span."""

    def note(rig: Rig) -> None:
        for index, record in enumerate(rig.vcpu_records):
            guest = rig.guest.record(index)
            found.append(
                Span(record.start_cycles, record.end_cycles, guest.start_cycles, guest.end_cycles)
            )

    return note


@pytest.fixture
def invariant_tsc() -> None:
    """Skip where no rate and no offset of the TSC holds: on a processor that QEMU emulates."""
    cpu = collect().get("cpu")
    if not isinstance(cpu, dict) or not (cpu.get("constant_tsc") and cpu.get("nonstop_tsc")):
        pytest.skip("the TSC is not invariant here")


def _shares_tsc(kvm: Kvm) -> bool:
    with kvm.create_vm() as vm:
        return vm.create_vcpu(0).share_host_tsc()


@pytest.mark.usefixtures("invariant_tsc")
@pytest.mark.parametrize("spec", ["none", "uffd", "exit"])
def test_a_guest_with_the_hosts_tsc_runs_within_the_hosts_stamps(
    run: Callable[..., TrialResult], kvm: Kvm, spec: str
) -> None:
    if not _shares_tsc(kvm):
        pytest.skip("KVM_VCPU_TSC_OFFSET is not offered here")
    spans: list[Span] = []
    assert run(spec, pages=997, before_verify=_spans_into(spans)).error is None
    assert len(spans) == 3
    for span in spans:
        assert span.host_start <= span.guest_start < span.guest_end <= span.host_end


@pytest.mark.usefixtures("invariant_tsc")
@pytest.mark.parametrize("spec", ["none", "uffd", "exit"])
def test_the_guest_is_never_longer_at_it_than_its_thread(
    run: Callable[..., TrialResult], spec: str
) -> None:
    spans: list[Span] = []
    assert run(spec, pages=997, before_verify=_spans_into(spans)).error is None
    for span in spans:
        host, guest = span.host_end - span.host_start, span.guest_end - span.guest_start
        assert 0 < guest <= 1.01 * host


@pytest.mark.usefixtures("invariant_tsc")
def test_the_guests_tsc_rate_is_told_and_agrees_with_the_hosts_clock(
    run: Callable[..., TrialResult],
) -> None:
    result = run("exit", pages=997, fetch_delay_ns=100_000, vcpus=1)
    assert result.guest_tsc_khz > 0
    assert not [caution for caution in result.warnings if "TSC" in caution.text]
    # One vCPU's touches, each timed by the guest, cannot take longer than the trial.
    sum_cycles = sum(lowest * touches for lowest, _, touches in result.histogram_cycles)
    assert sum_cycles / result.guest_tsc_khz * 1e6 <= 1.01 * result.elapsed_ns
    # Each waits for a fetch, which the host's clock timed.
    assert result.metrics["fault_p50_ns"] >= 0.9 * 100_000


@pytest.mark.usefixtures("invariant_tsc")
@pytest.mark.parametrize("spec", ["none", "uffd", "exit"])
def test_a_guests_stamps_enclose_its_touches(run: Callable[..., TrialResult], spec: str) -> None:
    spent: list[tuple[int, int]] = []

    def note(rig: Rig) -> None:
        for worker in rig.vcpus:
            record = rig.guest.record(worker.index)
            touches = sum(bucket_bounds(at)[0] * n for at, n in enumerate(record.histogram))
            spent.append((touches, record.end_cycles - record.start_cycles))

    assert run(spec, pages=997, before_verify=note).error is None
    assert len(spent) == 3
    for touches, span in spent:
        assert 0 < touches <= span


@pytest.mark.usefixtures("invariant_tsc")
@pytest.mark.parametrize("end_cycles", [0, 1, (1 << 64) - 1])
def test_a_guest_whose_last_stamp_is_wrong_is_doubted(
    run: Callable[..., TrialResult], kvm: Kvm, end_cycles: int
) -> None:
    if not _shares_tsc(kvm):
        pytest.skip("KVM_VCPU_TSC_OFFSET is not offered here")

    def spoil(rig: Rig) -> None:
        rig.guest.record(1).end_cycles = end_cycles

    result = run("uffd", before_verify=spoil)
    assert result.error is None
    [caution] = [caution for caution in result.warnings if caution.code.startswith("tsc")]
    assert caution.code == "tsc-outside"
    assert "of vCPU 1 are not within" in caution.text


@pytest.mark.usefixtures("invariant_tsc")
def test_a_guest_that_waited_for_its_cpu_casts_no_doubt_on_the_tsc(
    run: Callable[..., TrialResult],
) -> None:
    def wait(rig: Rig) -> None:
        """As if each vCPU had waited between the host's stamp and its own as long as it ran."""
        for worker in rig.vcpus:
            record = rig.guest.record(worker.index)
            record.start_cycles += (record.end_cycles - record.start_cycles) // 2

    result = run("exit", pages=997, fetch_delay_ns=100_000, before_verify=wait)
    assert result.error is None
    assert not [caution for caution in result.warnings if caution.code.startswith("tsc")]


@pytest.mark.parametrize("odd", [0, 1, 2])
def test_one_vcpu_without_the_hosts_tsc_is_enough_for_the_guest_not_to_have_it(
    run: Callable[..., TrialResult], kvm: Kvm, monkeypatch: pytest.MonkeyPatch, odd: int
) -> None:
    if not _shares_tsc(kvm):
        pytest.skip("KVM_VCPU_TSC_OFFSET is not offered here")
    share = Vcpu.share_host_tsc
    monkeypatch.setattr(Vcpu, "share_host_tsc", lambda vcpu: vcpu.index != odd and share(vcpu))
    result = run("uffd", vcpus=3, split=True)
    assert result.guest_tsc_is_host_tsc is False
    assert "noticed_p50_ns" not in result.metrics
    assert "split-clock" in {caution.code for caution in result.warnings}
