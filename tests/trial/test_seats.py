"""Placement on a host: what is done, and what is said of what was got."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import threading
from pathlib import Path
from typing import Any

import pytest

from kvmpc.abi import mempolicy
from kvmpc.errors import HostError, KernelError
from kvmpc.host.numa import usable_nodes
from kvmpc.kernel import syscalls
from kvmpc.kernel.cpu_latency import LatencyRequest
from kvmpc.trial import seats
from kvmpc.trial.seats import Seat, Seats, got, memory_cautions
from kvmpc.units import PAGE_BYTES
from kvmpc.vm.memory import GuestMemory
from kvmpc.vm.policy import bind_memory
from kvmpc.work.placement import Placement
from kvmpc.work.work import Work

ALLOWED = sorted(os.sched_getaffinity(0))
NODES = usable_nodes()


def make_work(vcpus: int = 2, *, overlap: bool = False, **options: Any) -> Work:
    """Make work that is placed so."""
    return Work(
        vcpus=vcpus,
        mem_per_vcpu_bytes=PAGE_BYTES,
        overlap=overlap,
        placement=Placement(**options),
    )


FIRST_NODE = f"node={NODES[0] if NODES else 0}"

needs_numa = pytest.mark.skipif(not NODES, reason="this kernel has no NUMA nodes")


# CPUs


def test_a_seat_is_taken_by_the_thread_that_sits_down_and_by_no_other() -> None:
    seat = Seat(frozenset({ALLOWED[-1]}))

    def sit() -> None:
        seat.take()
        seat.leave()

    thread = threading.Thread(target=sit)
    thread.start()
    thread.join()
    assert seat.cpu == ALLOWED[-1]
    assert seat.got == {ALLOWED[-1]}
    assert sorted(os.sched_getaffinity(0)) == ALLOWED
    assert got([seat]) == {"cpu": (ALLOWED[-1],), "cpus_allowed": (1,)}


def test_a_reader_is_seated_on_another_core_than_the_vcpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cores = [frozenset({cpu, cpu + 4}) for cpu in range(4)]
    monkeypatch.setattr(seats, "allowed_cpus", lambda: list(range(8)))
    monkeypatch.setattr(seats, "shared_cores", lambda _: cores)
    with Seats(make_work(vcpus=1, pin=True, cpus="0,4,1,5")) as taken:
        assert [seat.cpus for seat in taken.seat_readers(3)] == [{1}, {5}, {4}]


def test_a_seat_that_is_gone_is_a_typed_error() -> None:
    with pytest.raises(KernelError, match="sched_setaffinity to CPUs"):
        Seat(frozenset({8191})).take()


def test_a_thread_that_was_moved_away_is_told_of() -> None:
    with Seats(make_work(pin=True)) as taken:
        taken.seat_readers(1)
        for seat in (*taken.vcpus, *taken.readers):
            assert seat.cpus is not None
            seat.got = seat.cpus
        assert taken.cautions({}) == []
        taken.vcpus[1].got = frozenset({8190, 8191})
        (caution,) = taken.cautions({})
    assert caution.code == "affinity-changed"
    assert "8190-8191" in caution.text


def test_nothing_asked_for_leaves_threads_alone() -> None:
    with Seats(make_work()) as taken:
        taken.seat_readers(1)
        assert [seat.cpus for seat in (*taken.vcpus, *taken.readers)] == [None] * 3
        assert taken.metrics() == {}
        assert taken.cautions({}) == []


# NUMA


@needs_numa
@pytest.mark.parametrize(
    ("numa", "policy"),
    [("local", "local"), ("interleave", "interleave:"), (FIRST_NODE, "bind:")],
)  # fmt: skip
def test_guest_memory_has_the_policy_and_the_low_slot_has_not(numa: str, policy: str) -> None:
    with GuestMemory(PAGE_BYTES, 23 * PAGE_BYTES, Placement(numa=numa)) as memory:
        syscalls.write_own_memory(memory.hva_of_page(22), b"x")
        policies = {}
        with open("/proc/self/numa_maps", encoding="ascii", errors="replace") as file:
            for line in file:
                start, word, *_ = line.split()
                policies[int(start, 16)] = word
        assert policies[memory.data_hva].startswith(policy)
        assert policies.get(memory.low_hva, "default") == "default"
        assert sum(memory.presence.pages_per_node().values()) == 1


@pytest.mark.parametrize("node", [0, 63, 64, 1022])
def test_a_node_mask_reaches_the_kernel_whole(monkeypatch: pytest.MonkeyPatch, node: int) -> None:
    seen = {}

    def syscall(number: int, *arguments: int, call: str) -> int:
        del number, call
        address, bits = arguments[3:5]
        seen["bits"] = bits
        seen["mask"] = ctypes.string_at(address, -(-bits // 64) * 8)
        return 0

    monkeypatch.setattr(syscalls, "syscall", syscall)
    syscalls.mbind(0, PAGE_BYTES, mempolicy.MPOL_BIND, [node])
    # One more than the highest bit: the kernel counts one less.
    assert seen["bits"] == node + 2
    assert int.from_bytes(seen["mask"], "little") == 1 << node


@pytest.mark.parametrize("number", ["EPERM", "ENOSYS"])
def test_an_mbind_that_is_not_permitted_comes_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    def mbind(*_: object) -> None:
        raise KernelError("mbind", getattr(errno, number))

    monkeypatch.setattr(syscalls, "mbind", mbind)
    with pytest.raises(HostError, match="seccomp"):
        bind_memory(Placement(numa="local"), 0, PAGE_BYTES)


CPUS_BY_NODE = {0: frozenset({0, 1}), 1: frozenset({2, 3})}


@pytest.mark.parametrize(
    ("numa", "pages", "vcpu_cpus", "off"),
    [
        ("node=1", {"1": 994}, [{0}, {0}], 0),
        ("node=1", {"0": 1, "1": 993}, [{0}, {0}], 1),
        ("local", {"0": 994}, [{0}, {1}], 0),
        ("local", {"0": 497, "1": 497}, [{0}, {2}], 0),
        # As with one reader, on the node of only one of the vCPUs.
        ("local", {"1": 994}, [{0}, {2}], 497),
        ("local", {"0": 23, "1": 971}, [{3}, {2}], 23),
        # May run on both nodes: not known to be away from its pages.
        ("local", {"1": 994}, [{0, 1, 2, 3}, {2}], 0),
        ("local", {"2": 994}, [{0, 1, 2, 3}, {2}], 994),
        (None, {"0": 994}, [{3}, {3}], 994),
        (None, {"0": 500, "1": 494}, [{0, 1, 2, 3}] * 2, 0),
        ("interleave", {"0": 497, "1": 497}, [{0}, {0}], 0),
        ("interleave", {"0": 516, "1": 478}, [{0}, {0}], 0),
        ("interleave", {"0": 600, "1": 394}, [{0}, {0}], 103),
        ("interleave", {"0": 994}, [{0}, {0}], 497),
        ("interleave", {"0": 450, "1": 450, "2": 94}, [{0}, {0}], 94),
        ("interleave", {}, [{0}, {0}], 0),
        ("node=0", {}, [{0}, {0}], 0),
    ],
)
def test_pages_on_other_nodes_than_asked_or_than_their_vcpus_are_told_of(
    numa: str | None, pages: dict[str, int], vcpu_cpus: list[set[int]], off: int
) -> None:
    work, seats = make_work(numa=numa), [frozenset(cpus) for cpus in vcpu_cpus]
    found = memory_cautions(work, pages, seats, CPUS_BY_NODE, [0, 1])
    assert len(found) == (1 if off else 0)
    for caution in found:
        assert caution.code == ("numa-uneven" if numa == "interleave" else "numa-elsewhere")
        assert caution.text.startswith(f"{off} of 994 pages are ")


def test_pages_that_all_vcpus_share_may_be_near_any_of_them() -> None:
    seats = [frozenset({0}), frozenset({2})]
    work = make_work(numa="local", overlap=True)
    assert memory_cautions(work, {"1": 997}, seats, CPUS_BY_NODE, [0, 1]) == []
    assert memory_cautions(work, {"2": 997}, seats, CPUS_BY_NODE, [0, 1])


def test_a_host_with_one_node_has_nothing_to_tell() -> None:
    work, node = make_work(numa="interleave"), {0: frozenset({0})}
    assert memory_cautions(work, {"0": 997}, [frozenset({0})] * 2, node, [0]) == []


# Idle states


@pytest.mark.skipif(not os.access("/dev/cpu_dma_latency", os.W_OK), reason="needs the device")
def test_a_latency_request_is_in_force_while_it_is_open_and_gone_afterwards() -> None:
    def in_force_us() -> int:
        return int(struct.unpack("=i", Path("/dev/cpu_dma_latency").read_bytes()[:4])[0])

    before_us = in_force_us()
    asked_us = min(23, before_us)
    with LatencyRequest(asked_us) as request:
        assert request.in_force_us() == asked_us
        assert in_force_us() == asked_us
        with Seats(make_work(cpu_latency_us=997)) as taken:
            assert taken.metrics() == {"cpu_latency_us": asked_us}
            (caution,) = taken.cautions({})
            assert caution.code == "cpu-latency"
            assert "997" in caution.text
    assert in_force_us() == before_us
