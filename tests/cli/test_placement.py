"""Placement as users ask for it: seen from outside while kvmpc runs, refused by name, recorded."""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from kvmpc.host.files import read_fields
from kvmpc.host.numa import usable_nodes
from kvmpc.units import format_cpu_list

ALLOWED = sorted(os.sched_getaffinity(0))
FIRST, LAST = str(ALLOWED[0]), str(ALLOWED[-1])

SLOW = ("--vcpus", "2", "--mem-per-vcpu", "4M", "--fetch-delay", "1ms", "--warmup", "0")
"""1024 pages a vCPU, a millisecond each: long enough to be looked at."""


def _allowed_lists(pid: int) -> Counter[str]:
    """Return how many threads of a process are allowed which CPUs, as the kernel says.

    Not KVM's own: kvm-nx-lpage-recovery is started by the first KVM_RUN and inherits its CPUs.
    """
    lists: Counter[str] = Counter()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            status = read_fields(task / "status")
            lists[status["Cpus_allowed_list"]] += not status["Name"].startswith("kvm-")
    return lists


def _data_policies(pid: int) -> set[str]:
    """Return the policies of mappings that have one."""
    with open(f"/proc/{pid}/numa_maps", encoding="ascii", errors="replace") as file:
        return {line.split()[1] for line in file} - {"default"}


@pytest.mark.kvm
@pytest.mark.skipif(len(ALLOWED) < 2, reason="needs two CPUs")
def test_threads_memory_and_idle_states_are_as_asked_while_it_runs(kvmpc):
    options = ["--pin", "--cpus", f"{LAST},{FIRST}", "--reader-cpus", FIRST]
    numa = usable_nodes()
    if numa:
        options += ["--numa", f"node={numa[0]}"]
    device = os.access("/dev/cpu_dma_latency", os.W_OK)
    if device:
        options += ["--cpu-latency", "0"]
    process = kvmpc.start("run", "uffd", *SLOW, *options, "--json", str(kvmpc.json))
    kvmpc.wait_for_json(process)
    # The main thread where it may be; vcpu0 on LAST; vcpu1 and the reader on FIRST.
    wanted = Counter({format_cpu_list(ALLOWED): 1, LAST: 1, FIRST: 2})
    deadline = time.monotonic() + 10
    while (seen := _allowed_lists(process.pid)) != wanted and time.monotonic() < deadline:
        time.sleep(0.01)
    policies = _data_policies(process.pid) if numa else set()
    opened = [os.readlink(fd) for fd in Path(f"/proc/{process.pid}/fd").iterdir()]
    finished = process.finish()
    assert seen == wanted
    if numa:
        assert policies == {f"bind:{numa[0]}"}
    assert opened.count("/dev/cpu_dma_latency") == device
    assert finished.code == 0
    result = kvmpc.result()
    assert result.options["placement"] == {
        "pin": True,
        "cpus": f"{LAST},{FIRST}" if int(LAST) != int(FIRST) - 1 else f"{LAST}-{FIRST}",
        "reader_cpus": FIRST,
        "numa": f"node={numa[0]}" if numa else None,
        "cpu_latency_us": 0 if device else None,
    }
    (trial,) = result.trials
    assert trial.per_vcpu["cpu"] == (int(LAST), int(FIRST))
    assert trial.per_vcpu["cpus_allowed"] == (1, 1)
    assert trial.per_reader["cpu"] == (int(FIRST),)
    if numa:
        assert trial.pages_per_node == {str(numa[0]): 2048}
    assert trial.metrics.get("cpu_latency_us") == (0 if device else None)
    assert "fewer-cpus-than-threads" in {caution.code for caution in result.warnings}


@pytest.mark.kvm
@pytest.mark.skipif(len(ALLOWED) < 2, reason="needs two CPUs")
def test_a_thread_that_somebody_moves_away_is_a_caution(kvmpc):
    process = kvmpc.start("run", "uffd", *SLOW, "--pin", "--cpus", LAST, "--json", str(kvmpc.json))
    kvmpc.wait_for_json(process)
    deadline = time.monotonic() + 10
    while _allowed_lists(process.pid)[LAST] < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        if int(task.name) != process.pid:
            os.sched_setaffinity(int(task.name), ALLOWED)
    assert process.finish().code == 0
    (trial,) = kvmpc.result().trials
    (caution,) = (found for found in trial.warnings if found.code == "affinity-changed")
    assert f"on CPUs {LAST} and were allowed {format_cpu_list(ALLOWED)}" in caution.text
    assert trial.per_vcpu["cpus_allowed"] == (len(ALLOWED),) * 2


@pytest.mark.kvm
def test_by_default_there_is_a_vcpu_for_each_cpu_of_the_list(kvmpc):
    finished = kvmpc(
        "run", "exit", "--mem-per-vcpu", "92K", "--warmup", "0", "--cpus", LAST,
        "--json", str(kvmpc.json),
    )  # fmt: skip
    assert finished.code == 0
    assert kvmpc.result().options["vcpus"] == 1


@pytest.mark.kvm
def test_more_vcpus_than_cpus_to_pin_them_to_is_a_caution(kvmpc, tiny):
    finished = kvmpc("run", "exit", *tiny, "--vcpus", "2", "--pin", "--cpus", FIRST)
    assert finished.code == 0
    assert "2 vCPU threads are pinned in turn to 1 CPU:" in finished.stderr


@pytest.mark.kvm
@pytest.mark.parametrize("option", ["--cpus", "--reader-cpus"])
def test_a_cpu_that_this_machine_has_not_is_refused_by_name(kvmpc, tiny, option):
    finished = kvmpc("compare", *tiny, option, f"{FIRST},8190-8191", "--json", str(kvmpc.json))
    assert finished.code == 2
    assert finished.stdout == ""
    for word in (option, f"'{FIRST},8190-8191'", format_cpu_list(ALLOWED), "not in this machine"):
        assert word in finished.error
    assert not kvmpc.json.exists()


@pytest.mark.kvm
@pytest.mark.skipif(len(ALLOWED) < 2, reason="needs two CPUs")
def test_a_cpu_outside_the_affinity_of_the_process_is_refused_by_name(kvmpc, tiny):
    finished = kvmpc(
        "run", "none", *tiny, "--pin", "--cpus", format_cpu_list(ALLOWED),
        before=lambda: os.sched_setaffinity(0, {int(FIRST)}),
    )  # fmt: skip
    assert finished.code == 2
    assert f"allowed: CPUs out of {FIRST} (" in finished.error
    assert "outside this process's affinity (taskset)" in finished.error


@pytest.mark.kvm
@pytest.mark.skipif(not usable_nodes(), reason="this kernel has no NUMA nodes")
def test_a_node_that_this_machine_has_not_is_refused_by_name(kvmpc, tiny):
    finished = kvmpc("compare", *tiny, "--numa", "node=1023")
    assert finished.code == 2
    for word in ("--numa", "'node=1023'", f": {format_cpu_list(usable_nodes())}"):
        assert word in finished.error


@pytest.mark.kvm
def test_a_host_without_the_latency_device_cannot_and_says_what_would_help(
    kvmpc, tiny, with_dev, devices
):
    finished = kvmpc("run", "none", *tiny, "--cpu-latency", "0", within=with_dev(devices["kvm"]))
    assert finished.code == 3
    for word in ("--cpu-latency", "ENOENT", "remedy: ", "CONFIG_CPU_IDLE"):
        assert word in finished.error


@pytest.mark.kvm
def test_a_latency_device_that_is_not_permitted_comes_with_what_would_help(
    kvmpc, tiny, with_dev, devices, without_capabilities
):
    node = f"{devices['kvm']} && mknod -m 000 /dev/cpu_dma_latency c 10 1"
    within = [*with_dev(node), *without_capabilities]
    finished = kvmpc("run", "none", *tiny, "--cpu-latency", "0", within=within)
    assert finished.code == 3
    for word in ("--cpu-latency", "EACCES", "remedy: get access to", "mode 0,"):
        assert word in finished.error


@pytest.mark.kvm
def test_probe_says_what_there_is_to_place_on(kvmpc):
    finished = kvmpc("probe")
    assert finished.code == 0
    nodes = format_cpu_list(usable_nodes()) or "none"
    assert f"CPUs {format_cpu_list(ALLOWED)}; NUMA nodes {nodes}; CPU latency" in finished.told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cpus", ""], ["--cpus", "''", "0-3,8"]),
        (["--cpus", "3-1"], ["--cpus", "'3-1'", "0-3,8"]),
        (["--reader-cpus", "0,0"], ["--reader-cpus", "'0,0'", "each CPU once"]),
        (["--numa", "remote"], ["--numa", "'remote'", "local, interleave, or node=N"]),
        (["--cpu-latency", "-1"], ["--cpu-latency", "'-1'", "whole microseconds"]),
        (["--cpu-latency", "1ms"], ["--cpu-latency", "'1ms'", "whole microseconds"]),
    ],
    ids=" ".join,
)
def test_a_bad_value_is_named_with_what_is_allowed(kvmpc, tiny, arguments, words):
    finished = kvmpc("compare", "none", "uffd", *tiny, *arguments)
    assert finished.code == 2
    for word in words:
        assert word in finished.error
