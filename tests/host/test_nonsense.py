"""Files of /proc and /sys that say nonsense: a fact is left out then, and nothing is raised."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from kvmpc.host import headroom, numa
from kvmpc.host.during import HostWatch
from kvmpc.host.facts import collect
from kvmpc.result.schema import reader
from kvmpc.units import parse_cpu_list

NUMBERS = (
    "", "-1", "9" * 5000, "1.2.3", "...", "nan", "1e400", "\u0661\u0662", "0x10", "1-",
    "0-99999999999", "0-9999," * 50, "18446744073709551616", "99999999999999999999", "\x00", "a b",
    "\n", "max", "1/2/3",
)  # fmt: skip

FILES = {
    "proc/meminfo": "MemTotal: {} kB\nMemAvailable: {} kB\nSwapTotal: {} kB\nSwapFree: 1 kB\n",
    "proc/loadavg": "{} {} {} {}/{} 7",
    "proc/pressure/memory": "some avg10={} avg60={} avg300=0 total={}",
    "proc/stat": "cpu {0} 1\n\ncpu0 {0} {1} 1 1 1 1 1 1 0 0\ncpu{0} 1 1 1 1 1 1 1 1\n",
    "proc/cpuinfo": "processor: {}\ncpu cores: {}\nflags: {}\n",
    "proc/sys/vm/nr_hugepages": "{}",
    "proc/sys/vm/unprivileged_userfaultfd": "{}",
    "proc/sys/kernel/pid_max": "{}",
    "proc/sys/kernel/threads-max": "{}",
    "proc/self/limits": "Max processes {} {} processes\n",
    "proc/self/status": "Uid: 5 5 5 5\nCapEff: {}\nMems_allowed_list: {}\n",
    "proc/7/status": "Uid: 5 5 5 5\nThreads: {}\n",
    "proc/self/cgroup": "0::/\n{}\n",
    "proc/self/mountinfo": "{} {} 0:1 / /sys/fs/cgroup rw - cgroup2 c rw\n{}\n",
    "sys/fs/cgroup/memory.max": "{}",
    "sys/fs/cgroup/memory.current": "{}",
    "sys/fs/cgroup/memory.stat": "inactive_file {}\n",
    "sys/fs/cgroup/pids.max": "{}",
    "sys/fs/cgroup/pids.current": "{}",
    "sys/fs/cgroup/cpu.max": "{} {}",
    "sys/devices/system/cpu/online": "{}",
    "sys/devices/system/cpu/cpu0/topology/thread_siblings_list": "{}",
    "sys/devices/system/cpu/cpu0/topology/package_cpus_list": "{}",
    "sys/devices/system/cpu/cpu0/topology/core_cpus_list": "0,{}",
    "sys/devices/system/cpu/isolated": "{}",
    "sys/devices/system/cpu/nohz_full": "{}",
    "proc/config.gz": "{}",
    "proc/vmstat": "pgscan_direct {}\nallocstall_normal {}\nallocstall_dma {} {}\n{}\n",
    "sys/fs/cgroup/memory.events": "high {}\nmax {}\n{}\n",
    "sys/kernel/tracing/current_tracer": "{}",
    "sys/kernel/tracing/set_event": "kvm:{}\n{}",
    "sys/kernel/tracing/enabled_functions": "kvm_{} (1)\n \n{}",
    "sys/kernel/debug/kprobes/list": "{}",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "{}",
    "sys/devices/system/cpu/intel_pstate/no_turbo": "{}",
    "sys/devices/system/cpu/cpu0/cpuidle/state0/latency": "{}",
    "sys/devices/system/node/has_memory": "{}",
    "sys/devices/system/node/node0/cpulist": "{}",
    "sys/devices/system/node/node0/meminfo": "Node 0 MemFree: {} kB\n",
}


@pytest.mark.parametrize("seed", range(40))
def test_nonsense_is_left_out(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    for name, form in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # One kind of nonsense everywhere first, then all kinds mixed.
        words = [NUMBERS[seed] if seed < len(NUMBERS) else draw.choice(NUMBERS) for _ in range(5)]
        path.write_text(form.format(*words))
    watch = HostWatch(tmp_path)
    # What is read there is a result's, so it can be read again.
    for facts in (collect(tmp_path), watch.facts()):
        reader(object)(facts)
    headroom.thread_headroom(tmp_path)
    numa.usable_nodes(tmp_path)
    numa.cpus_of_nodes(tmp_path)
    numa.available_bytes(0, tmp_path)


def test_a_list_of_more_cpus_than_any_host_has_is_none() -> None:
    assert parse_cpu_list("0-3,8") == [0, 1, 2, 3, 8]
    assert parse_cpu_list("0-99999999999") == []
    assert parse_cpu_list("0-65000," * 10) == []
