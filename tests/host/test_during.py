"""What the kernel's counters say of a run, from files of a made-up host."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from kvmpc.host.during import HostWatch


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty host with two CPUs, both allowed."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2})
    monkeypatch.setattr(time, "process_time", lambda: 1.0)
    return tmp_path


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _stat(root: Path, *rows: str) -> None:
    _write(root / "proc/stat", "\n".join(["cpu  9 9 9 9 9 9 9 9 9 9", *rows, "intr 5"]))


def test_time_of_others_and_stolen_time_are_counted_on_our_cpus(root: Path) -> None:
    tick = os.sysconf("SC_CLK_TCK")
    _stat(root, "cpu0 10 10 10 999 999 10 10 0 5 5", "cpu1 0 0 0 0 0 0 0 0", "cpu2 0 0 0 0 0 0 0 0")
    watch = HostWatch(root)
    busy = f"cpu2 {tick} {tick} {tick} 0 0 {tick} {tick} {tick} 0 0"
    _stat(root, "cpu0 10 10 10 999 999 10 10 0 5 5", "cpu1 9999 0 0 0 0 0 0 0", busy)
    facts = watch.facts()
    assert facts["other_cpu_s"] == 5.0
    assert facts["steal_cpu_s"] == 1.0
    assert facts["own_cpu_s"] == 0.0
    assert facts["cpus_count"] == 2


def test_throttling_and_a_moved_limit_are_seen(root: Path) -> None:
    cpu = root / "sys/devices/system/cpu"
    count, limit = (
        cpu / "cpu2/thermal_throttle/core_throttle_count",
        cpu / "cpufreq/policy0/scaling_max_freq",
    )
    _write(count, "7")
    _write(limit, "3000000")
    watch = HostWatch(root)
    assert watch.facts()["throttled_count"] == 0
    assert "max_khz" not in watch.facts()
    _write(count, "9")
    _write(limit, "2000000")
    assert watch.facts()["throttled_count"] == 2
    assert watch.facts()["max_khz"] == [3000000, 2000000]


def test_cpus_that_came_and_went_are_told_in_their_order(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    online = root / "sys/devices/system/cpu/online"
    _write(online, "0-3")
    watch = HostWatch(root)
    assert "cpus" not in watch.facts()
    _write(online, "0-1")
    watch.look()
    _write(online, "0-3")
    watch.look()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2})
    assert watch.facts()["cpus"] == ["0,2", "0", "0,2", "2"]


def _reclaim(root: Path, direct: int, normal: int, group: int) -> None:
    _write(root / "proc/vmstat", f"pgscan_direct {direct}\npgscan_direct_throttle 9{direct}\n"
           f"allocstall_normal {normal}\nallocstall_movable 5\npgscan_kswapd 7\n")  # fmt: skip
    _write(root / "proc/self/cgroup", "0::/a\n")
    _write(root / "sys/fs/cgroup/a/memory.events", f"low 1{group}\nhigh {group}\nmax 0\n")


def test_memory_that_had_to_be_looked_for_is_counted(root: Path) -> None:
    _reclaim(root, 100, 10, 0)
    watch = HostWatch(root)
    assert "reclaim" not in watch.facts()
    _reclaim(root, 123, 11, 2)
    assert watch.facts()["reclaim"] == {"pgscan_direct": 23, "allocstall": 1, "cgroup_high": 2}
    (root / "proc/vmstat").unlink()
    assert watch.facts()["reclaim"] == {"cgroup_high": 2}


def test_what_cannot_be_read_is_absent(root: Path) -> None:
    assert set(HostWatch(root).facts()) == {"elapsed_s", "cpus_count"}
    _stat(root, "cpu0 1 2 3", "nonsense")
    assert set(HostWatch(root).facts()) == {"elapsed_s", "cpus_count"}


def test_this_host_can_be_watched() -> None:
    facts = HostWatch().facts()
    assert isinstance(facts["other_cpu_s"], float)
