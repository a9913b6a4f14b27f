"""Who has this machine's CPUs, and how this process competes for them.

What a thread ran and how long it waited is exact to the nanosecond; what the CPUs did is counted
by the kernel in ticks of 10 ms. Read now, with no privilege; what cannot be read is None or absent.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from kvmpc.host.files import Cgroups, read_fields, read_int, read_text, whole

__all__ = [
    "TICK_S",
    "CpuTimes",
    "ThreadTimes",
    "cgroup_weights",
    "cpu_times",
    "policy_facts",
    "thread_times",
    "throttled_s",
]

_ROOT = Path("/")

TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
"""What /proc/stat counts in, and so how much less than this it may say."""


class ThreadTimes(NamedTuple):
    """What one thread had since it began, and how often it was put on a CPU.

    waited_ns: it could have run, and another had the CPU, or its group was throttled.
    """

    ran_ns: int
    waited_ns: int
    times_run: int

    def since(self, then: ThreadTimes) -> ThreadTimes:
        """Return what was after `then`."""
        return ThreadTimes(*(max(0, now - before) for now, before in zip(self, then, strict=True)))


def thread_times(tid: int | None = None, root: Path = _ROOT) -> ThreadTimes | None:
    """Return the times of a thread of this process, the calling one without `tid`.

    None where it is gone, or the kernel does not count: then it says so by zeros (delayacct is
    off), although whoever asks has run.
    A vCPU's thread asks while others are still at work: so by hand, which takes 7 us and not 20.
    Source: proc_pid_schedstat in fs/proc/base.c; Documentation/scheduler/sched-stats.rst.
    """
    whose = "thread-self" if tid is None else f"self/task/{tid}"
    try:
        file = os.open(f"{root}/proc/{whose}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            words = os.read(file, 80).split()
        finally:
            os.close(file)
    except OSError:
        return None
    if len(words) != 3 or not all(map(bytes.isdigit, words)) or not int(words[2]):
        return None
    return ThreadTimes(*map(int, words))


class CpuTimes(NamedTuple):
    """What a CPU did since boot, in seconds: idle, nothing (also while it waited for a disk);
    stolen, a hypervisor below let others run; busy, it ran threads, guests and interrupts."""

    idle_s: float
    stolen_s: float
    busy_s: float


def cpu_times(cpus: Iterable[int], root: Path = _ROOT) -> dict[int, CpuTimes]:
    """Return the times of each of `cpus` that is online.

    Source: proc(5), /proc/stat: user nice system idle iowait irq softirq steal guest guest_nice, in
    clock ticks; user and nice hold the guest's time. Idle time is
    measured, not sampled, where idle CPUs stop their tick (get_idle_time in fs/proc/stat.c).
    """
    wanted, found = frozenset(cpus), {}
    for line in (read_text(root / "proc/stat") or "").splitlines():
        name, *words = line.split() or [""]
        number = whole(name[3:]) if name.startswith("cpu") else None
        ticks = [count for word in words[:8] if (count := whole(word)) is not None]
        if number in wanted and number is not None and len(ticks) == 8:
            busy = sum(ticks[:3]) + sum(ticks[5:7])
            idle = ticks[3] + ticks[4]
            found[number] = CpuTimes(idle * TICK_S, ticks[7] * TICK_S, busy * TICK_S)
    return found


def throttled_s(root: Path = _ROOT) -> float | None:
    """Return how long quotas have kept this process's groups from CPUs: of the group most kept.

    In seconds of CPU time, all CPUs together. None where no group says.
    Source: Documentation/scheduler/sched-bwc.rst, "Statistics": ``throttled_time`` in ns (v1),
    ``throttled_usec`` (v2).
    """
    found = []
    for group in Cgroups(root).chain("cpu"):
        fields = read_fields(group / "cpu.stat", separator=None)
        for name, unit_s in (("throttled_usec", 1e-6), ("throttled_time", 1e-9)):
            count = whole(fields.get(name))
            if count is not None:
                found.append(count * unit_s)
    return max(found, default=None)


_POLICIES: Final[Mapping[int, str]] = {
    # Source: include/uapi/linux/sched.h.
    0: "other", 1: "fifo", 2: "rr", 3: "batch", 5: "idle", 6: "deadline", 7: "ext",
}  # fmt: skip


def policy_facts(root: Path = _ROOT) -> dict[str, object | None]:
    """Return how the calling thread competes for CPUs; those that it starts inherit that.

    policy, priority (of a real-time policy), nice; autogroup_nice: of its session against others,
    None where sessions are no groups; cgroup_weights: as in `cgroup_weights`.
    """
    policy: int | None = None
    priority: int | None = None
    try:
        # Or'ed into it: SCHED_RESET_ON_FORK.
        policy = os.sched_getscheduler(0) & 0xFF
        priority = os.sched_getparam(0).sched_priority
    except OSError:  # a seccomp filter
        pass
    return {
        "policy": None if policy is None else _POLICIES.get(policy, str(policy)),
        "priority": priority,
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "autogroup_nice": _autogroup_nice(root),
        "cgroup_weights": cgroup_weights(root),
    }


def _autogroup_nice(root: Path) -> int | None:
    """Source: sched(7), "The autogroup feature": ``/autogroup-25 nice 0``."""
    if not read_int(root / "proc/sys/kernel/sched_autogroup_enabled"):
        return None
    words = (read_text(root / "proc/self/autogroup") or "").split()
    return whole(words[-1]) if len(words) == 3 else None


def cgroup_weights(root: Path = _ROOT) -> list[str] | None:
    """Return how this process's groups compete with their siblings, where that is not as usual.

    Own group first; a group with the weight that all have by default is left out, so that one more
    level of groups is no difference. None where there are no groups.
    Source: Documentation/admin-guide/cgroup-v2.rst, "CPU Interface Files" (weight 100, uclamp);
    Documentation/scheduler/sched-design-CFS.rst, "cpu.shares" (1024).
    """
    chain = Cgroups(root).chain("cpu")
    usual = {
        "cpu.weight": "100", "cpu.shares": "1024", "cpu.idle": "0", "cpu.uclamp.min": "0.00",
        "cpu.uclamp.max": "max",
    }  # fmt: skip
    found = [
        f"{name}={text}"
        for group in chain
        for name, default in usual.items()
        # With cpu.idle set, cpu.weight reads 0.
        if (text := read_text(group / name)) is not None and text != default
    ]
    return found if chain else None
