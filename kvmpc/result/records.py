"""What a run found: frozen records.

Their one JSON form is `kvmpc.result.document`, whose schema these annotations are. Knows nothing of
KVM. A field that was not measured is absent or null, never 0.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Final

from kvmpc.caution import Caution
from kvmpc.result.pager_info import PagerInfo, pager_of_spelling
from kvmpc.result.schema import AtLeast

__all__ = [
    "BUSY_LIMIT",
    "FAILED",
    "FEWEST_SAMPLES",
    "NEW",
    "OK",
    "OLD",
    "PROFILED",
    "Point",
    "Profile",
    "Result",
    "Role",
    "Skip",
    "TrialResult",
    "Turns",
]


OK: Final = "ok"
FAILED: Final = "failed"

OLD: Final = "old"
NEW: Final = "new"
"""The sides of what is measured in turn."""

PROFILED: Final = -1
"""The round of a trial that was profiled: it gives no rate."""

FEWEST_SAMPLES: Final = 200
"""With fewer a profile tells no share: that of a quarter of the time would be 12 points wide."""

BUSY_LIMIT: Final = 0.10
"""The share of a trial's CPU time that others may take before it is starved, unless told.

On two CPUs, exit/uffd of the few trials that lost 5 to 10 % was 0.99 of what it is undisturbed, of
those that lost 10 to 15 % 1.15 (bench/busy_host.py): that is more than rounds vary by."""


Count = Annotated[int, AtLeast(0)]
Share = Annotated[float, AtLeast(0)]


class Role(Enum):
    """What a trial is for. Only a measured one is part of a rate."""

    WARMUP = "warmup"
    MEASURED = "measured"
    PROFILED = "profiled"


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Where the CPU time of a trial's threads went, by sampling; shares are of all of it.

    From the gate to a thread's own last page, a reader's to the last page of all.
    event: what was sampled: ``cycles``, or ``cpu-clock`` where there is no PMU.
    samples: how many; frequency_hz: how many a second of CPU time were asked for.
    modes: share in ``guest``, ``kernel``, ``user``. roles: share of ``vcpus`` and ``readers``.
    spin: share waiting for a spin lock, by whose lock it is (keys of `WAITERS`); empty
        where the kernel's functions have no names.
    irqs_off: share taken where interrupts come on again, by the same: held or waited for, a clock
        cannot tell; empty where the event is no clock.
    top: share of the functions with the most time of their own, in descending order.
    trials: of how many trials the samples are: one alone may be too short.
    effective_samples: how many samples of one weight tell as much; None in documents that are
        older, where it is `samples`.
    """

    event: str
    frequency_hz: Count
    samples: Count
    modes: Mapping[str, Share]
    roles: Mapping[str, Share]
    spin: Mapping[str, Share]
    irqs_off: Mapping[str, Share]
    top: Mapping[str, Share]
    trials: Annotated[int, AtLeast(1)] = 1
    effective_samples: Count | None = None

    @property
    def weight(self) -> int:
        """How many samples of one weight tell as much."""
        found = self.effective_samples
        return self.samples if found is None else min(found, self.samples)

    @property
    def tells(self) -> bool:
        """Whether there are samples enough for any share to be told."""
        return self.weight >= FEWEST_SAMPLES


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """One trial: one guest, one pager, one measurement.

    point: index of the point it belongs to, see `Result.points`.
    pager: canonical spec, such as ``uffd,uffds=per-vcpu``; the key that joins trials to a row.
    label: the spec as shown, such as ``exit(sigbus),uffds=per-vcpu``.
    fetches: whether the pager fetches pages (``none`` does not).
    round: 0 = warm-up, then 1, 2, ...; `PROFILED` (-1) = profiled, and no part of any rate.
    status: ``ok`` or ``failed``; error: why it failed, None when it did not.
    verified: ``yes``; ``whole`` if every byte of each page was looked at; ``zeros`` where pages can
        only hold zeros; None if nothing was verified.
    expected_pages: pages that had to be present afterwards; sparse: not every page was touched.
    elapsed_ns: gate-open to the last vCPU's last page; None if it never came.
    metrics: only what was measured; the unit ends the name (``pages_per_s``, ``fault_p50_ns``).
    counts: events by name (``installs``, ``eexist``, ``reads``).
    histogram_cycles: (lowest, highest, touches) of non-empty buckets, guest TSC cycles, ascending.
    guest_tsc_khz: guest TSC cycles in a millisecond.
    per_vcpu: raw lists by name, one entry per vCPU (``start_ns``, ``end_ns`` from the gate; ``cpu``
        where its thread ended, certain for all of the trial where ``cpus_allowed`` is 1).
    per_reader: raw lists by name, one entry per reader thread.
    pages_per_node: pages by NUMA node, afterwards.
    warnings: what tilts this trial's numbers.
    kvm_stats: what KVM's own counters grew by, those of the VM and the sum of its vCPUs', named as
        the kernel names them; empty where it has none.
    timeline: progress by time, lists of one length: ``ns`` from the gate, ``touches`` of all vCPUs
        (further passes included), ``installs``; empty where it was not sampled.
    profile: of a profiled trial, where its CPU time went; None where it is none, or could not be
        profiled (a warning says why).
    starved: others took more of its CPU time than the run allows (``lost_share`` in its metrics):
        it is kept, and part of no number. A later trial of its round may be in its place.
    """

    pager: str
    label: str
    fetches: bool
    round: Annotated[int, AtLeast(PROFILED)]
    status: str
    error: str | None
    verified: str | None
    vcpus: Count
    expected_pages: Count
    sparse: bool
    elapsed_ns: Count | None
    metrics: Mapping[str, float]
    counts: Mapping[str, Count]
    histogram_cycles: tuple[tuple[Count, Count, Count], ...]
    guest_tsc_khz: Annotated[float, AtLeast(1)] | None
    guest_tsc_is_host_tsc: bool | None
    per_vcpu: Mapping[str, tuple[int, ...]]
    per_reader: Mapping[str, tuple[int, ...]]
    pages_per_node: Mapping[str, Count]
    warnings: tuple[Caution, ...]
    point: Count = 0
    kvm_stats: Mapping[str, int] = field(default_factory=dict)
    profile: Profile | None = None
    timeline: Mapping[str, tuple[Count, ...]] = field(default_factory=dict)
    starved: bool = False

    def __post_init__(self) -> None:
        if self.status not in (OK, FAILED):
            raise ValueError(f"status is {self.status!r}, not {OK!r} or {FAILED!r}")
        if (self.status == FAILED) != (self.error is not None):
            raise ValueError(f"status {self.status!r} does not go with error {self.error!r}")

    @property
    def role(self) -> Role:
        """What its round makes it."""
        if self.round > 0:
            return Role.MEASURED
        return Role.PROFILED if self.round == PROFILED else Role.WARMUP

    @property
    def wasted(self) -> bool:
        """Whether it would have counted, had it not been starved."""
        return self.starved and self.role is Role.MEASURED


@dataclass(frozen=True, kw_only=True)
class Point:
    """One point of a sweep: `options` by which it differs from the run's, `pagers` measured."""

    options: Mapping[str, object]
    pagers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Skip:
    """A pager that was not measured at a point, because this host cannot: `reason` says why."""

    point: Count
    pager: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Turns:
    """That a result is one of two sides, ``old`` and ``new``, measured in turn by one command.

    Side by side in pairs of blocks, each block a fresh process: the k-th block of one side and the
    k-th of the other are next to each other in time.

    id: what the two sides have in common, and nothing else. side: which one this is; command: what
        was run before each of its blocks.
    new_first: of each pair that was planned, whether its first block was that of ``new``.
    last_rounds: of each block that was measured, the last of its rounds; ascending.
    """

    id: str
    side: str
    command: str
    new_first: tuple[bool, ...]
    last_rounds: tuple[Count, ...]

    def __post_init__(self) -> None:
        if self.side not in (OLD, NEW):
            raise ValueError(f"side is {self.side!r}, not {OLD!r} or {NEW!r}")
        if list(self.last_rounds) != sorted(set(self.last_rounds)):
            raise ValueError("last_rounds do not ascend")

    def block_of(self, round_number: int) -> int | None:
        """Return the block of a measured round, from 0; None where it is of none."""
        found = bisect_left(self.last_rounds, round_number)
        return found if round_number > 0 and found < len(self.last_rounds) else None


@dataclass(frozen=True, kw_only=True)
class Result:
    """One run: all rounds of one command, finished or as far as it came.

    command: the command line; started: ISO 8601, UTC; finished: whether every trial was run.
    options: the exact options of the run, JSON values by name; those of ``config.Work`` keep
        its field names.
    pagers: specs in the order given; labels: what each is called in tables.
    host: facts of the machine, as ``host.collect`` gives them.
    trials: in the order they ran, warm-ups included.
    warnings: what tilts the whole run.
    points: of a sweep; empty where all trials are of one point. Pagers are compared within a
        point; `points_of` takes a result apart.
    skipped: what this host could not run.
    spec: the sweep's spec as it was run, TOML; question: what it asks.
    during: what else the host did during the run, as ``watch.HostWatch`` gives it; None if unknown.
    pager_infos: what each of `pagers` is; empty in documents that are older. Ask `pager` for it.
    turns: where it is one of two sides measured in turn, which; None where it is not.
    """

    tool_version: str
    command: tuple[str, ...]
    started: str
    finished: bool
    options: Mapping[str, object]
    pagers: tuple[str, ...]
    labels: tuple[str, ...]
    host: Mapping[str, object]
    trials: tuple[TrialResult, ...]
    warnings: tuple[Caution, ...]
    points: tuple[Point, ...] = ()
    skipped: tuple[Skip, ...] = ()
    spec: str | None = None
    question: str | None = None
    during: Mapping[str, object] | None = None
    pager_infos: tuple[PagerInfo, ...] = ()
    turns: Turns | None = None

    def __post_init__(self) -> None:
        last = max(0, len(self.points) - 1)
        for point in (*(t.point for t in self.trials), *(s.point for s in self.skipped)):
            if not 0 <= point <= last:
                raise ValueError(f"a trial is of point {point}, the last one is {last}")
        for found in self.points:
            if not set(found.pagers) <= set(self.pagers):
                raise ValueError(f"a point has pagers {found.pagers}, the run {self.pagers}")

    @property
    def overlap(self) -> bool:
        """Whether all vCPUs touch the same pages: then most touches find theirs, and are no faults.

        Of a sweep, what its options say of all points; ask each point.
        """
        return bool(self.options.get("overlap"))

    @property
    def measured_rounds(self) -> int:
        """How many rounds have a measured trial, failed or not."""
        return len({trial.round for trial in self.trials if trial.role is Role.MEASURED})

    def pager(self, spec: str) -> PagerInfo:
        """Return what the pager `spec` is."""
        for info in self.pager_infos:
            if info.spec == spec:
                return info
        labels = dict(zip(self.pagers, self.labels, strict=False))
        return pager_of_spelling(spec, labels.get(spec, spec))


WAITERS: Mapping[str, str] = {
    "userfaultfd": "uffd queues",
    "mmu_lock": "mmu_lock",
    "mmap_vma": "mmap, VMA locks",
    "page_allocator": "page allocator",
    "run_queue": "run queues",
    "other": "other",
}
"""Whose locks are told apart, and what a table calls them."""
