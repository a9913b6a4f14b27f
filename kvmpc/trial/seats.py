"""Where the threads of one trial sit, and where they sat: what was asked is done and read back.

`Seats` holds what one trial asked for: a seat for each thread, and a latency request.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

from kvmpc.caution import Caution
from kvmpc.host.cores import shared_cores
from kvmpc.host.headroom import allowed_cpus
from kvmpc.host.numa import cpus_of_nodes, usable_nodes
from kvmpc.kernel import syscalls
from kvmpc.kernel.cpu_latency import LatencyRequest
from kvmpc.result.metrics import CPU_LATENCY
from kvmpc.trial.outcome import Finding
from kvmpc.units import format_cpu_list
from kvmpc.work.placement import Seating
from kvmpc.work.work import Work

__all__ = [
    "Seat",
    "Seats",
    "got",
    "memory_cautions",
]

_UNEVEN: Final = 0.02
"""Interleaved pages that may be on another node than their number says, before it is worth saying.
Sparse runs of 512 pages start where they start."""


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


class Seats:
    """A seat for each thread of one trial, and the latency request it holds.

    Raises: HostError, KernelError, where the latency request is refused.
    """

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
        placement, allowed = self._work.placement, allowed_cpus()
        cores = shared_cores(allowed) if placement.pin else []
        return placement.seating(self._work.vcpus, readers, allowed, cores)

    def _seats(self, cpus: Iterable[frozenset[int]]) -> list[Seat]:
        seated = self._work.placement.seats_threads
        return [Seat(those if seated else None) for those in cpus]

    def seat_readers(self, count: int) -> list[Seat]:
        """Return a seat for each of `count` readers."""
        self.readers = self._seats(self._seating(count).readers)
        return self.readers

    def finding(self, pages_per_node: Mapping[str, int]) -> Finding:
        """Return what was got, and where that is not what was asked.

        Call it when all threads have left. Raises: KernelError.
        """
        return Finding(
            metrics=self.metrics(),
            per_vcpu=got(self.vcpus),
            per_reader=got(self.readers),
            pages_per_node=pages_per_node,
            cautions=tuple(self.cautions(pages_per_node)),
        )

    def metrics(self) -> dict[str, float]:
        """Return the latency limit in force, where this trial asks for one."""
        if self._request is None:
            return {}
        return {CPU_LATENCY.key: float(self._request.in_force_us())}

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
            size=len(moved),
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
    text = f"{off} of {total} pages are {what} ({shown})"
    return [Caution(code, text, remedy, size=off / total)]
