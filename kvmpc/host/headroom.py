"""How much of this machine kvmpc may still take: memory, CPUs, threads.

Reads limits and what is taken of them, now, with no privilege; reserves nothing, so that each
answer is out of date as soon as it is given.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from kvmpc.errors import HostError
from kvmpc.host.files import Cgroups, entries, read_fields, read_int, read_meminfo_bytes, read_text

__all__ = ["LOAD_NAMES", "allowed_cpus", "memory_available_bytes", "read_load", "thread_headroom"]

_ROOT = Path("/")

_CAP_SYS_ADMIN, _CAP_SYS_RESOURCE = 21, 24  # include/uapi/linux/capability.h

_RESERVED_PIDS = 300  # kernel/pid.c: numbers a wrapped-round pid counter does not give out again


def memory_available_bytes(root: Path = _ROOT) -> int:
    """Return the bytes this process can still take without swapping or hitting a limit.

    ``MemAvailable``, lowered to what the tightest of our control groups has left.

    Raises: HostError where /proc/meminfo cannot be read: there is no safe guess.
    Source: Documentation/filesystems/proc.rst, "meminfo".
    """
    available = read_meminfo_bytes(root / "proc/meminfo").get("MemAvailable")
    if available is None:
        raise HostError("memory", "/proc/meminfo has no MemAvailable", "mount /proc")
    return min([available, *[max(0, group.limit - group.used) for group in Cgroups(root).memory()]])


def allowed_cpus() -> list[int]:
    """Return the CPUs this process may run on, ascending."""
    return sorted(os.sched_getaffinity(0))


def thread_headroom(root: Path = _ROOT) -> int | None:
    """Return how many more threads may be started now, or None where no limit can be read.

    The least of four: the kernel's ``threads-max``, its pid numbers, our control groups and, for
    an ordinary user, RLIMIT_NPROC. An upper bound: other processes draw on the same limits, and
    those in other pid namespaces cannot be counted against RLIMIT_NPROC.

    Source: Documentation/admin-guide/sysctl/kernel.rst, "threads-max" and "pid_max".
    """
    left = [group.limit - group.used for group in Cgroups(root).pids()]
    running = read_load(root).get("threads_count")  # all of the host, whatever our pid namespace
    if isinstance(running, int):
        threads_max = read_int(root / "proc/sys/kernel/threads-max")
        pid_max = read_int(root / "proc/sys/kernel/pid_max")
        if threads_max is not None:
            left.append(threads_max - running)
        if pid_max is not None:
            left.append(pid_max - _RESERVED_PIDS - running)
    user_left = _user_thread_headroom(root)
    if user_left is not None:
        left.append(user_left)
    return max(0, min(left)) if left else None


LOAD_NAMES = ("avg1", "avg5", "avg15", "runnable_count", "threads_count")


def read_load(root: Path = _ROOT) -> dict[str, int | float]:
    """Return the load averages, the runnable and all threads of the host; {} where unreadable.

    Source: Documentation/filesystems/proc.rst, "loadavg"; proc(5), /proc/loadavg.
    """
    form = r"([\d.]+) ([\d.]+) ([\d.]+) (\d+)/(\d+) "
    match = re.match(form, read_text(root / "proc/loadavg") or "", re.ASCII)
    if match is None:
        return {}
    values = (*map(float, match.group(1, 2, 3)), *map(int, match.group(4, 5)))
    return dict(zip(LOAD_NAMES, values, strict=True))


def _user_thread_headroom(root: Path) -> int | None:
    """Return what RLIMIT_NPROC leaves this user, or None where it does not bind or is unknown.

    The kernel lets fork pass the limit for uid 0, CAP_SYS_RESOURCE and CAP_SYS_ADMIN, all three
    of the initial user namespace: root in a rootless container is bound by it. A map other than
    the identity is taken as such a container. The count is of threads with our real uid.

    Source: kernel/fork.c, ``copy_process`` (``is_rlimit_overlimit``); getrlimit(2), RLIMIT_NPROC.
    """
    limits = read_text(root / "proc/self/limits") or ""
    limit = re.search(r"^Max processes +([0-9]+) ", limits, re.MULTILINE)
    own = read_fields(root / "proc/self/status")
    uid, capabilities = own.get("Uid", "").split()[:1], own.get("CapEff", "")
    if limit is None or not uid or not re.fullmatch("[0-9a-f]+", capabilities):
        return None
    identity = (read_text(root / "proc/self/uid_map") or "0 0 4294967295").split()
    privileges = 1 << _CAP_SYS_ADMIN | 1 << _CAP_SYS_RESOURCE
    if identity == ["0", "0", "4294967295"] and (
        uid == ["0"] or int(capabilities, 16) & privileges
    ):
        return None
    running = 0
    for process in entries(root / "proc", r"[0-9]+$"):
        status = read_fields(process / "status")
        if status.get("Uid", "").split()[:1] == uid:
            running += int(status.get("Threads", "0"))
    return int(limit[1]) - running
