"""What a run needs of this host, checked before anything is allocated.

Everything here is a limit of the host, not of kvmpc: a larger host, or a raised limit, takes the
same command. So each is a `HostError` with the option, what was given, and what would do. Whether
trials can run here at all is asked of `kvmpc.run.rehearsal`.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from kvmpc.errors import HostError, KernelError, UsageError
from kvmpc.host.facts import second_level_paging
from kvmpc.host.files import Cgroups, entries, read_text
from kvmpc.host.headroom import (
    Limit,
    address_limits,
    allowed_cpus,
    file_limits,
    mapping_limits,
    memory_limits,
    thread_limits,
)
from kvmpc.host.numa import available_bytes, usable_nodes
from kvmpc.kernel import cpu_latency, syscalls
from kvmpc.kernel.kvm import Kvm
from kvmpc.kernel.need import cannot
from kvmpc.kernel.threads import STACK_BYTES
from kvmpc.pagers import Pager
from kvmpc.result.records import Skip
from kvmpc.run.plan import Plan
from kvmpc.run.rehearsal import PAGES, check_needs, of_pager, rehearse
from kvmpc.trial.signals import NEVER, Interrupt
from kvmpc.units import GIB, KIB, MIB, PAGE_BYTES, format_bytes, format_cpu_list, parse_cpu_list
from kvmpc.vm.policy import bind_memory
from kvmpc.vm.x86 import plan_guest
from kvmpc.work.layout import Layout
from kvmpc.work.placement import Placement, parse_cpus
from kvmpc.work.work import Work

__all__ = [
    "check_placement",
    "check_room",
    "check_run",
    "mapped_bytes",
    "needed_bytes",
    "raise_file_limit",
    "what_cannot_run",
]

_ROOT = Path("/")

_OWN_BYTES_PER_THREAD = 64 * KIB
_SHADOW_BYTES_PER_GIB = 5 * MIB // 2
"""KVM's reverse maps under shadow paging (seen: 1.6 GiB for a slot of 640 GiB)."""

_OWN_BYTES_PER_PAGE = 4
_MAPPED_PER_THREAD = 128 * KIB
_OWN_MAPPED_BYTES = 32 * MIB
"""What Python maps while a trial is built, run and verified (seen: 1 byte a page for what is
expected, 107 KiB for a vCPU with its thread, records and share of the heap, but for its stack)."""

_SPARE_FDS = 32
_SPARE_THREADS = 16
_SPARE_MAPPINGS = 512
_MAPPINGS_PER_VCPU = 4  # run structure, stack with its guard, one side of a split


def needed_bytes(work: Work, *, shadow: bool, readers: int = 0) -> int:
    """Return the memory that a trial makes resident, page tables of host and KVM included.

    readers: reader threads. shadow: whether KVM keeps reverse maps for all of a slot, touched or
    not.
    """
    layout = Layout(work)
    # A page-table page maps 2 MiB; a run may begin in one and end in the next.
    tables = layout.runs + 1 if layout.run_pages > 1 else layout.runs
    tables = min(tables, work.pages_per_part // 512 + 2)
    slot_bytes = work.total_pages * work.unit_bytes
    return (
        work.expected_pages * work.unit_bytes
        + 2 * work.parts * tables * PAGE_BYTES
        + 2 * work.total_pages // 8
        + (work.vcpus + readers) * _OWN_BYTES_PER_THREAD
        + (slot_bytes * _SHADOW_BYTES_PER_GIB // GIB if shadow else 0)
    )


def check_run(kvm: Kvm, work: Work, pagers: Sequence[Pager]) -> None:
    """Check that this host has what `pagers` need, and room for `work` with each of them.

    Raises: HostError; UsageError for CPUs and NUMA nodes that are not to be had.
    """
    check_needs(pagers)
    check_room(kvm, work, pagers)


def check_room(kvm: Kvm, work: Work, pagers: Sequence[Pager]) -> None:
    """Check that this host has room for `work` with each of `pagers`, and where it is to be.

    Raises: HostError; UsageError for CPUs and NUMA nodes that are not to be had.
    """
    allowed = kvm.max_vcpus()
    if work.vcpus > allowed:
        raise HostError(
            f"--vcpus {work.vcpus}",
            f"KVM allows 1 to {allowed} vCPUs in a VM here",
            f"use --vcpus {allowed} or fewer, or a kernel with a larger CONFIG_KVM_MAX_NR_VCPUS",
        )
    plan_guest(work, kvm.supported_cpuid())
    check_placement(work.placement, work.expected_pages * work.unit_bytes)
    readers = max(pager.reader_count(work) for pager in pagers)
    given = f"--vcpus {work.vcpus} --mem-per-vcpu {format_bytes(work.mem_per_vcpu_bytes)}"
    shadow = second_level_paging() not in ("ept", "npt")
    _require(
        given,
        needed_bytes(work, shadow=shadow, readers=readers),
        "with page tables",
        memory_limits(),
        "use less --mem-per-vcpu, fewer --vcpus, or --touch-pages for a sparse run",
        unit="MiB",
    )
    _require(
        given,
        mapped_bytes(work, readers=readers),
        "of address space, touched or not",
        address_limits(),
        "use less --mem-per-vcpu, fewer --vcpus or readers",
        unit="MiB",
    )
    for pager in pagers:
        threads, fds = work.vcpus + pager.reader_count(work), pager.fd_count(work)
        raise_file_limit(work.vcpus + fds + _SPARE_FDS, pager.label)
        _raise_soft_limit(resource.RLIMIT_NPROC)
        _require(
            pager.label,
            threads + _SPARE_THREADS,
            f"threads ({threads} of its own, {_SPARE_THREADS} spare)",
            thread_limits(),
            "use fewer vCPUs or readers",
        )
        mappings = (
            work.vcpus * _MAPPINGS_PER_VCPU
            + pager.reader_count(work) * 2
            + pager.fd_count(work)
            + _SPARE_MAPPINGS
        )
        _require(
            pager.label,
            mappings,
            "more memory mappings",
            mapping_limits(),
            "use fewer vCPUs or uffds",
        )


def _require(
    what: str, needed: int, of: str, limits: Sequence[Limit], otherwise: str, unit: str = ""
) -> None:
    """Refuse `what` where one of `limits` leaves less than `needed`, and tell these two numbers.

    of: what the numbers count; unit: ``MiB`` for bytes. The need is rounded up and what is left
    down, so that a refusal never reads as if it fitted.
    """
    for limit in limits:
        if needed > limit.left:
            asked, left = needed, limit.left
            if unit:
                asked, left, of = -(-needed // MIB), limit.left // MIB, f"{unit} {of}"
            raise HostError(
                what,
                f"needs {asked} {of}; {limit.name} leaves {left}{unit and f' {unit}'}",
                f"{limit.remedy}; or {otherwise}",
            )


def mapped_bytes(work: Work, *, readers: int) -> int:
    """Return the address space that a trial takes, touched or not."""
    return (
        work.total_pages * work.unit_bytes
        + work.total_pages * _OWN_BYTES_PER_PAGE
        + (work.vcpus + readers) * (STACK_BYTES + _MAPPED_PER_THREAD)
        + _OWN_MAPPED_BYTES
    )


def raise_file_limit(needed: int, what: str) -> None:
    """Raise the soft RLIMIT_NOFILE for `needed` more files, as the hard one allows.

    Raises: HostError.
    """
    _require(what, needed, "more open files", file_limits(), "use fewer vCPUs or uffds")
    _raise_soft_limit(resource.RLIMIT_NOFILE, needed + len(entries(Path("/proc/self/fd"))))


def _raise_soft_limit(which: int, least: int | None = None) -> None:
    """Raise a soft limit to at least `least`, or as far as anybody may. Raises: HostError."""
    try:
        soft, hard = resource.getrlimit(which)
        wanted = hard if least is None else least
        if soft not in (resource.RLIM_INFINITY, hard) and (least is None or soft < least):
            resource.setrlimit(which, (wanted, hard))
    except OSError as error:
        raise cannot(KernelError("prlimit64", error.errno or 0)) from error


def check_placement(placement: Placement, guest_bytes: int, root: Path = _ROOT) -> None:
    """Check that this host can place threads and `guest_bytes` of memory as asked.

    Raises: UsageError for CPUs and nodes that are not to be had, HostError for what the kernel
    lacks or does not permit.
    """
    _check_cpus("--cpus", placement.cpus, root)
    _check_cpus("--reader-cpus", placement.reader_cpus, root)
    if placement.numa is not None:
        _check_numa(placement, guest_bytes, root)
    if placement.cpu_latency_us is not None:
        cpu_latency.check(root)


def _check_cpus(option: str, text: str | None, root: Path) -> None:
    if text is None:
        return
    allowed = allowed_cpus()
    wanted = set(parse_cpus(text, option)).difference(allowed)
    if not wanted:
        return
    system = root / "sys/devices/system/cpu"
    cpuset = Cgroups(root).cpuset().get("cpus")
    reasons = []
    for cpus, reason in (
        (read_text(system / "present"), "not in this machine"),
        (read_text(system / "online"), "offline"),
        (cpuset, "outside this process's cpuset"),
    ):
        if cpus is not None:
            those = wanted.difference(parse_cpu_list(cpus))
            wanted -= those
            reasons += [f"{format_cpu_list(those)}: {reason}"] if those else []
    if wanted:
        reasons.append(f"{format_cpu_list(wanted)}: outside this process's affinity (taskset)")
    raise UsageError(option, text, f"CPUs out of {format_cpu_list(allowed)} ({'; '.join(reasons)})")


def _check_numa(placement: Placement, guest_bytes: int, root: Path) -> None:
    nodes = usable_nodes(root)
    option = f"--numa {placement.numa}"
    if not nodes:
        raise HostError(
            option,
            "this kernel has no NUMA nodes",
            "leave --numa out: all memory is the same here; or use a kernel with CONFIG_NUMA",
        )
    node = placement.node
    if node is not None:
        if node not in nodes:
            raise UsageError(
                "--numa",
                placement.numa,
                f"node=N with a node that has memory for this process: {format_cpu_list(nodes)}",
            )
        # Bound memory does not go elsewhere when its node is full: the kernel kills a process.
        free = available_bytes(node, root)
        if free is not None and guest_bytes > free:
            raise HostError(
                option,
                f"needs {guest_bytes / MIB:.0f} MiB on node {node}, {free / MIB:.0f} MiB are "
                "available there",
                "use another node, --numa interleave, less --mem-per-vcpu, or --touch-pages",
            )
    with syscalls.Mapping.anonymous(PAGE_BYTES, what="NUMA check") as page:
        bind_memory(placement, page.address, page.size_bytes, root)


def what_cannot_run(
    kvm: Kvm, plan: Plan, interrupt: Interrupt = NEVER
) -> tuple[tuple[Skip, ...], HostError | None]:
    """Return what of `plan` this host cannot run, with the reasons, and the first refusal.

    Raises: UsageError, Interrupted, StuckError.
    """

    # Neither depends on a point's size: asked once, however many points there are.
    @cache
    def lack(pager: Pager) -> HostError | None:
        return _refusal(lambda: check_needs([pager]))

    @cache
    def refusal(smallest: Work, pager: Pager) -> HostError | None:
        return _refusal(lambda: rehearse(kvm, smallest, pager, interrupt))

    def check(work: Work, pager: Pager) -> None:
        error = lack(pager)
        if error is not None:
            raise error
        check_room(kvm, work, [pager])
        error = refusal(work.smallest(PAGES), pager.smallest)
        if error is not None:
            raise of_pager(pager, error)

    skipped, first = [], None
    for index, point in enumerate(plan.points):
        for pager in point.pagers:
            try:
                check(point.work, pager)
            except HostError as error:
                first = first or error
                skipped.append(Skip(point=index, pager=pager.spec, reason=str(error)))
    return tuple(skipped), first


def _refusal(ask: Callable[[], object]) -> HostError | None:
    try:
        ask()
    except HostError as error:
        return error
    return None
