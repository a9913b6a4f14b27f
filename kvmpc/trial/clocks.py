"""Whether the guest's clock can be believed: by the host's stamps, which enclose the guest's.

A thread may wait for its CPU between a stamp of the host and one of the guest. That makes the
guest's time short, and says nothing of its clock: no rule here takes the one for the other.
"""

from __future__ import annotations

from collections.abc import Sequence

from kvmpc.caution import Caution
from kvmpc.loops.records import ReaderRecord, ResolverRecord, VcpuRecord
from kvmpc.loops.tsc import host_cycles_per_ns
from kvmpc.vm.guest import Guest

__all__ = ["clock_cautions", "cycles_per_ns", "guest_tsc_khz", "guest_tsc_khz_seen"]

_MOST_DEVIATION = 0.01
_MOST_SLOW = 0.10
"""How slow a clock may seem that is not the host's: it also loses what its vCPU waits for."""

_LEAST_NS = 20_000_000
"""In less, reading two clocks one after the other is too much of the time between them."""

_REMEDY = "use rates only: fault times are in cycles of that clock"


def guest_tsc_khz(
    guest: Guest,
    vcpus: Sequence[VcpuRecord],
    readers: Sequence[ReaderRecord],
    *,
    told_khz: int | None,
    shared: bool,
) -> float:
    """Return the guest's TSC rate: as KVM says it, else the host's where it is the host's clock.

    shared: its TSC is the host's (KVM_VCPU_TSC_OFFSET 0). Where neither is known, it is what its
    stamps say, which is at most the true one.
    """
    if told_khz:
        return float(told_khz)
    return _host_khz([*vcpus, *readers]) if shared else guest_tsc_khz_seen(guest, vcpus)


def clock_cautions(
    guest: Guest,
    vcpus: Sequence[VcpuRecord],
    readers: Sequence[ReaderRecord],
    *,
    told_khz: int | None,
    shared: bool,
) -> list[Caution]:
    """Return why fault times of this trial are not to be believed, if there is a reason.

    A clock that is the host's must count within the host's stamps, and as fast as KVM says. One of
    its own may not count more than KVM says it would between them; nor a tenth less, as far as a
    vCPU that was never pre-empted can tell. Raises: KernelError, as `host_cycles_per_ns` does.
    """
    outside = _outside(guest, vcpus) if shared else []
    if outside:
        which = f"vCPU {outside[0]}" + f" and {len(outside) - 1} more" * (len(outside) > 1)
        return [
            Caution(
                "tsc-outside",
                f"the guest's time stamps of {which} are not within the host's, although it was "
                "given the host's TSC",
                _REMEDY,
                size=len(outside),
            )
        ]
    longest_ns = max(record.end_ns - record.start_ns for record in vcpus)
    if not told_khz or longest_ns <= _LEAST_NS:
        return []
    seen_khz = (
        _rate_of_host([*vcpus, *readers], told_khz)
        if shared
        else _rate_of_guest(guest, vcpus, told_khz)
    )
    deviation = seen_khz / told_khz - 1
    if abs(deviation) <= _MOST_DEVIATION:
        return []
    return [
        Caution(
            "tsc-rate",
            f"the guest's TSC runs at {seen_khz / 1000:.1f} MHz by the host's clock, KVM says "
            f"{told_khz / 1000:.1f} MHz: fault times are off by {abs(deviation):.1%}",
            _REMEDY,
            size=abs(deviation),
        )
    ]


def _outside(guest: Guest, vcpus: Sequence[VcpuRecord]) -> list[int]:
    """Return the vCPUs whose own stamps do not lie within those of their threads."""
    found = []
    for index, host in enumerate(vcpus):
        own = guest.record(index)
        if not host.start_cycles <= own.start_cycles <= own.end_cycles <= host.end_cycles:
            found.append(index)
    return found


def _rate_of_host(records: Sequence[ResolverRecord], told_khz: int) -> float:
    """Return the host's TSC rate, measured anew where the trial's stamps doubt what KVM says."""
    seen_khz = _host_khz(records)
    if abs(seen_khz / told_khz - 1) > _MOST_DEVIATION:
        # Every thread may have waited between two stamps of its own: what is left is the highest.
        seen_khz = max(seen_khz, host_cycles_per_ns() * 1e6)
    return seen_khz


def _rate_of_guest(guest: Guest, vcpus: Sequence[VcpuRecord], told_khz: int) -> float:
    """Return the rate of a guest's own clock; KVM's where a wait may be all that is wrong."""
    seen_khz = guest_tsc_khz_seen(guest, vcpus)
    if seen_khz >= told_khz:
        return seen_khz
    slow = seen_khz < (1 - _MOST_SLOW) * told_khz
    unhindered = any(record.usage_end.ru_nivcsw == record.usage_start.ru_nivcsw for record in vcpus)
    return seen_khz if slow and unhindered else float(told_khz)


def _host_khz(records: Sequence[ResolverRecord]) -> float:
    return cycles_per_ns(records) * 1e6


def cycles_per_ns(records: Sequence[ResolverRecord]) -> float:
    """Return the host's TSC rate: the highest that a thread saw.

    Cycles are stamped within the nanoseconds, so one that waits for a CPU between them sees less.
    """
    return max(
        float((record.end_cycles - record.start_cycles) / (record.end_ns - record.start_ns))
        for record in records
        if record.end_ns > record.start_ns
    )


def guest_tsc_khz_seen(guest: Guest, vcpus: Sequence[VcpuRecord]) -> float:
    """Return the guest's TSC rate by the host's clock: at least this.

    The guest's span lies within the host's, so a thread that waits for a CPU between the host's
    stamp and the guest's makes it seem slower, never faster: the highest of all vCPUs counts.
    """
    rates = []
    for index, host in enumerate(vcpus):
        record = guest.record(index)
        cycles = record.end_cycles - record.start_cycles
        rates.append(cycles / (host.end_ns - host.start_ns) * 1e6)
    return float(max(rates))
