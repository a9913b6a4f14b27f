"""Who has the CPUs: files of a made-up host, and this thread's own times."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from kvmpc.host.scheduling import (
    TICK_S,
    CpuTimes,
    ThreadTimes,
    cgroup_weights,
    cpu_times,
    policy_facts,
    thread_times,
    throttled_s,
)
from tests.fakes.trees import plant

V2 = {
    "proc/self/cgroup": "0::/a/b\n",
    "proc/self/mountinfo": "30 1 0:26 / /cg rw - cgroup2 cgroup2 rw\n",
}


def test_a_threads_times_are_those_of_the_kernel(tmp_path: Path) -> None:
    plant(tmp_path, {"proc/self/task/77/schedstat": "1000 200 3\n"})
    assert thread_times(77, tmp_path) == ThreadTimes(ran_ns=1000, waited_ns=200, times_run=3)


@pytest.mark.parametrize("text", ["", "0 0 0\n", "1 2\n", "1 2 x\n", "1 2 3 4\n", "-1 2 3\n"])
def test_times_that_the_kernel_does_not_count_are_none(tmp_path: Path, text: str) -> None:
    plant(tmp_path, {"proc/thread-self/schedstat": text})
    assert thread_times(None, tmp_path) is None
    assert thread_times(78, tmp_path) is None


def test_times_since_then_are_never_negative() -> None:
    assert ThreadTimes(9, 5, 4).since(ThreadTimes(2, 6, 1)) == ThreadTimes(7, 0, 3)


def test_a_thread_that_runs_has_run_also_as_others_see_it() -> None:
    before, own = thread_times(), thread_times(threading.get_native_id())
    if before is None or own is None:
        pytest.skip("the kernel does not count (no schedstat)")
    begin = time.thread_time_ns()
    while time.thread_time_ns() - begin < 30_000_000:
        pass
    after = thread_times(threading.get_native_id())
    assert after is not None
    # To a tick, in which the kernel may not have looked.
    assert after.since(before).ran_ns >= 20_000_000


def test_cpus_are_counted_apart_and_only_those_asked_for(tmp_path: Path) -> None:
    lines = ["cpu  9 9 9 9 9 9 9 9 9 9", "cpu0 1 2 3 400 50 6 7 8 0 0", "cpu1 0 0 0 9 0 0 0 0 0 0"]
    plant(
        tmp_path, {"proc/stat": "\n".join([*lines, "cpu2 1 2", "cpux 0 0 0 0 0 0 0 0", "intr 5"])}
    )
    assert cpu_times([0, 2, 7], tmp_path) == {0: CpuTimes(450 * TICK_S, 8 * TICK_S, 19 * TICK_S)}
    assert cpu_times([0], tmp_path / "nowhere") == {}


def test_throttling_is_that_of_the_group_that_was_kept_most(tmp_path: Path) -> None:
    assert throttled_s(plant(tmp_path, V2)) is None
    (tmp_path / "cg/a/b").mkdir(parents=True)
    plant(tmp_path, {"cg/a/b/cpu.stat": "usage_usec 9\nnr_throttled 1\nthrottled_usec 1500000\n"})
    plant(tmp_path, {"cg/a/cpu.stat": "throttled_time 2000000000\n"})
    assert throttled_s(tmp_path) == 2.0


def test_groups_with_the_usual_weight_say_nothing(tmp_path: Path) -> None:
    assert cgroup_weights(plant(tmp_path, V2)) is None
    plant(tmp_path, {"cg/a/b/cpu.weight": "100\n", "cg/a/cpu.weight": "100\n"})
    plant(tmp_path, {"cg/a/b/cpu.idle": "0\n", "cg/a/b/cpu.uclamp.max": "max\n"})
    assert cgroup_weights(tmp_path) == []
    plant(tmp_path, {"cg/a/cpu.weight": "50\n", "cg/a/b/cpu.uclamp.min": "20.00\n"})
    assert cgroup_weights(tmp_path) == ["cpu.uclamp.min=20.00", "cpu.weight=50"]


def test_how_this_thread_competes_is_what_the_kernel_says() -> None:
    found = policy_facts()
    assert found["nice"] == os.getpriority(os.PRIO_PROCESS, 0)
    policies = {os.SCHED_OTHER: "other", os.SCHED_FIFO: "fifo", os.SCHED_BATCH: "batch"}
    assert found["policy"] == policies.get(os.sched_getscheduler(0), found["policy"])


def test_a_sessions_nice_counts_where_sessions_are_groups(tmp_path: Path) -> None:
    plant(tmp_path, {"proc/self/autogroup": "/autogroup-25 nice 5\n"})
    assert policy_facts(tmp_path)["autogroup_nice"] is None
    plant(tmp_path, {"proc/sys/kernel/sched_autogroup_enabled": "1\n"})
    assert policy_facts(tmp_path)["autogroup_nice"] == 5
