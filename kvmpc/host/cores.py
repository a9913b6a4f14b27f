"""Which CPUs are threads of one core."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kvmpc.host.files import read_text
from kvmpc.units import parse_cpu_list

__all__ = ["shared_cores"]

_ROOT = Path("/")


def shared_cores(cpus: Iterable[int], root: Path = _ROOT) -> list[frozenset[int]]:
    """Return the cores that `cpus` are threads of and that have more than one online, in order.

    Reads one file a core. Source: Documentation/admin-guide/cputopology.rst, ``core_cpus_list``,
    and ``thread_siblings_list``, its name in older kernels.
    """
    found: list[frozenset[int]] = []
    seen: set[int] = set()
    for cpu in sorted(cpus):
        if cpu in seen:
            continue
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        text = read_text(topology / "core_cpus_list") or read_text(
            topology / "thread_siblings_list"
        )
        core = frozenset(parse_cpu_list(text or ""))
        seen |= core
        if len(core) > 1 and cpu in core:
            found.append(core)
    return found
