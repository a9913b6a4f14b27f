"""Read the text files the kernel makes: /proc, /sys and the limits of our control groups.

Owns no state and writes nothing. A file that is missing, forbidden or not of the expected form
reads as None: the caller leaves the fact out. Every path is below a `root`, so that a test can
build a tree of its own.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "Cgroups",
    "Usage",
    "entries",
    "read_fields",
    "read_int",
    "read_meminfo_bytes",
    "read_text",
    "whole",
]

_NO_LIMIT_BYTES = 1 << 62
"""cgroup v1 has no word for "no limit": it shows LONG_MAX rounded down to a page.

Source: ``PAGE_COUNTER_MAX`` in include/linux/page_counter.h.
"""


def read_text(path: Path, limit_bytes: int = -1) -> str | None:
    """Return the file's text without outer white space, or None where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(limit_bytes).decode(errors="replace").strip()
    except OSError:  # whatever the reason, the fact is not to be had
        return None


def whole(text: str | None) -> int | None:
    """Return the decimal number that `text` is, or None; kernels write up to 64 bits."""
    number = int(text) if text is not None and re.fullmatch(r"-?[0-9]{1,20}", text) else None
    return number if number is not None and abs(number) < 1 << 64 else None


def read_int(path: Path) -> int | None:
    """Return the file's only decimal number, or None (also for ``max``)."""
    return whole(read_text(path))


def read_fields(path: Path, separator: str | None = ":", limit_bytes: int = -1) -> dict[str, str]:
    """Return the ``key<separator>value`` lines, the first of each key; {} where unreadable."""
    fields: dict[str, str] = {}
    for line in (read_text(path, limit_bytes) or "").splitlines():
        words = line.split(separator, 1)
        if len(words) == 2:
            fields.setdefault(words[0].strip(), words[1].strip())
    return fields


def read_meminfo_bytes(path: Path) -> dict[str, int]:
    """Return the sizes in a meminfo file, of the host or of a node (lines start ``Node 0``).

    Source: Documentation/filesystems/proc.rst, "meminfo".
    """
    lines = re.findall(
        r"^(?:Node \d+ )?(\S+): +(\d{1,15}) kB$", read_text(path) or "", re.MULTILINE | re.ASCII
    )
    return {field: int(kib) * 1024 for field, kib in lines}


def entries(directory: Path, pattern: str = "") -> list[Path]:
    """Return what `directory` holds whose name matches `pattern` from its start, in natural order.

    ``node10`` comes after ``node9``. [] where the directory cannot be read.
    """
    try:
        found = [path for path in directory.iterdir() if re.match(pattern, path.name)]
    except OSError:  # as in read_text
        return []
    return sorted(found, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    parts: list[str] = re.findall(r"[0-9]+|[^0-9]+", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


class Usage(NamedTuple):
    """A limit of one control group and how much of it is taken."""

    limit: int
    used: int


class Cgroups:
    """The control groups this process is in, own group first, each with its ancestors.

    cgroup v1, v2 and both at once (hybrid) are read alike: a controller is looked for in the v1
    hierarchy that has it, else in the v2 hierarchy. The walk ends at the mount, which in a
    container is the container's own group: limits set further up cannot be seen from there.

    Source: Documentation/admin-guide/cgroup-v1/cgroups.rst ("How do I use cgroups?"),
    Documentation/admin-guide/cgroup-v2.rst; cgroups(7), "/proc/pid/cgroup".
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._paths: dict[str, str] = {}
        for line in (read_text(root / "proc/self/cgroup") or "").splitlines():
            _, controllers, path = [*line.split(":", 2), "", ""][:3]
            for controller in controllers.split(","):
                self._paths[controller] = path
        self._mounts = [
            mount
            for line in (read_text(root / "proc/self/mountinfo") or "").splitlines()
            if (mount := _cgroup_mount(line)) is not None
        ]

    def chain(self, controller: str) -> list[Path]:
        """Return the directories that hold limits of `controller`, own group first."""
        hierarchy = controller if controller in self._paths else ""
        if hierarchy not in self._paths:
            return []
        path = self._paths[hierarchy]
        mounts = [(top, point) for name, top, point in self._mounts if hierarchy in name]
        # Without mountinfo: where systemd, and everyone after it, mounts them.
        for top, point in mounts or [("/", f"/sys/fs/cgroup/{hierarchy}")]:
            mount = self._root / point.strip("/")
            below = "/" + path.removeprefix(top).strip("/")
            seen = path == top or path.startswith(top.rstrip("/") + "/")
            # A group outside the mount (bind-mounted by a container engine, or "/.." of another
            # cgroup namespace) has no directory here: the mount's own is the nearest there is.
            own = mount / below.strip("/") if seen and ".." not in below.split("/") else mount
            if os.path.isdir(own):  # Path.is_dir() raises where a parent is forbidden
                return [own, *[up for up in own.parents if up.is_relative_to(mount)]]
        return []

    def memory(self) -> list[Usage]:
        """Return each group's memory limit in bytes, and what is taken and cannot be dropped.

        ``memory.high`` counts as a limit: above it the kernel throttles the group and reclaims.
        Inactive file cache is not counted as taken: it is charged to the group, and dropped first.

        Source: Documentation/admin-guide/cgroup-v2.rst, "Memory Interface Files";
        Documentation/admin-guide/cgroup-v1/memory.rst, "Benefits and Purpose" and "stat file".
        """
        found = []
        for group in self.chain("memory"):
            names = ("memory.max", "memory.high", "memory.limit_in_bytes")
            limits = [read_int(group / name) for name in names]
            usable = [limit for limit in limits if limit is not None and limit < _NO_LIMIT_BYTES]
            used = _first_int(group, "memory.current", "memory.usage_in_bytes")
            if not usable or used is None:
                continue
            stat = read_fields(group / "memory.stat", separator=None)
            dropped = whole(stat.get("total_inactive_file", stat.get("inactive_file"))) or 0
            found.append(Usage(min(usable), max(0, used - dropped)))
        return found

    def pids(self) -> list[Usage]:
        """Return each group's limit of tasks (threads count) and how many it holds.

        Source: Documentation/admin-guide/cgroup-v1/pids.rst; v2: "PID Interface Files".
        """
        pairs = [
            (read_int(group / "pids.max"), read_int(group / "pids.current"))
            for group in self.chain("pids")
        ]
        return [Usage(a, b) for a, b in pairs if a is not None and b is not None]

    def quota_cpus(self) -> float | None:
        """Return the CPUs' worth of time that the tightest group may use, or None.

        Source: Documentation/scheduler/sched-bwc.rst, "Management"; v2: ``cpu.max``.
        """
        quotas = []
        for group in self.chain("cpu"):
            quota, period = [*(read_text(group / "cpu.max") or "").split(), "", ""][:2]
            if not quota:
                quota = read_text(group / "cpu.cfs_quota_us") or ""
                period = read_text(group / "cpu.cfs_period_us") or ""
            cpu_us, of_us = whole(quota), whole(period)
            # "max" in v2 and -1 in v1 are no quota
            if cpu_us is not None and cpu_us >= 0 and of_us:
                quotas.append(cpu_us / of_us)
        return min(quotas, default=None)

    def cpuset(self) -> dict[str, str]:
        """Return the effective CPUs and memory nodes of the nearest group that says so.

        Source: Documentation/admin-guide/cgroup-v1/cpusets.rst; v2: "Cpuset Interface Files".
        """
        found: dict[str, str] = {}
        for group in self.chain("cpuset"):
            for kind in ("cpus", "mems"):
                for name in (f"cpuset.{kind}.effective", f"cpuset.effective_{kind}"):
                    text = read_text(group / name)
                    if text:
                        found.setdefault(kind, text)
        return found


def _first_int(directory: Path, *names: str) -> int | None:
    values = (read_int(directory / name) for name in names)
    return next((value for value in values if value is not None), None)


def _cgroup_mount(line: str) -> tuple[list[str], str, str] | None:
    """Return (controllers, root inside the hierarchy, mount point); v2's only controller is "".

    Source: Documentation/filesystems/proc.rst, "/proc/<pid>/mountinfo".
    """
    head, dash, tail = line.partition(" - ")
    fields, kind = head.split(), tail.split()
    if not dash or len(fields) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
        return None
    top, point = (
        re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), field) for field in fields[3:5]
    )
    return ([""] if kind[0] == "cgroup2" else kind[2].split(",")), top, point
