"""What on a host tilts a comparison of pagers, said from its facts.

Knows only the facts that `kvmpc.host.facts.collect` returns, so that a result from another host can
be judged here. A fact that is absent says nothing: no sentence is made from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from kvmpc.caution import HOST, Caution
from kvmpc.result.facts import Facts
from kvmpc.units import GIB, format_cpu_list, parse_cpu_list
from kvmpc.work.placement import ANYWHERE, Placement, Seating

__all__ = ["LOAD", "cautions_of_host"]

LOAD: Final = "host-load"
"""The code of what ran before the start."""

_ON_ENTRY: Final = frozenset({
    "indirect_target_selection", "l1tf", "mds", "meltdown", "mmio_stale_data",
    "reg_file_data_sampling", "retbleed", "spec_rstack_overflow", "spectre_v2", "tsa",
    "tsx_async_abort", "vmscape",
})  # fmt: skip
"""Vulnerabilities whose mitigation costs time at each entry to the kernel or exit of the guest.

By their names in sysfs. Source: Documentation/admin-guide/hw-vuln/, "Mitigation mechanism" of each:
another page table, predictors restricted or flushed, buffers cleared.
"""


_CHEAP: Final = frozenset({"DEBUG_LIST", "DEBUG_PREEMPT", "DEBUG_ATOMIC_SLEEP", "PREEMPT_RT"})
"""Options of a kernel that people run in production with; of the others nobody does."""


def cautions_of_host(
    facts: Mapping[str, object],
    *,
    vcpu_threads: int,
    reader_threads: int = 0,
    placement: Placement = ANYWHERE,
) -> list[Caution]:
    """Return one caution for each thing on this host that tilts a comparison, with its remedy.

    facts: as `kvmpc.host.facts.collect` returns them, or as read back from a result.
    vcpu_threads, reader_threads: the most that any trial of the run starts.
    placement: that of the run.
    """
    read = Facts(facts)
    seating = _seating(read, vcpu_threads, reader_threads, placement)
    return [
        *_threads(read, vcpu_threads, reader_threads, placement),
        *([] if seating is None else _places(read, seating, placement)),
        *_kernel(read),
        *_processor(read, placement),
        *_paging(read),
        *_pages(read),
        *_limits(read),
    ]


def _threads(read: Facts, vcpus: int, readers: int, placement: Placement) -> Iterator[Caution]:
    allowed, online = read.number("cpu.allowed_count"), read.number("cpu.online_count")
    if placement.seats_threads:
        yield from _seats(read, vcpus, readers, placement)
    elif allowed is not None and allowed < vcpus:
        yield _fewer_than_vcpus(vcpus, f"share {_cpus(allowed)}")
    elif allowed is not None and allowed < vcpus + readers:
        yield _fewer_than_threads(vcpus, readers, f"share {_cpus(allowed)}")
    if allowed is not None and online is not None and allowed < online:
        yield Caution(
            "affinity",
            f"kvmpc may use {allowed:g} of {online:g} online CPUs: sleepers wake on few CPUs, "
            "which tilts uffd",
            "widen the affinity (taskset, cpuset)",
        )
    quota = read.number("cgroup.quota_cpus")
    if quota is not None:
        yield Caution(
            "cpu-quota",
            f"a cgroup quota of {quota:g} CPUs stops all threads when used up: pagers that burn "
            "CPU lose most",
            "lift cpu.max (cpu.cfs_quota_us)",
        )
    load = read.number("load.avg1")
    if load is not None and load > max(0.5, 0.1 * (allowed or online or 1)):
        yield Caution(
            LOAD,
            f"the load average was {load:g} before the start: threads that never sleep (exit, "
            "none) lose most to what runs beside",
            "wait until the host is idle",
            size=load,
        )


def _seats(read: Facts, vcpus: int, readers: int, placement: Placement) -> Iterator[Caution]:
    """Say what `_threads` does of all CPUs, of those that the threads are put on."""
    seating = _seating(read, vcpus, readers, placement)
    if seating is None:
        return
    own = frozenset[int]().union(*seating.vcpus)
    theirs = frozenset[int]().union(*seating.readers)
    how = "are pinned in turn to" if placement.pin else "are kept to"
    if len(own) < vcpus:
        yield _fewer_than_vcpus(vcpus, f"{how} {_cpus(len(own))}")
    elif len(own | theirs) < vcpus + readers or (placement.pin and own & theirs):
        # Pinned, a reader may share its CPU with a vCPU although others are free.
        yield _fewer_than_threads(vcpus, readers, f"{how} {_cpus(len(own | theirs))}")


def _seating(read: Facts, vcpus: int, readers: int, placement: Placement) -> Seating | None:
    """Return where threads of a trial sat, or None where the host's facts do not say."""
    allowed = parse_cpu_list(read.text("cpu.allowed") or "")
    return placement.seating(vcpus, readers, allowed, _cores(read)) if allowed else None


def _cores(read: Facts) -> list[frozenset[int]]:
    return [frozenset(parse_cpu_list(str(core))) for core in read.items("cpu.cores") or []]


def _places(read: Facts, seating: Seating, placement: Placement) -> Iterator[Caution]:
    """Yield what is uneven about the CPUs that the threads are on: cores, nodes, isolation."""
    seats = [*seating.vcpus, *seating.readers]
    used = frozenset[int]().union(*seats)
    shared = [core & used for core in _cores(read) if len(core & used) > 1]
    if shared and placement.pin:
        beside = sum(bool(seat & core) for seat in seats for core in shared)
        yield Caution(
            "smt-shared",
            f"{beside} of {len(seats)} pinned threads share a core with another: each slows the "
            "other down, vCPUs and readers (uffd) alike",
            "give --cpus and --reader-cpus one thread of each core",
            size=beside,
        )
    elif shared:
        yield Caution(
            "smt",
            f"its cores run {max(map(len, shared))} threads each, and threads that are not pinned "
            "may share one",
            "--pin",
            kind=HOST,
        )
    nodes = [
        node
        for node in read.items("cpu.numa_nodes") or []
        if isinstance(node, Mapping) and used & {*parse_cpu_list(str(node.get("cpus")))}
    ]
    if len(nodes) > 1 and not placement.pin:
        yield Caution(
            "numa-unpinned",
            f"threads may run on any of {len(nodes)} NUMA nodes: which pages are remote differs "
            "from trial to trial",
            "--pin --numa local, or the --cpus of one node with --numa node=N",
            size=len(nodes),
        )
    yield from _isolation(read, used, placement)


def _isolation(read: Facts, used: frozenset[int], placement: Placement) -> Iterator[Caution]:
    """Yield what isolated CPUs do to threads.

    Source: Documentation/admin-guide/kernel-parameters.txt, ``isolcpus=`` and ``nohz_full=``.
    """
    unbalanced = used.intersection(parse_cpu_list(read.text("cpu.isolated") or ""))
    apart = unbalanced | used.intersection(parse_cpu_list(read.text("cpu.nohz_full") or ""))
    if apart and used - apart:
        yield Caution(
            "isolated-mixed",
            f"CPUs {format_cpu_list(apart)} are isolated (isolcpus, nohz_full) and "
            f"{format_cpu_list(used - apart)} are not: threads fare differently by their CPU",
            "give --cpus and --reader-cpus one kind of CPUs",
        )
    if len(unbalanced) > 1 and not placement.pin:
        yield Caution(
            "isolated-unpinned",
            f"the scheduler moves no thread between isolated CPUs ({format_cpu_list(unbalanced)}): "
            "those that are not pinned may all stay on one",
            "--pin",
        )


def _kernel(read: Facts) -> Iterator[Caution]:
    """Yield what makes this kernel slower than others of its release."""
    options = [str(name) for name in read.items("kernel.debug_options") or []]
    if costly := [name for name in options if name not in _CHEAP]:
        yield Caution(
            "debug-kernel",
            f"this kernel is built to find bugs ({_few(costly)}): locks, lists and accesses to "
            "memory cost more",
            "measure on a kernel built without",
        )
    if cheap := [name for name in options if name in _CHEAP]:
        yield Caution(
            "kernel-build",
            f"its kernel is built with {_few(cheap)}, which makes locks, lists and wake-ups dearer",
            "compare kernels that are built alike",
            kind=HOST,
        )
    names = [*(read.items("tracing.events") or []), *(read.items("tracing.functions") or [])]
    traced = [*filter(None, [read.text("tracing.tracer")]), *map(str, names)]
    kprobes = read.number("tracing.kprobes_count")
    if kprobes and not traced:
        traced = [f"{kprobes:g} kprobes"]
    if traced:
        yield Caution(
            "tracing",
            f"the kernel is traced ({_few(traced)}): exits and wake-ups cost more",
            "stop it (trace-cmd reset, bpftool prog)",
        )
    if read.text("kvm.modules.kvm.nx_huge_pages") == "Y":
        yield Caution(
            "nx-huge-pages",
            "KVM splits huge pages that a guest executes (nx_huge_pages), and a worker in kvmpc's "
            "process zaps them now and then",
            "compare hosts that have the same",
            kind=HOST,
        )


def _fewer_than_vcpus(vcpus: int, where: str) -> Caution:
    return Caution(
        "fewer-cpus-than-vcpus",
        f"{vcpus} vCPU threads {where}: fewer fault at once, so contention "
        "(uffd's weak point) stays hidden",
        "use one vCPU per CPU at most",
    )


def _fewer_than_threads(vcpus: int, readers: int, where: str) -> Caution:
    return Caution(
        "fewer-cpus-than-threads",
        f"{vcpus} vCPU and {readers} reader threads {where}: uffd pays for "
        "its readers with vCPU time",
        "use fewer vCPUs or readers",
    )


def _processor(read: Facts, placement: Placement) -> Iterator[Caution]:
    limit_us = placement.cpu_latency_us
    deep = _deep_states(read, limit_us)
    if limit_us is not None and read.text("cpuidle.driver") == "none":
        yield Caution(
            "cpu-latency-unheeded",
            f"--cpu-latency {limit_us} changes nothing here: no cpuidle driver is there to heed it",
            "measure where cpuidle has a driver, or leave it out",
        )
    if deep:
        yield Caution(
            "deep-idle",
            f"idle states deeper than C1 are on ({_few(deep)}): they punish only what sleeps "
            "(uffd vCPUs and readers)",
            "cpupower idle-set -D 3",
        )
    mitigated = [
        name
        for name, text in read.group("vulnerabilities").items()
        if name in _ON_ENTRY and isinstance(text, str) and "Mitigation" in text
    ]
    if mitigated:
        yield Caution(
            "mitigations",
            f"CPU mitigations ({_few(mitigated)}) make exits and system calls dearer",
            "compare hosts that have the same",
            kind=HOST,
        )
    governors = [str(name) for name in read.items("frequency.governors") or []]
    if governors and governors != ["performance"]:
        yield Caution(
            "governor",
            f"the frequency governor is {_few(governors)}: threads that sleep (uffd) run slower",
            "cpupower frequency-set -g performance",
        )
    if read.number("frequency.boost"):
        yield Caution(
            "boost",
            "turbo is on: CPUs are the faster the fewer are busy",
            "compare hosts that have the same",
            kind=HOST,
        )
    if read.number("cpu.hypervisor"):
        yield Caution(
            "nested-host",
            "it is itself a VM: exits and wake-ups cost more than on bare metal, to which neither "
            "speeds nor ratios carry over",
            "measure on bare metal",
            kind=HOST,
        )
    clocksource = read.text("cpu.clocksource")
    if clocksource is not None and clocksource != "tsc":
        yield Caution(
            "clocksource",
            f"the clock source is {clocksource}, not tsc: host time stamps may cost more and "
            "drift from the guest's TSC",
            "boot with tsc=reliable if it is sound",
        )
    if 0 in (read.number("cpu.constant_tsc"), read.number("cpu.nonstop_tsc")):
        yield Caution(
            "tsc-not-invariant",
            "the TSC is not both constant and nonstop: fault times taken by the guest are wrong "
            "where vCPUs sleep (uffd)",
            "use rates only",
            kind=HOST,
        )


def _deep_states(read: Facts, asked_us: int | None) -> list[str]:
    """Return the names of the idle states in use that take longer to leave than C1.

    C1 takes 1 to 2 us by every driver's table; acpi_idle may give more, but calls it C1. A PM QoS
    request forbids the states above its latency although they are not shown as disabled: one that
    was there before the run, or that the run makes itself (`asked_us`).
    """
    limits_us = [read.number("cpuidle.latency_limit_us"), asked_us]
    limit_us = min((us for us in limits_us if us is not None), default=None)
    deep = []
    for state in read.items("cpuidle.states") or []:
        if not isinstance(state, Mapping) or state.get("disabled"):
            continue
        latency_us, name = state.get("latency_us"), str(state.get("name"))
        if not isinstance(latency_us, int) or (limit_us is not None and latency_us > limit_us):
            continue
        if latency_us > 2 and name not in ("POLL", "C1", "C1_ACPI"):
            deep.append(name)
    return deep


def _paging(read: Facts) -> Iterator[Caution]:
    module = read.text("kvm.vendor_module")
    paging = read.text("kvm.second_level_paging")
    if paging == "shadow":
        yield Caution(
            "shadow-paging",
            "KVM uses shadow paging: each fault costs more in every pager and differences shrink",
            f"load {module or 'the vendor module'} with EPT or NPT on",
        )
    elif paging is None and read.group("kvm"):
        yield Caution(
            "paging-unknown",
            f"whether KVM uses EPT or NPT is unknown (module {module or 'not found'}): shadow "
            "paging would shrink differences",
            "use kvm_intel or kvm_amd",
            kind=HOST,
        )


def _pages(read: Facts) -> Iterator[Caution]:
    nodes = read.items("cpu.numa_nodes") or []
    if read.number("memory.numa_balancing") and len(nodes) != 1:
        yield Caution(
            "numa-balancing",
            "NUMA balancing is on: it unmaps present pages, so every pager takes faults that are "
            "not its own",
            "sysctl kernel.numa_balancing=0",
        )
    if _mglru_walks(read) and read.number("memory.pressure_some_avg60_percent"):
        yield Caution(
            "mglru",
            "MGLRU is on and memory is under pressure: it ages pages by scanning, guest pages "
            "through KVM, which slows all pagers",
            "free memory first",
        )
    damon = [str(name) for name in read.items("memory.damon_running") or []]
    if damon:
        yield Caution(
            "damon",
            f"DAMON is running ({_few(damon)}): it clears accessed bits of guest pages, "
            "which slows all pagers",
            "turn it off in sysfs",
        )
    if read.number("memory.ksm_run") == 1:
        yield Caution(
            "ksm",
            "KSM is on: ksmd scans and merges on CPU time that readers (uffd) miss most",
            "echo 0 > /sys/kernel/mm/ksm/run",
        )
    if read.text("memory.thp_enabled") == "always":
        yield Caution(
            "thp-always",
            "THP is always on: guest data is opted out by default, but khugepaged competes for "
            "CPU and mmap_lock",
            "set it to madvise",
        )
    swap = read.number("memory.swap_total_bytes")
    if swap:
        used = read.number("memory.swap_used_bytes") or 0
        yield Caution(
            "swap",
            f"swap is on ({used / GIB:.1f} of {swap / GIB:.1f} GiB used): a page swapped out "
            "faults again, unseen by uffd and exit",
            "swapoff -a",
        )


def _mglru_walks(read: Facts) -> bool:
    """Return whether the multi-gen LRU is switched on.

    Source: Documentation/admin-guide/mm/multigen_lru.rst, "Kill switch": bit 0, in hexadecimal.
    """
    try:
        return bool(int(read.text("memory.mglru_enabled") or "0", 16) & 1)
    except ValueError:
        return False


def _limits(read: Facts) -> Iterator[Caution]:
    limit, total = read.number("cgroup.memory_limit_bytes"), read.number("memory.total_bytes")
    if limit is not None and (total is None or limit < total):
        yield Caution(
            "memory-limit",
            f"a cgroup limits memory to {limit / GIB:.3g} GiB: near it each install reclaims "
            "first, which tilts every pager",
            "raise memory.max",
        )


def _cpus(count: float) -> str:
    return f"{count:g} CPU{'' if count == 1 else 's'}"


def _few(names: list[str]) -> str:
    """Return at most three names and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
