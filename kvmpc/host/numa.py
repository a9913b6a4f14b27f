"""The NUMA nodes of this machine: which may be used, their CPUs, what is left of them."""

from __future__ import annotations

from pathlib import Path

from kvmpc.host.files import entries, read_fields, read_meminfo_bytes, read_text
from kvmpc.units import parse_cpu_list

__all__ = ["available_bytes", "cpus_of_nodes", "usable_nodes"]

_ROOT = Path("/")


def usable_nodes(root: Path = _ROOT) -> list[int]:
    """Return the NUMA nodes that have memory which this process may use; [] without NUMA.

    Source: Documentation/ABI/stable/sysfs-devices-node, has_memory; proc(5), Mems_allowed_list.
    """
    with_memory = parse_cpu_list(read_text(root / "sys/devices/system/node/has_memory") or "")
    allowed = read_fields(root / "proc/self/status").get("Mems_allowed_list")
    if allowed is None:
        return with_memory
    return sorted(set(with_memory).intersection(parse_cpu_list(allowed)))


def cpus_of_nodes(root: Path = _ROOT) -> dict[int, frozenset[int]]:
    """Return the CPUs of each NUMA node; {} without NUMA."""
    return {
        int(path.name.removeprefix("node")): frozenset(
            parse_cpu_list(read_text(path / "cpulist") or "")
        )
        for path in entries(root / "sys/devices/system/node", r"node[0-9]+$")
    }


def available_bytes(node: int, root: Path) -> int | None:
    """Return what can be had of a node, counting half of what would have to be dropped first.

    As careful as ``si_mem_available`` (mm/show_mem.c), which makes MemAvailable of a whole host.
    """
    info = read_meminfo_bytes(root / f"sys/devices/system/node/node{node}/meminfo")
    if "MemFree" not in info:
        return None
    dropped = ("Active(file)", "Inactive(file)", "SReclaimable")
    return info["MemFree"] + sum(info.get(name, 0) for name in dropped) // 2
