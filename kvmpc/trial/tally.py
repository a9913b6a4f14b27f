"""From a finished trial's records to numbers: counts, metrics, cautions. It only reads.

A metric that was not measured is absent.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence

from kvmpc.caution import Caution
from kvmpc.loops.records import (
    READER_FIELDS,
    RESOLVER_FIELDS,
    VCPU_FIELDS,
    FieldSpec,
    ReaderRecord,
    ResolverRecord,
    VcpuRecord,
)
from kvmpc.result.histogram import bucket_bounds, cycles_to_ns, quantile_cycles
from kvmpc.result.metrics import (
    CPU,
    CPU_READERS,
    CPU_VCPUS,
    FAIRNESS,
    FAULT_MAX,
    FAULT_QUANTILES,
    FETCH,
    FINISH_SPREAD,
    FULL_SPEED,
    INSTALL,
    MIB_RATE,
    RATE,
    START_SKEW,
    TO_95_SPEED,
    TO_HALF_SPEED,
)
from kvmpc.trial.clocks import clock_cautions, cycles_per_ns, guest_tsc_khz
from kvmpc.trial.outcome import Finding
from kvmpc.units import GIB, MIB
from kvmpc.vm.guest import Guest
from kvmpc.vm.record import HISTOGRAM_BUCKETS
from kvmpc.work.work import Work

__all__ = [
    "MAX_SKEW_SHARE",
    "cautions",
    "counts",
    "fairness",
    "finding",
    "histogram",
    "metrics",
    "per_thread",
    "speeds",
    "stragglers",
    "switches",
    "time_to_speed_ns",
]

MAX_SKEW_SHARE = 0.01
_MAX_RETURNS_SHARE = 0.001
_MAX_IDLE_SHARE = 0.05
"""How much of the vCPUs' time may be waiting for the last: so much the rate is too low at most."""


def _counted(records: Sequence[ResolverRecord], fields: Sequence[FieldSpec]) -> dict[str, int]:
    """Return what `fields` say of their counters: the sum over `records`, or the largest."""
    found = {}
    for spec in fields:
        if spec.use in ("count", "peak"):
            of_each = [getattr(record, spec.name) for record in records]
            found[spec.name] = sum(of_each) if spec.use == "count" else max(of_each)
    return found


def finding(
    work: Work,
    *,
    gate_ns: int,
    vcpus: Sequence[VcpuRecord],
    readers: Sequence[ReaderRecord],
    guest: Guest,
    told_tsc_khz: int | None,
    tsc_shared: bool,
    returns: int,
) -> Finding:
    """Return what the records of a trial say, guest's and host's, and what weakens it.

    told_tsc_khz: the guest's TSC rate as KVM says it, None if it does not; returns: as in `counts`.
    Raises: KernelError, where the host's clock cannot be read.
    """
    elapsed_ns = max(record.end_ns for record in vcpus) - gate_ns
    khz = guest_tsc_khz(guest, vcpus, readers, told_khz=told_tsc_khz, shared=tsc_shared)
    found = metrics(
        work, gate_ns=gate_ns, vcpus=vcpus, readers=readers, guest=guest, guest_tsc_khz=khz
    )
    weakened = cautions(
        work,
        elapsed_ns=elapsed_ns,
        start_skew_ns=found[START_SKEW.key],
        returns=returns,
    )
    weakened += clock_cautions(guest, vcpus, readers, told_khz=told_tsc_khz, shared=tsc_shared)
    touched = [guest.record(vcpu) for vcpu in range(work.vcpus)]
    return Finding(
        elapsed_ns=elapsed_ns,
        metrics=found,
        histogram_cycles=histogram(guest, work),
        guest_tsc_khz=khz,
        guest_tsc_is_host_tsc=tsc_shared,
        per_vcpu=per_thread(vcpus, gate_ns)
        | {
            "touched": tuple(record.touched for record in touched),
            "longest_cycles": tuple(record.longest_cycles for record in touched),
        },
        per_reader=per_thread(readers, gate_ns)
        | {"received": tuple(record.received for record in readers)},
        cautions=tuple(weakened),
    )


def counts(vcpus: Sequence[VcpuRecord], readers: Sequence[ReaderRecord]) -> dict[str, int]:
    """Return what the loops count, over all threads.

    `returns` are rare-path returns: the one with which each vCPU ends is not among them.
    """
    both: list[ResolverRecord] = [*vcpus, *readers]
    found = _counted(both, RESOLVER_FIELDS) | _counted(vcpus, VCPU_FIELDS)
    if readers:
        found |= _counted(readers, READER_FIELDS)
    found["returns"] = max(0, found["returns"] - len(both))
    for role, records in (("vcpus", vcpus), ("readers", readers)):
        if records:
            voluntary, involuntary = zip(*map(switches, records), strict=True)
            found[f"switches_voluntary_{role}"] = sum(voluntary)
            found[f"switches_involuntary_{role}"] = sum(involuntary)
    return found


def switches(record: ResolverRecord) -> tuple[int, int]:
    """Return how often a thread was switched from, because it slept and because it had to make way.

    The sleep at the gate aside. Both are 0 for a thread that did not come to its end.
    """
    start, end = record.usage_start, record.usage_end
    voluntary = end.ru_nvcsw - start.ru_nvcsw - record.gate_sleeps
    return max(0, voluntary), max(0, end.ru_nivcsw - start.ru_nivcsw)


def histogram(guest: Guest, work: Work) -> tuple[tuple[int, int, int], ...]:
    """Return (lowest, highest, touches) in guest TSC cycles of every bucket that is not empty."""
    sums = [0] * HISTOGRAM_BUCKETS
    for vcpu in range(work.vcpus):
        # As bytes: a ctypes array makes an object of every element it is asked for.
        counted = memoryview(guest.record(vcpu).histogram).cast("B").cast("I")
        sums = list(map(operator.add, sums, counted))
    return tuple((*bucket_bounds(bucket), n) for bucket, n in enumerate(sums) if n)


def metrics(
    work: Work,
    *,
    gate_ns: int,
    vcpus: Sequence[VcpuRecord],
    readers: Sequence[ReaderRecord],
    guest: Guest,
    guest_tsc_khz: float,
) -> dict[str, float]:
    """Return the trial's metrics; keys end in their unit."""
    elapsed_ns = max(record.end_ns for record in vcpus) - gate_ns
    both: list[ResolverRecord] = [*vcpus, *readers]
    cpu_vcpus = sum(record.cpu_end_ns - record.cpu_start_ns for record in vcpus)
    cpu_readers = sum(record.cpu_end_ns - record.cpu_start_ns for record in readers)
    rate = work.expected_pages / elapsed_ns * 1e9
    found = {
        RATE.key: rate,
        MIB_RATE.key: rate * work.unit_bytes / MIB,
        START_SKEW.key: float(max(record.start_ns for record in vcpus) - gate_ns),
        CPU_VCPUS.key: cpu_vcpus / 1e9,
        CPU_READERS.key: cpu_readers / 1e9,
        CPU.key: (cpu_vcpus + cpu_readers) / 1e9 / (work.expected_pages * work.unit_bytes / GIB),
    }
    fetches = sum(record.fetches for record in both)
    if fetches:
        per_ns = cycles_per_ns(both)
        tried = sum(record.installs + record.eexist for record in both)
        found[INSTALL.key] = sum(r.install_cycles for r in both) / per_ns / tried
        if work.fetch_delay_ns:
            found[FETCH.key] = sum(r.fetch_cycles for r in both) / per_ns / fetches
    # With overlap most touches find their page present: their times are no fault times.
    if work.timed and not work.overlap:
        cycles = histogram(guest, work)
        longest = max(guest.record(vcpu).longest_cycles for vcpu in range(work.vcpus))
        for quantile, metric in FAULT_QUANTILES.items():
            # A bucket's middle may lie above the longest touch in it, which is known exactly.
            at = min(quantile_cycles(cycles, quantile), longest)
            found[metric.key] = cycles_to_ns(at, guest_tsc_khz)
        found[FAULT_MAX.key] = cycles_to_ns(longest, guest_tsc_khz)
    return found


def time_to_speed_ns(
    timeline: Mapping[str, Sequence[int]],
    end_ns: Sequence[int],
    full_per_s: float,
    share: float,
) -> float | None:
    """Return when the guest comes to `share` of its full speed, and stays there.

    Its speed in an interval: what it touched, over its full speed; and a vCPU that has all its
    pages (`end_ns`, one entry per vCPU) could run at full speed, though it waits for the others
    here. None where pass 1 was over before there were two samples.
    """
    times, touches = [0, *timeline["ns"]], [0, *timeline["touches"]]
    last = max(end_ns)
    reached: float | None = None
    seen = 0
    for begin, end, before, after in zip(times, times[1:], touches, touches[1:], strict=False):
        if end > last or end <= begin:
            break
        seen += 1
        touching = (after - before) / (end - begin) * 1e9 / full_per_s
        ended = sum(at <= begin for at in end_ns) / len(end_ns)
        if touching + ended < share:
            reached = None
        elif reached is None:
            reached = float(begin)
    if seen < 2:
        return None
    # After the last vCPU's last page every one of them can run at full speed.
    in_time = sorted(end_ns)[max(0, -(-round(share * 1000) * len(end_ns) // 1000) - 1)]
    return float(in_time) if reached is None else min(reached, float(in_time))


def speeds(
    timeline: Mapping[str, Sequence[int]], end_ns: Sequence[int], full_per_s: float | None
) -> Finding:
    """Return how alike the vCPUs fared, how long the guest was how slow, and who straggled.

    `end_ns`: from the gate, one entry per vCPU; `full_per_s`: None without further passes.
    """
    found: dict[str, float | None] = {
        FAIRNESS.key: fairness(end_ns),
        FINISH_SPREAD.key: float(max(end_ns) - min(end_ns)),
        FULL_SPEED.key: full_per_s,
    }
    if full_per_s is not None and timeline:
        found[TO_HALF_SPEED.key] = time_to_speed_ns(timeline, end_ns, full_per_s, 0.5)
        found[TO_95_SPEED.key] = time_to_speed_ns(timeline, end_ns, full_per_s, 0.95)
    return Finding(
        metrics={name: value for name, value in found.items() if value is not None},
        cautions=stragglers(end_ns),
    )


def fairness(end_ns: Sequence[int]) -> float:
    """Return Jain's index of the vCPUs' rates: 1 = all alike, 1/n = one had it all.

    `end_ns`: from the gate, one entry per vCPU, each of which touches as many pages.
    Source: Jain, Chiu, Hawe, DEC-TR-301 (1984).
    """
    rates = [1 / max(1, at) for at in end_ns]
    return sum(rates) ** 2 / (len(rates) * sum(rate * rate for rate in rates))


def per_thread(records: Sequence[ResolverRecord], gate_ns: int) -> dict[str, tuple[int, ...]]:
    """Return what each thread did, by name; times are from the gate."""
    return {
        "start_ns": tuple(record.start_ns - gate_ns for record in records),
        "end_ns": tuple(record.end_ns - gate_ns for record in records),
        "cpu_ns": tuple(record.cpu_end_ns - record.cpu_start_ns for record in records),
        "installs": tuple(record.installs for record in records),
        "switches_voluntary": tuple(switches(record)[0] for record in records),
        "switches_involuntary": tuple(switches(record)[1] for record in records),
    }


def cautions(
    work: Work,
    *,
    elapsed_ns: int,
    start_skew_ns: float,
    returns: int,
) -> list[Caution]:
    """Return what makes this trial less trustworthy, each with a remedy."""
    found = []
    if start_skew_ns > MAX_SKEW_SHARE * elapsed_ns:
        found.append(
            Caution(
                "start-skew",
                f"the last vCPU started {start_skew_ns / elapsed_ns:.1%} of the trial after the "
                "gate",
                "give each vCPU more pages (--mem-per-vcpu), or use fewer vCPUs than CPUs",
                size=start_skew_ns / elapsed_ns,
            )
        )
    if returns > _MAX_RETURNS_SHARE * work.expected_pages * work.vcpus / work.parts:
        found.append(
            Caution(
                "rare-returns",
                f"{returns} returns to Python on rare paths, more than 1 per 1000 pages: they cost "
                "more than a page does",
                "see which exits they were in the counts",
                size=returns,
            )
        )
    return found


def stragglers(end_ns: Sequence[int]) -> tuple[Caution, ...]:
    """Return whether vCPUs stood idle while the last one still had pages to get.

    `end_ns`: from the gate, one entry per vCPU. Had they ended together, the rate would have been
    up to that share higher.
    """
    in_order = sorted(range(len(end_ns)), key=end_ns.__getitem__)
    first, last = in_order[0], in_order[-1]
    lasted_ns = max(1, end_ns[last])
    idle = sum(lasted_ns - at for at in end_ns) / len(end_ns) / lasted_ns
    if idle <= _MAX_IDLE_SHARE or not end_ns[last]:
        return ()
    return (
        Caution(
            "stragglers",
            f"vCPU {first} had its pages after {end_ns[first] / lasted_ns:.0%} of the trial, "
            f"vCPU {last} at its end: vCPUs waited for the last {idle:.1%} of their time, and by "
            "so much the rate may be low",
            "keep other load from single CPUs (--pin, cpuset), or give each vCPU more pages "
            "(--mem-per-vcpu)",
            size=idle,
        ),
    )
