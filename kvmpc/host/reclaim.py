"""How often the kernel had to look for memory: for anybody on this host, and for our groups."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from kvmpc.host.files import Cgroups, read_fields, whole

__all__ = ["read_reclaim"]

_STEPS: Final = ("pgscan_direct", "pgsteal_direct", "pgscan_kswapd", "pgsteal_kswapd", "allocstall")


def read_reclaim(root: Path, cgroups: Cgroups) -> dict[str, int]:
    """Return counts since boot by name; what the kernel does not count is absent.

    pgscan_*, pgsteal_*: pages looked at and taken, by who wanted memory itself or by kswapd;
    allocstall: times one had to; cgroup_high, cgroup_max: times a group of ours was held back at
    memory.high or reclaimed at memory.max, its ancestors' groups included.

    Source: mm/vmstat.c (``allocstall_normal`` and others, one a zone);
    Documentation/admin-guide/cgroup-v2.rst, memory.events.
    """
    found: dict[str, int] = {}
    for name, text in read_fields(root / "proc/vmstat", separator=None).items():
        step = next((step for step in _STEPS if name.startswith(step)), None)
        # pgscan_direct_throttle counts processes, and not pages.
        if step is not None and "throttle" not in name and (count := whole(text)) is not None:
            found[step] = found.get(step, 0) + count
    for group in cgroups.chain("memory"):
        events = read_fields(group / "memory.events", separator=None)
        for event in ("high", "max"):
            if (count := whole(events.get(event))) is not None:
                found[f"cgroup_{event}"] = found.get(f"cgroup_{event}", 0) + count
    return found
