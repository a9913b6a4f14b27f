"""What a run needs of this host, checked before anything is allocated.

Everything here is a limit of the host, not of kvmpc: a larger host, or a raised limit, takes the
same command. So each is a `HostError` with the option, what was given, and what would do.
"""

from __future__ import annotations

import resource
from collections.abc import Sequence
from pathlib import Path

from kvmpc.errors import HostError, UsageError
from kvmpc.host.facts import second_level_paging
from kvmpc.host.files import Cgroups, read_fields, read_int, read_meminfo_bytes, read_text
from kvmpc.host.headroom import allowed_cpus, memory_available_bytes, thread_headroom
from kvmpc.host.numa import available_bytes, usable_nodes
from kvmpc.kernel import cpu_latency, syscalls
from kvmpc.kernel.kvm import Kvm
from kvmpc.pagers import Pager
from kvmpc.result.records import Skip
from kvmpc.run.plan import Plan
from kvmpc.units import GIB, KIB, MIB, PAGE_BYTES, format_bytes, format_cpu_list, parse_cpu_list
from kvmpc.vm.policy import bind_memory
from kvmpc.vm.x86 import plan_guest
from kvmpc.work.layout import Layout
from kvmpc.work.placement import Placement, parse_cpus
from kvmpc.work.work import Work

__all__ = ["check_placement", "check_run", "needed_bytes", "raise_file_limit", "what_cannot_run"]

_ROOT = Path("/")

_OWN_BYTES_PER_THREAD = 64 * KIB
_SHADOW_BYTES_PER_GIB = 5 * MIB // 2
"""KVM's reverse maps under shadow paging (seen: 1.6 GiB for a slot of 640 GiB)."""

_SPARE_FDS = 64
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
    _check_memory(work, readers)
    _check_address_space(work)
    for pager in pagers:
        pager.check_host(kvm)
        threads = work.vcpus + pager.reader_count(work)
        raise_file_limit(work.vcpus + pager.fd_count(work) + _SPARE_FDS, pager.label)
        _check_threads(threads, pager.label)
        _check_mappings(
            work.vcpus * _MAPPINGS_PER_VCPU
            + pager.reader_count(work) * 2
            + pager.fd_count(work)
            + _SPARE_MAPPINGS,
            pager.label,
        )


def _check_memory(work: Work, readers: int) -> None:
    shadow = second_level_paging() not in ("ept", "npt")
    needed = needed_bytes(work, shadow=shadow, readers=readers)
    available = memory_available_bytes()
    if needed > available:
        raise HostError(
            f"--vcpus {work.vcpus} --mem-per-vcpu {format_bytes(work.mem_per_vcpu_bytes)}",
            f"needs {needed / MIB:.0f} MiB with page tables, {available / MIB:.0f} MiB are "
            "available to this process",
            "use less --mem-per-vcpu, fewer --vcpus, or --touch-pages for a sparse run; "
            "or raise the memory limit of the cgroup",
        )


def _check_address_space(work: Work) -> None:
    """Guest memory is mapped whole, touched or not: two limits count that."""
    needed = work.total_pages * work.unit_bytes
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        taken = read_fields(Path("/proc/self/status")).get("VmSize", "0 kB").split()
        left = limit - int(taken[0]) * KIB
        if needed > left:
            raise HostError(
                "guest memory",
                f"{format_bytes(needed)} have to be mapped, the address space limit leaves {left}",
                "ulimit -v unlimited, or less --mem-per-vcpu",
            )
    memory = read_meminfo_bytes(Path("/proc/meminfo"))
    if read_int(Path("/proc/sys/vm/overcommit_memory")) == 2:
        left = memory.get("CommitLimit", 0) - memory.get("Committed_AS", 0)
        if needed > left:
            raise HostError(
                "guest memory",
                f"{format_bytes(needed)} have to be mapped, vm.overcommit_memory=2 leaves {left}",
                "sysctl vm.overcommit_memory=0, or less --mem-per-vcpu",
            )


def raise_file_limit(needed: int, what: str) -> None:
    """Raise the soft RLIMIT_NOFILE to `needed` where the hard one allows. Raises: HostError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise HostError(
            what,
            f"needs {needed} open files, the hard limit is {hard}",
            f"ulimit -Hn {needed} as root, LimitNOFILE= of the service, or fewer vCPUs or uffds",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _check_threads(threads: int, what: str) -> None:
    needed = threads + _SPARE_THREADS
    headroom = thread_headroom()
    if headroom is not None and needed > headroom:
        _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
        resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
        headroom = thread_headroom()
    if headroom is not None and needed > headroom:
        raise HostError(
            what,
            f"needs {threads} threads, {headroom} more can be started",
            "raise ulimit -u, kernel.threads-max, kernel.pid_max or the cgroup's pids.max; "
            "or use fewer vCPUs or readers",
        )


def _check_mappings(mappings: int, what: str) -> None:
    allowed = read_int(Path("/proc/sys/vm/max_map_count"))
    if allowed is not None and mappings > allowed:
        raise HostError(
            what,
            f"needs about {mappings} memory mappings, vm.max_map_count is {allowed}",
            f"sysctl vm.max_map_count={mappings * 2}, or fewer vCPUs or uffds",
        )


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


def what_cannot_run(kvm: Kvm, plan: Plan) -> tuple[tuple[Skip, ...], HostError | None]:
    """Return what of `plan` this host cannot run, with the reasons, and the first refusal."""
    skipped, first = [], None
    for index, point in enumerate(plan.points):
        for pager in point.pagers:
            try:
                check_run(kvm, point.work, [pager])
            except HostError as error:
                first = first or error
                skipped.append(Skip(point=index, pager=pager.spec, reason=str(error)))
    return tuple(skipped), first
