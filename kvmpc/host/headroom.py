"""How much of this machine kvmpc may still take: memory, address space, CPUs, threads, files.

Reads limits and what is taken of them, now, with no privilege; reserves nothing, so that each
answer is out of date as soon as it is given. Of each thing there are several limits: a `Limit` says
whose it is, so that a refusal names the one that is hit.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kvmpc.errors import HostError, describe_errno
from kvmpc.host.confinement import Confinement, either
from kvmpc.host.files import (
    Cgroups,
    entries,
    read_fields,
    read_int,
    read_meminfo_bytes,
    read_text,
    whole,
)
from kvmpc.units import KIB, MIB

__all__ = [
    "LOAD_NAMES",
    "Limit",
    "address_limits",
    "allowed_cpus",
    "exhausted",
    "file_limits",
    "mapping_limits",
    "memory_available_bytes",
    "memory_limits",
    "read_load",
    "shortage",
    "thread_headroom",
    "thread_limits",
]

_ROOT = Path("/")

_CAP_SYS_ADMIN, _CAP_SYS_RESOURCE = 21, 24  # include/uapi/linux/capability.h

_FEW_MAPPINGS = 8
"""One call may split mappings, so that it fails a little before the last one is taken."""

_RESERVED_PIDS = 300  # kernel/pid.c: numbers a wrapped-round pid counter does not give out again


@dataclass(frozen=True)
class Limit:
    """One limit, and how far this process is from it.

    name: what sets it; left: what may still be taken, 0 or more; remedy: who raises it, and how.
    """

    name: str
    left: int
    remedy: str


def memory_limits(root: Path = _ROOT) -> list[Limit]:
    """Return what limits the bytes that this process can make resident without swapping.

    ``MemAvailable`` of the host, and the limit of each of our control groups.

    Raises: HostError where /proc/meminfo cannot be read: there is no safe guess.
    Source: Documentation/filesystems/proc.rst, "meminfo".
    """
    available = read_meminfo_bytes(root / "proc/meminfo").get("MemAvailable")
    if available is None:
        raise HostError("memory", "/proc/meminfo has no MemAvailable", "mount /proc")
    remedy = "raise memory.max and memory.high of the cgroup (systemd: MemoryMax=, docker: -m)"
    return [
        Limit("the host's memory", available, "free memory, or use a larger host"),
        *(
            Limit("the cgroup's memory limit", max(0, group.limit - group.used), remedy)
            for group in Cgroups(root).memory()
        ),
    ]


def memory_available_bytes(root: Path = _ROOT) -> int:
    """Return the least that `memory_limits` leave, in bytes. Raises: HostError."""
    return min(limit.left for limit in memory_limits(root))


def address_limits(root: Path = _ROOT) -> list[Limit]:
    """Return what limits the bytes that this process can map, touched or not.

    RLIMIT_AS counts everything; RLIMIT_DATA (since Linux 4.7) and ``vm.overcommit_memory=2`` what
    is private and may be written, which is nearly all that kvmpc maps.

    Source: getrlimit(2); Documentation/mm/overcommit-accounting.rst.
    """
    status = read_fields(root / "proc/self/status")
    found = []
    for row, field, option in (
        ("Max address space", "VmSize", "-v"),
        ("Max data size", "VmData", "-d"),
    ):
        limit = _own_limit(root, row)
        taken = re.fullmatch(r"([0-9]+) kB", status.get(field, ""))
        if limit is not None and taken:
            left = max(0, limit - int(taken[1]) * KIB)
            found.append(Limit(f"ulimit {option}", left, f"ulimit {option} unlimited"))
    if read_int(root / "proc/sys/vm/overcommit_memory") == 2:
        memory = read_meminfo_bytes(root / "proc/meminfo")
        left = max(0, memory.get("CommitLimit", 0) - memory.get("Committed_AS", 0))
        found.append(Limit("vm.overcommit_memory=2", left, "sysctl vm.overcommit_memory=0"))
    return found


def mapping_limits(root: Path = _ROOT) -> list[Limit]:
    """Return what limits the number of this process's memory mappings.

    Source: Documentation/admin-guide/sysctl/vm.rst, "max_map_count".
    """
    allowed = read_int(root / "proc/sys/vm/max_map_count")
    if allowed is None:
        return []
    taken = len((read_text(root / "proc/self/maps") or "").splitlines())
    remedy = f"sysctl vm.max_map_count={max(1 << 18, 2 * allowed)}"
    return [Limit("vm.max_map_count", max(0, allowed - taken), remedy)]


def file_limits(root: Path = _ROOT) -> list[Limit]:
    """Return what limits the open files of this process: the hard limit, as it can raise its soft.

    Source: getrlimit(2), RLIMIT_NOFILE.
    """
    hard = _own_limit(root, "Max open files", hard=True)
    if hard is None:
        return []
    left = max(0, hard - len(entries(root / "proc/self/fd")))
    return [Limit("ulimit -Hn", left, "raise ulimit -Hn as root, or LimitNOFILE= of the service")]


def _own_limit(root: Path, row: str, *, hard: bool = False) -> int | None:
    """Return a resource limit of this process; None where it is unlimited or cannot be read."""
    limits = read_text(root / "proc/self/limits") or ""
    found = re.search(rf"^{row} +(\S+) +(\S+)", limits, re.MULTILINE)
    value = found[2 if hard else 1] if found else ""
    return whole(value)


def exhausted(wanted_bytes: int = 0, root: Path = _ROOT) -> list[Limit]:
    """Return the limits at which a call has just failed that asked for a little more.

    wanted_bytes: what it would have mapped, where that may be much.
    """
    limits: list[tuple[Sequence[Limit], int]] = [
        (thread_limits(root), 1),
        (file_limits(root), 1),
        (mapping_limits(root), _FEW_MAPPINGS),
        (address_limits(root), max(wanted_bytes, MIB)),
    ]
    with suppress(HostError):  # this explains another error
        limits.append((memory_limits(root), MIB))
    return [limit for each, least in limits for limit in each if limit.left < least]


_SHORTAGES = (errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOSPC)


def shortage(number: int, wanted_bytes: int = 0) -> str:
    """Return which limits errno `number` comes from, with their remedies; "" where from none."""
    if number not in _SHORTAGES:
        return ""
    if number == errno.EMFILE:  # and none is left to read the limits by
        return "all files of ulimit -n are open: raise it, or LimitNOFILE= of the service"
    return "; ".join(
        f"{limit.name} leaves {limit.left}: {limit.remedy}" for limit in exhausted(wanted_bytes)
    )


def allowed_cpus() -> list[int]:
    """Return the CPUs this process may run on, ascending. Raises: HostError where not told."""
    try:
        return sorted(os.sched_getaffinity(0))
    except OSError as error:
        number = error.errno or 0
        remedies = Confinement.read().remedies("sched_getaffinity", number)
        raise HostError(
            "CPUs of this process", f"sched_getaffinity: {describe_errno(number)}", either(remedies)
        ) from error


def thread_limits(root: Path = _ROOT) -> list[Limit]:
    """Return what limits the threads that may be started now.

    The kernel's ``threads-max``, its pid numbers, our control groups and, for an ordinary user,
    RLIMIT_NPROC. Upper bounds: other processes draw on the same limits, and those in other pid
    namespaces cannot be counted against RLIMIT_NPROC.

    Source: Documentation/admin-guide/sysctl/kernel.rst, "threads-max" and "pid_max".
    """
    remedy = "raise pids.max of the cgroup (systemd: TasksMax=, docker: --pids-limit)"
    found = [
        Limit("the cgroup's pids.max", max(0, group.limit - group.used), remedy)
        for group in Cgroups(root).pids()
    ]
    running = read_load(root).get("threads_count")  # all of the host, whatever our pid namespace
    if isinstance(running, int):
        for name, reserved in (("threads-max", 0), ("pid_max", _RESERVED_PIDS)):
            limit = read_int(root / "proc/sys/kernel" / name)
            if limit is not None:
                left = max(0, limit - reserved - running)
                found.append(Limit(f"kernel.{name}", left, f"sysctl kernel.{name}={2 * limit}"))
    user_left = _user_thread_headroom(root)
    if user_left is not None:
        remedy = "raise ulimit -u, or LimitNPROC= of the service"
        found.append(Limit("ulimit -u", max(0, user_left), remedy))
    return found


def thread_headroom(root: Path = _ROOT) -> int | None:
    """Return the least that `thread_limits` leave, or None where no limit can be read."""
    return min((limit.left for limit in thread_limits(root)), default=None)


LOAD_NAMES = ("avg1", "avg5", "avg15", "runnable_count", "threads_count")


def read_load(root: Path = _ROOT) -> dict[str, int | float]:
    """Return the load averages, the runnable and all threads of the host; {} where unreadable.

    Source: Documentation/filesystems/proc.rst, "loadavg"; proc(5), /proc/loadavg.
    """
    form = r"(\d{1,9}\.\d{1,9}) (\d{1,9}\.\d{1,9}) (\d{1,9}\.\d{1,9}) (\d{1,18})/(\d{1,18}) "
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
    limit = _own_limit(root, "Max processes")
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
            running += whole(status.get("Threads")) or 0
    return limit - running
