"""Put a `Placement` into effect on this host, and say what came of it.

`check` refuses what this host does not have, before anything is allocated. `Place` is the placement
of one trial: the seats its threads take, the latency request it holds. `bind_memory` sets guest
memory's policy. What was got is read back, never assumed.

What a policy means for a page depends on who allocates it, and in which mapping. A page of guest
memory is allocated by the vCPU's thread for ``none`` (in its fault, or when it fills memory ahead)
and for ``exit`` (in UFFDIO_COPY), by a reader's thread for ``uffd``; in each case under the policy
of guest memory's mapping, as UFFDIO_COPY allocates under that of its destination. So ``node=N`` and
``interleave`` (by page number) put a page on the same node whatever the pager is; ``local`` does
not. A mapping with a policy of its own is left alone by NUMA balancing.
Source: ``vma_alloc_folio`` in mm/userfaultfd.c and mm/memory.c; ``vma_policy_mof`` and
``get_vma_policy`` in mm/mempolicy.c.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from kvmpc import latency, syscalls
from kvmpc.abi import mempolicy
from kvmpc.cautions import Caution
from kvmpc.config import Work
from kvmpc.errors import HostError, KernelError, UsageError
from kvmpc.headroom import allowed_cpus
from kvmpc.kernelfs import (
    Cgroups,
    entries,
    format_cpu_list,
    parse_cpu_list,
    read_fields,
    read_meminfo_bytes,
    read_text,
)
from kvmpc.latency import LatencyRequest
from kvmpc.placement import Placement, Seating, parse_cpus
from kvmpc.units import MIB, PAGE_BYTES

__all__ = [
    "Place",
    "Seat",
    "bind_memory",
    "check",
    "cpus_of_nodes",
    "got",
    "memory_cautions",
    "usable_nodes",
]

_ROOT = Path("/")

_UNEVEN: Final = 0.02
"""Interleaved pages that may be on another node than their number says, before it is worth saying.
Sparse runs of 512 pages start where they start."""


def check(placement: Placement, pages: int, root: Path = _ROOT) -> None:
    """Check that this host can place threads and `pages` of guest memory as asked.

    Raises: UsageError for CPUs and nodes that are not to be had, HostError for what the kernel
    lacks or does not permit.
    """
    _check_cpus("--cpus", placement.cpus, root)
    _check_cpus("--reader-cpus", placement.reader_cpus, root)
    if placement.numa is not None:
        _check_numa(placement, pages, root)
    if placement.cpu_latency_us is not None:
        latency.check(root)


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


def usable_nodes(root: Path = _ROOT) -> list[int]:
    """Return the NUMA nodes that have memory which this process may use; [] without NUMA.

    Source: Documentation/ABI/stable/sysfs-devices-node, has_memory; proc(5), Mems_allowed_list.
    """
    with_memory = parse_cpu_list(read_text(root / "sys/devices/system/node/has_memory") or "")
    allowed = read_fields(root / "proc/self/status").get("Mems_allowed_list")
    if allowed is None:
        return with_memory
    return sorted(set(with_memory).intersection(parse_cpu_list(allowed)))


def cpus_of_nodes(root: Path = _ROOT) -> dict[int, frozenset[int]]:
    """Return the CPUs of each NUMA node; {} without NUMA."""
    return {
        int(path.name.removeprefix("node")): frozenset(
            parse_cpu_list(read_text(path / "cpulist") or "")
        )
        for path in entries(root / "sys/devices/system/node", r"node[0-9]+$")
    }


def _check_numa(placement: Placement, pages: int, root: Path) -> None:
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
        needed, free = pages * PAGE_BYTES, _node_available_bytes(node, root)
        if free is not None and needed > free:
            raise HostError(
                option,
                f"needs {needed / MIB:.0f} MiB on node {node}, {free / MIB:.0f} MiB are available "
                "there",
                "use another node, --numa interleave, less --mem-per-vcpu, or --touch-pages",
            )
    with syscalls.Mapping.anonymous(PAGE_BYTES, what="NUMA check") as page:
        bind_memory(placement, page.address, page.size_bytes, root)


def _node_available_bytes(node: int, root: Path) -> int | None:
    """Return what can be had of a node, counting half of what would have to be dropped first.

    As careful as ``si_mem_available`` (mm/show_mem.c), which makes MemAvailable of a whole host.
    """
    info = read_meminfo_bytes(root / f"sys/devices/system/node/node{node}/meminfo")
    if "MemFree" not in info:
        return None
    dropped = ("Active(file)", "Inactive(file)", "SReclaimable")
    return info["MemFree"] + sum(info.get(name, 0) for name in dropped) // 2


def bind_memory(placement: Placement, address: int, size_bytes: int, root: Path = _ROOT) -> None:
    """Give a mapping the policy that `placement` asks for; call it before anything touches it.

    Raises: HostError where mbind(2) is not there or not permitted, KernelError.
    """
    if placement.numa is None:
        return
    mode, nodes = mempolicy.MPOL_LOCAL, list[int]()
    if placement.node is not None:
        mode, nodes = mempolicy.MPOL_BIND, [placement.node]
    elif placement.numa == "interleave":
        mode, nodes = mempolicy.MPOL_INTERLEAVE, usable_nodes(root)
    try:
        syscalls.mbind(address, size_bytes, mode, nodes)
    except KernelError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM):
            raise HostError(
                f"--numa {placement.numa}",
                str(error),
                "use a kernel with CONFIG_NUMA; in a container, allow mbind in its seccomp profile "
                "(docker: --cap-add SYS_NICE)",
            ) from error
        raise


@dataclass(eq=False)
class Seat:
    """Where one thread is to run, and where it did.

    cpus: the CPUs it is kept to; None = it is left where the process may run.
    cpu: the CPU it was on when it had left its loop. Only of a thread with one CPU in `got` is it
        certain that it was there all the time.
    got: the CPUs it was allowed to run on then.
    """

    cpus: frozenset[int] | None = None
    cpu: int | None = None
    got: frozenset[int] = frozenset()

    def take(self) -> None:
        """Move the calling thread there. Raises: KernelError."""
        if self.cpus is not None:
            syscalls.set_affinity(self.cpus)

    def leave(self) -> None:
        """Note where the calling thread is. Raises: KernelError."""
        self.cpu = syscalls.current_cpu()
        self.got = frozenset(os.sched_getaffinity(0))


class Place:
    """The placement of one trial: a seat for each thread, and the latency request it holds."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.vcpus = self._seats(self._seating(0).vcpus)
        self.readers: list[Seat] = []
        limit_us = work.placement.cpu_latency_us
        self._request = None if limit_us is None else LatencyRequest(limit_us)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._request is not None:
            self._request.close()

    def _seating(self, readers: int) -> Seating:
        return self._work.placement.seating(self._work.vcpus, readers, allowed_cpus())

    def _seats(self, cpus: Iterable[frozenset[int]]) -> list[Seat]:
        seated = self._work.placement.seats_threads
        return [Seat(those if seated else None) for those in cpus]

    def seat_readers(self, count: int) -> list[Seat]:
        """Return a seat for each of `count` readers."""
        self.readers = self._seats(self._seating(count).readers)
        return self.readers

    def metrics(self) -> dict[str, float]:
        """Return the latency limit in force, where this trial asks for one."""
        if self._request is None:
            return {}
        return {"cpu_latency_us": float(self._request.in_force_us())}

    def cautions(self, pages_per_node: Mapping[str, int]) -> list[Caution]:
        """Return where what was got is not what was asked. Call it when all threads have left."""
        found = _seat_cautions([*self.vcpus, *self.readers])
        limit_us = self._work.placement.cpu_latency_us
        in_force_us = limit_us if self._request is None else self._request.in_force_us()
        if in_force_us != limit_us:
            found.append(
                Caution(
                    "cpu-latency",
                    f"--cpu-latency {limit_us} was asked for, {in_force_us} us were in force",
                    "stop what asks for less (tuned-adm profile, a driver)",
                )
            )
        seats = [seat.got for seat in self.vcpus]
        nodes, cpus = usable_nodes(), cpus_of_nodes()
        return found + memory_cautions(self._work, pages_per_node, seats, cpus, nodes)


def got(seats: Sequence[Seat]) -> dict[str, tuple[int, ...]]:
    """Return raw lists by name, one entry per thread, as a result has them.

    `cpu`: where it was when it had left its loop; `cpus_allowed`: on how many CPUs it was allowed
    to run then. 1 of those makes `cpu` certain for all of the trial.
    """
    return {
        "cpu": tuple(-1 if seat.cpu is None else seat.cpu for seat in seats),
        "cpus_allowed": tuple(len(seat.got) for seat in seats),
    }


def _seat_cautions(seats: Iterable[Seat]) -> list[Caution]:
    moved = [seat for seat in seats if seat.cpus is not None and seat.got != seat.cpus]
    if not moved:
        return []
    asked = format_cpu_list(frozenset[int]().union(*(seat.cpus or () for seat in moved)))
    were = format_cpu_list(frozenset[int]().union(*(seat.got for seat in moved)))
    return [
        Caution(
            "affinity-changed",
            f"{len(moved)} threads were put on CPUs {asked} and were allowed {were} at the end",
            "keep other tools from moving kvmpc's threads, and CPUs online",
        )
    ]


def memory_cautions(
    work: Work,
    pages_per_node: Mapping[str, int],
    vcpu_cpus: Sequence[frozenset[int]],
    cpus_by_node: Mapping[int, frozenset[int]],
    nodes: Sequence[int],
) -> list[Caution]:
    """Return where pages are on other nodes than asked, or than the vCPUs that touch them.

    vcpu_cpus: the CPUs each vCPU's thread was allowed. nodes: those with memory to use.
    """
    total, numa = sum(pages_per_node.values()), work.placement.numa
    pages = {int(node): count for node, count in pages_per_node.items()}
    if not total or len(cpus_by_node) < 2:
        return []
    tolerated = 0.0
    if numa == "interleave":
        room = dict.fromkeys(nodes, total / len(nodes))
        tolerated = max(_UNEVEN * total, len(nodes))
        code, what = "numa-uneven", "beyond an even share of their nodes"
        remedy = "free memory on all nodes, or touch all pages"
    elif work.placement.node is not None:
        room = {work.placement.node: float(total)}
        code, what = "numa-elsewhere", f"not on node {work.placement.node}"
        remedy = "look for what moves pages (numad, migratepages)"
    else:
        # At most: a vCPU that may run on several nodes has its pages in the room of each.
        own = total if work.overlap else total / len(vcpu_cpus)
        room = {
            node: sum(own for allowed in vcpu_cpus if allowed & cpus)
            for node, cpus in cpus_by_node.items()
        }
        code, what = "numa-elsewhere", "on another node than the vCPU that touches them, or more"
        remedy = (
            "a page is on the node of the thread that installs it, or the next when that is full: "
            "put readers on the vCPUs' nodes (--reader-cpus), or use --numa node=N"
        )
    off = round(sum(max(0.0, count - room.get(node, 0.0)) for node, count in pages.items()))
    if off <= tolerated:
        return []
    shown = ", ".join(f"node {node}: {count}" for node, count in sorted(pages.items()))
    return [Caution(code, f"{off} of {total} pages are {what} ({shown})", remedy)]
