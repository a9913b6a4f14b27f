"""Threads and memory are where they were asked to be, whatever the pager is."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvmpc.host.numa import usable_nodes
from kvmpc.pagers.pager import Scene, Supply
from kvmpc.result.records import TrialResult
from kvmpc.work.placement import Placement

pytestmark = pytest.mark.kvm

ALLOWED = sorted(os.sched_getaffinity(0))
FIRST, LAST = ALLOWED[0], ALLOWED[-1]
PAGERS = ("none,host=cold", "none,host=populated", "uffd,readers=2,uffds=per-vcpu", "exit")
DEVICE = Path("/dev/cpu_dma_latency")

Run = Callable[..., TrialResult]


@pytest.mark.parametrize("spec", PAGERS)
def test_pinned_threads_run_on_their_cpus_and_say_so(run: Run, spec: str) -> None:
    placement = Placement(pin=True, cpus=f"{LAST}", reader_cpus=f"{FIRST}")
    result = run(spec, pages=997, vcpus=3, placement=placement)
    assert result.error is None
    assert result.per_vcpu["cpu"] == (LAST,) * 3
    assert result.per_vcpu["cpus_allowed"] == (1,) * 3
    readers = 6 if result.per_reader["received"] else 0
    assert result.per_reader["cpu"] == (FIRST,) * readers
    assert result.per_reader["cpus_allowed"] == (1,) * readers
    assert sorted(os.sched_getaffinity(0)) == ALLOWED


def test_vcpus_go_round_the_list_in_its_order(run: Run) -> None:
    cpus = ",".join(map(str, reversed(ALLOWED)))
    vcpus = len(ALLOWED) + 1
    result = run("exit", vcpus=vcpus, placement=Placement(pin=True, cpus=cpus))
    assert result.error is None
    assert result.per_vcpu["cpu"] == (*reversed(ALLOWED), ALLOWED[-1])


@pytest.mark.parametrize("spec", PAGERS)
def test_a_list_without_pin_keeps_threads_to_it(run: Run, spec: str) -> None:
    result = run(spec, placement=Placement(cpus=f"{LAST}"))
    assert result.error is None
    assert set(result.per_vcpu["cpu"]) | set(result.per_reader["cpu"]) == {LAST}


def test_without_placement_threads_may_run_where_the_process_may(run: Run) -> None:
    result = run("uffd")
    assert result.error is None
    assert result.per_vcpu["cpus_allowed"] == (len(ALLOWED),) * 3
    assert set(result.per_vcpu["cpu"]) <= set(ALLOWED)
    assert result.per_reader["cpus_allowed"] == (len(ALLOWED),)
    assert "cpu_latency_us" not in result.metrics


def test_a_thread_is_on_its_cpu_before_it_is_ready(run: Run) -> None:
    seen: dict[int, set[int]] = {}

    def look(_: Supply, vcpu: int) -> None:
        seen[vcpu] = os.sched_getaffinity(0)

    run("exit", before_ready=look, placement=Placement(pin=True, cpus=f"{LAST}"))
    assert seen == {vcpu: {LAST} for vcpu in range(3)}


@pytest.mark.skipif(not usable_nodes(), reason="this kernel has no NUMA nodes")
@pytest.mark.parametrize("spec", PAGERS)
@pytest.mark.parametrize("mode", ["local", "interleave", "node"])
def test_memory_has_its_policy_and_its_pages_are_on_the_nodes_asked_for(
    run: Run, spec: str, mode: str
) -> None:
    node = usable_nodes()[0]
    numa = f"node={node}" if mode == "node" else mode
    policies = []

    def look(scene: Scene) -> None:
        with open("/proc/self/numa_maps", encoding="ascii", errors="replace") as file:
            for line in file:
                start, policy, *_ = line.split()
                if int(start, 16) == scene.memory.data_hva:
                    policies.append(policy)

    result = run(spec, on_scene=look, pages=997, vcpus=1, placement=Placement(numa=numa))
    assert result.error is None
    expected = {"node": f"bind:{node}", "interleave": "interleave:", "local": "local"}[mode]
    assert len(policies) == 1
    assert policies[0].startswith(expected)
    assert sum(result.pages_per_node.values()) == 997
    if mode == "node":
        assert result.pages_per_node == {str(node): 997}
    assert not [caution for caution in result.warnings if caution.code.startswith("numa")]


@pytest.mark.skipif(not os.access(DEVICE, os.W_OK), reason=f"needs {DEVICE}")
@pytest.mark.parametrize("spec", PAGERS)
def test_a_latency_request_is_held_for_every_pager_alike_and_no_longer(run: Run, spec: str) -> None:
    def in_force_us() -> int:
        return int(struct.unpack("=i", DEVICE.read_bytes()[:4])[0])

    before_us, seen = in_force_us(), []

    def look(*_: Any) -> None:
        seen.append(in_force_us())

    result = run(spec, on_scene=look, before_ready=look, placement=Placement(cpu_latency_us=0))
    assert result.error is None
    assert seen == [0] * 4
    assert result.metrics["cpu_latency_us"] == 0
    assert in_force_us() == before_us
