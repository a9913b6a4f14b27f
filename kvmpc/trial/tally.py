"""From a finished trial's records to numbers: counts, metrics, warnings. It only reads.

A metric that was not measured is absent.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

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
from kvmpc.pagers.pager import Pager
from kvmpc.result.histogram import bucket_bounds, cycles_to_ns, quantile_cycles
from kvmpc.result.metrics import (
    CPU,
    CPU_READERS,
    CPU_VCPUS,
    FAULT_MAX,
    FAULT_QUANTILES,
    FETCH,
    INSTALL,
    MIB_RATE,
    RATE,
    START_SKEW,
)
from kvmpc.result.records import TrialResult
from kvmpc.units import GIB, MIB, PAGE_BYTES
from kvmpc.vm.guest import Guest
from kvmpc.vm.record import HISTOGRAM_BUCKETS
from kvmpc.work.work import Work

__all__ = [
    "MAX_SKEW_SHARE",
    "blank_result",
    "counts",
    "cycles_per_ns",
    "guest_tsc_khz_seen",
    "histogram",
    "metrics",
    "per_thread",
    "switches",
    "warnings",
]

MAX_SKEW_SHARE = 0.01
_MAX_RETURNS_SHARE = 0.001
_MAX_TSC_DEVIATION = 0.01
_TSC_CHECK_NS = 20_000_000

_COUNTED_UNITS = {"calls", "exits", "messages", "pages"}


def _counted(fields: Sequence[FieldSpec]) -> list[str]:
    return [spec.name for spec in fields if spec.use == "out" and spec.unit in _COUNTED_UNITS]


def counts(vcpus: Sequence[VcpuRecord], readers: Sequence[ReaderRecord]) -> dict[str, int]:
    """Return the sum over threads of everything the loops count.

    `returns` are rare-path returns: the one with which each vCPU ends is not among them.
    """
    both: list[ResolverRecord] = [*vcpus, *readers]
    found = {name: sum(getattr(r, name) for r in both) for name in _counted(RESOLVER_FIELDS)}
    most = {"repeats", "repeats_most"}
    found |= {n: sum(getattr(r, n) for r in vcpus) for n in _counted(VCPU_FIELDS) if n not in most}
    found["repeats_most"] = max(record.repeats_most for record in vcpus)
    if readers:
        found |= {n: sum(getattr(r, n) for r in readers) for n in _counted(READER_FIELDS)}
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


def cycles_per_ns(records: Sequence[ResolverRecord]) -> float:
    """Return the host's TSC rate as the longest-running thread saw it."""
    longest = max(records, key=lambda record: record.end_ns - record.start_ns)
    span_ns = longest.end_ns - longest.start_ns
    return float((longest.end_cycles - longest.start_cycles) / span_ns)


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
        MIB_RATE.key: rate * PAGE_BYTES / MIB,
        START_SKEW.key: float(max(record.start_ns for record in vcpus) - gate_ns),
        CPU_VCPUS.key: cpu_vcpus / 1e9,
        CPU_READERS.key: cpu_readers / 1e9,
        CPU.key: (cpu_vcpus + cpu_readers) / 1e9 / (work.expected_pages * PAGE_BYTES / GIB),
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


def warnings(
    work: Work,
    *,
    elapsed_ns: int,
    start_skew_ns: float,
    returns: int,
    guest_tsc_khz: float,
    tsc_khz_seen: float,
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
            )
        )
    if returns > _MAX_RETURNS_SHARE * work.expected_pages * work.vcpus / work.parts:
        found.append(
            Caution(
                "rare-returns",
                f"{returns} returns to Python on rare paths, more than 1 per 1000 pages: they cost "
                "more than a page does",
                "see which exits they were in the counts",
            )
        )
    deviation = abs(tsc_khz_seen / guest_tsc_khz - 1)
    if elapsed_ns > _TSC_CHECK_NS and deviation > _MAX_TSC_DEVIATION:
        found.append(
            Caution(
                "tsc-rate",
                f"the guest's TSC runs at {tsc_khz_seen / 1000:.1f} MHz by the host's clock, KVM "
                f"says {guest_tsc_khz / 1000:.1f} MHz: fault times are off by {deviation:.1%}",
                "use rates only, or boot with tsc=reliable if the TSC is sound",
            )
        )
    return found


def guest_tsc_khz_seen(guest: Guest, vcpus: Sequence[VcpuRecord]) -> float:
    """Return the guest's TSC rate by the host's clock.

    The highest of all vCPUs: one that waits for a CPU between the host's stamp and the guest's
    seems slow.
    """
    rates = []
    for index, host in enumerate(vcpus):
        record = guest.record(index)
        cycles = record.end_cycles - record.start_cycles
        rates.append(cycles / (host.end_ns - host.start_ns) * 1e6)
    return float(max(rates))


def blank_result(work: Work, pager: Pager, round_number: int, *, error: str | None) -> TrialResult:
    """Return the result of a trial of which nothing is known but how it ended."""
    return TrialResult(
        pager=pager.spec,
        label=pager.label,
        fetches=pager.fetches,
        round=round_number,
        status="ok" if error is None else "failed",
        error=error,
        verified=None,
        vcpus=work.vcpus,
        expected_pages=work.expected_pages,
        sparse=work.sparse,
        elapsed_ns=None,
        metrics={},
        counts={},
        histogram_cycles=(),
        guest_tsc_khz=None,
        guest_tsc_is_host_tsc=None,
        per_vcpu={},
        per_reader={},
        pages_per_node={},
        warnings=(),
    )
