"""Facts of this machine, collected once before the first trial.

Reads /proc, /sys and two device nodes with the standard library alone; starts no program, changes
nothing, and needs no privilege. A fact that cannot be read is absent, never a made-up value. Files
that exist once for each CPU are read for one CPU, or for each core, package or frequency policy, so
that 256 CPUs cost little more than two.

What is left to use is `kvmpc.host.headroom`, what the facts mean `kvmpc.judge.host_cautions`.
"""

from __future__ import annotations

import os
import platform
import re
import struct
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from kvmpc.host.cores import shared_cores
from kvmpc.host.files import (
    Cgroups,
    entries,
    read_fields,
    read_int,
    read_meminfo_bytes,
    read_text,
    whole,
)
from kvmpc.host.headroom import LOAD_NAMES, allowed_cpus, read_load
from kvmpc.host.instrumentation import debug_options, tracing_facts
from kvmpc.host.scheduling import policy_facts
from kvmpc.units import format_cpu_list, parse_cpu_list

__all__ = ["collect", "fact_names", "kvm_modules", "second_level_paging"]

_ROOT = Path("/")


def collect(root: Path = _ROOT) -> dict[str, object]:
    """Return JSON-ready facts of the host, by group; call it before the first trial.

    A key that is a quantity ends in its unit. A group of which nothing could be read is absent.
    """
    groups = {
        name: _known(value) if isinstance(value, dict) else value
        for name, value in _all_facts(root).items()
    }
    return {name: value for name, value in groups.items() if value is not None and value != {}}


def fact_names() -> frozenset[str]:
    """Return the name of every fact that `collect` may find, such as ``cpu.model``.

    Where a group's or a fact's own keys are the kernel's (modules, vulnerabilities), only its own
    name is among them.
    """
    # Of a tree with nothing in it every fact is there, as None.
    facts = {**_all_facts(Path("/nonexistent")), "load": dict.fromkeys(LOAD_NAMES)}
    return frozenset(
        name
        for group, value in facts.items()
        for name in (
            group,
            *(f"{group}.{key}" for key in (value if isinstance(value, dict) else ())),
        )
    )


def _all_facts(root: Path) -> dict[str, object | None]:
    """Return every fact by group and key, None where it cannot be read."""
    cgroups = Cgroups(root)
    return {
        "collected_at_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "hostname": read_text(root / "proc/sys/kernel/hostname"),
        "python": platform.python_version(),
        "distribution": _distribution(root),
        "kernel": _kernel(root),
        "cpu": _cpu(root),
        "kvm": _kvm(root),
        "frequency": _frequency(root / "sys/devices/system/cpu"),
        "cpuidle": _cpuidle(root),
        "vulnerabilities": {
            path.name: read_text(path)
            for path in entries(root / "sys/devices/system/cpu/vulnerabilities")
        },
        "tracing": tracing_facts(root),
        "memory": _memory(root),
        "cgroup": _cgroup(cgroups),
        "scheduling": policy_facts(root),
        "userfaultfd": {
            "unprivileged": read_int(root / "proc/sys/vm/unprivileged_userfaultfd"),
            "device_present": os.path.exists(root / "dev/userfaultfd"),
        },
        "load": read_load(root),
    }


def kvm_modules(root: Path = _ROOT) -> dict[str, dict[str, str]]:
    """Return each KVM module, loaded or built in, with the parameters that may be read."""
    return {
        module.name: {
            path.name: text
            for path in entries(module / "parameters")
            if (text := read_text(path)) is not None
        }
        for module in entries(root / "sys/module", r"kvm(_|$)")
    }


def second_level_paging(root: Path = _ROOT) -> str | None:
    """Return ``ept``, ``npt``, ``shadow`` where the module has either turned off, or None.

    None where KVM is absent, or where a vendor module other than kvm_intel and kvm_amd is there:
    that module decides, and says so nowhere.

    Source: Documentation/admin-guide/kernel-parameters.txt, ``kvm-intel.ept``, ``kvm-amd.npt``.
    """
    return _paging(kvm_modules(root), _cpuinfo(root).get("vendor_id"))


def _paging(modules: Mapping[str, Mapping[str, str]], vendor: str | None) -> str | None:
    module = _vendor_module(modules, vendor)
    name = {"kvm_intel": "ept", "kvm_amd": "npt"}.get(module or "")
    if module is None or name is None:
        return None
    # A bool parameter reads Y or N; npt is an int, 1 or 0, in older kernels.
    return {"Y": name, "1": name, "N": "shadow", "0": "shadow"}.get(modules[module].get(name, ""))


def _vendor_module(modules: Mapping[str, object], vendor: str | None) -> str | None:
    """Return the module that drives this CPU.

    Built-in modules show in /sys/module although they refused the CPU, so that a kernel with both
    built in needs the CPU's vendor to choose; and any third module took KVM's one place for one.
    """
    others = [name for name in modules if name not in ("kvm", "kvm_intel", "kvm_amd")]
    if others:
        return others[0]
    if "kvm_intel" in modules and "kvm_amd" in modules:
        return "kvm_amd" if vendor in ("AuthenticAMD", "HygonGenuine") else "kvm_intel"
    return next((name for name in ("kvm_intel", "kvm_amd") if name in modules), None)


def _known(facts: Mapping[str, object | None]) -> dict[str, object]:
    return {name: value for name, value in facts.items() if value is not None}


def _boolean(number: int | None) -> bool | None:
    return None if number is None else number != 0


def _kernel(root: Path) -> dict[str, object | None]:
    release = read_text(root / "proc/sys/kernel/osrelease")
    return {
        "release": release,
        "version": read_text(root / "proc/sys/kernel/version"),
        "machine": os.uname().machine,
        "cmdline": read_text(root / "proc/cmdline"),
        "debug_options": debug_options(root, release),
    }


def _distribution(root: Path) -> str | None:
    # Source: os-release(5): /etc first, /usr/lib is the vendor's copy.
    for path in (root / "etc/os-release", root / "usr/lib/os-release"):
        name = read_fields(path, separator="=").get("PRETTY_NAME")
        if name:
            return name.strip("\"'")
    return None


def _cpuinfo(root: Path) -> dict[str, str]:
    # The first CPU's block only: the whole file is 400 KB on 256 CPUs, and asks each its speed.
    return read_fields(root / "proc/cpuinfo", limit_bytes=16384)


def _cpu(root: Path) -> dict[str, object | None]:
    system = root / "sys/devices/system"
    info = _cpuinfo(root)
    online = parse_cpu_list(read_text(system / "cpu/online") or "")
    allowed = allowed_cpus()
    flags = info["flags"].split() if "flags" in info else None
    sockets = _package_count(system / "cpu", online)
    cores = whole(info.get("cpu cores"))  # of one package
    siblings = (
        read_text(system / f"cpu/cpu{online[0]}/topology/thread_siblings_list") if online else None
    )
    threads = len(parse_cpu_list(siblings)) if siblings else None
    shared = shared_cores(allowed, root) if threads and threads > 1 else []
    nodes = [
        _known(
            {
                "node": int(node.name.removeprefix("node")),
                "cpus": read_text(node / "cpulist"),
                "memory_bytes": read_meminfo_bytes(node / "meminfo").get("MemTotal"),
            }
        )
        for node in entries(system / "node", r"node[0-9]+$")
    ]
    return {
        "model": info.get("model name"),
        "vendor": info.get("vendor_id"),
        "microcode": info.get("microcode"),
        "online": format_cpu_list(online) or None,
        "online_count": len(online) or None,
        "allowed": format_cpu_list(allowed),
        "allowed_count": len(allowed),
        "sockets_count": sockets,
        "cores_count": cores * sockets if sockets and cores is not None else None,
        "threads_per_core": threads,
        # Cores of the CPUs allowed that have several threads, the CPUs of each.
        "cores": [format_cpu_list(core) for core in shared] or None,
        # Source: Documentation/ABI/testing/sysfs-devices-system-cpu; "" = none.
        "isolated": read_text(system / "cpu/isolated") or None,
        "nohz_full": _cpus_or_none(read_text(system / "cpu/nohz_full")),
        "numa_nodes": nodes or None,
        # Source: arch/x86/include/asm/cpufeatures.h; "hypervisor" = this host is itself a VM.
        "hypervisor": "hypervisor" in flags if flags is not None else None,
        "constant_tsc": "constant_tsc" in flags if flags is not None else None,
        "nonstop_tsc": "nonstop_tsc" in flags if flags is not None else None,
        "clocksource": read_text(system / "clocksource/clocksource0/current_clocksource"),
    }


def _cpus_or_none(text: str | None) -> str | None:
    """Return a CPU list; None where there is none: nohz_full reads ``(null)`` then."""
    return text if text and parse_cpu_list(text) else None


def _package_count(cpus: Path, online: list[int]) -> int | None:
    """Return the packages with a CPU online, reading one CPU of each.

    Source: Documentation/admin-guide/cputopology.rst, ``package_cpus_list``, and
    ``core_siblings_list``, its name in older kernels.
    """
    rest, count = set(online), 0
    while rest:
        first = min(rest)
        topology = cpus / f"cpu{first}/topology"
        package = read_text(topology / "package_cpus_list")
        members = set(parse_cpu_list(package or read_text(topology / "core_siblings_list") or ""))
        if first not in members:
            return None
        rest -= members
        count += 1
    return count or None


def _kvm(root: Path) -> dict[str, object | None]:
    modules = kvm_modules(root)
    vendor = _cpuinfo(root).get("vendor_id")
    return {
        "modules": modules or None,
        "vendor_module": _vendor_module(modules, vendor),
        "second_level_paging": _paging(modules, vendor),
    }


def _frequency(cpu: Path) -> dict[str, object | None]:
    """Return the frequency settings, over all policies (groups of CPUs that switch together).

    Source: Documentation/admin-guide/pm/cpufreq.rst, "Policy Interface in sysfs"; intel_pstate.rst.
    """
    policies = entries(cpu / "cpufreq", r"policy[0-9]+$")

    def distinct(name: str) -> list[str] | None:
        return sorted({text for path in policies if (text := read_text(path / name))}) or None

    low = [khz for path in policies if (khz := read_int(path / "scaling_min_freq")) is not None]
    high = [khz for path in policies if (khz := read_int(path / "scaling_max_freq")) is not None]
    boost, no_turbo = read_int(cpu / "cpufreq/boost"), read_int(cpu / "intel_pstate/no_turbo")
    if boost is None and no_turbo is not None:
        boost = 1 - no_turbo
    return {
        "driver": read_text(policies[0] / "scaling_driver") if policies else None,
        "governors": distinct("scaling_governor"),
        "energy_preferences": distinct("energy_performance_preference"),
        "min_khz": min(low, default=None),
        "max_khz": max(high, default=None),
        "boost": _boolean(boost),
    }


def _cpuidle(root: Path) -> dict[str, object | None]:
    """Return the idle states of the first CPU online: they are set for all CPUs alike.

    Source: Documentation/admin-guide/pm/cpuidle.rst, "Representation of Idle States".
    """
    cpu = root / "sys/devices/system/cpu"
    first = next(iter(parse_cpu_list(read_text(cpu / "online") or "")), 0)
    states = [
        _known(
            {
                "name": read_text(state / "name"),
                "latency_us": read_int(state / "latency"),
                "disabled": _boolean(read_int(state / "disable")),
            }
        )
        for state in entries(cpu / f"cpu{first}/cpuidle", r"state[0-9]+$")
    ]
    governor = read_text(cpu / "cpuidle/current_governor")
    return {
        "driver": read_text(cpu / "cpuidle/current_driver"),
        "governor": governor or read_text(cpu / "cpuidle/current_governor_ro"),
        "states": states or None,
        "latency_limit_us": _latency_limit_us(root / "dev/cpu_dma_latency"),
    }


def _latency_limit_us(device: Path) -> int | None:
    """Return the exit latency that a PM QoS request (tuned, for one) allows idle states to have.

    Opening the device for reading places a request without effect, gone when it is closed. Only
    root may; 2 000 000 000 us stands for "no request" and is left out.

    Source: kernel/power/qos.c, ``cpu_latency_qos_read``: one native s32 in microseconds;
    Documentation/admin-guide/pm/cpuidle.rst, "Power Management Quality of Service for CPUs".
    """
    try:
        raw = device.read_bytes()[:4]
    except OSError:  # as in read_text
        return None
    if len(raw) < 4:
        return None
    limit_us = int(struct.unpack("=i", raw)[0])
    return limit_us if 0 <= limit_us < 2_000_000_000 else None


def _memory(root: Path) -> dict[str, object | None]:
    """Return sizes, and each mechanism that may move, merge, age or swap pages.

    Source: Documentation/admin-guide/mm/{transhuge,ksm,multigen_lru}.rst and
    sysctl/{vm,kernel}.rst; Documentation/accounting/psi.rst for the pressure.
    """
    mm, vm = root / "sys/kernel/mm", root / "proc/sys/vm"
    info = read_meminfo_bytes(root / "proc/meminfo")
    swap, free = info.get("SwapTotal"), info.get("SwapFree")
    pressure = read_text(root / "proc/pressure/memory") or ""
    avg60 = re.search(r"^some .*avg60=([0-9]{1,9}\.[0-9]{1,9})\b", pressure)
    return {
        "total_bytes": info.get("MemTotal"),
        "available_bytes": info.get("MemAvailable"),
        "swap_total_bytes": swap,
        "swap_used_bytes": swap - free if swap is not None and free is not None else None,
        "thp_enabled": _chosen(mm / "transparent_hugepage/enabled"),
        "thp_defrag": _chosen(mm / "transparent_hugepage/defrag"),
        "ksm_run": read_int(mm / "ksm/run"),
        "numa_balancing": read_int(root / "proc/sys/kernel/numa_balancing"),
        "mglru_enabled": read_text(mm / "lru_gen/enabled"),
        "damon_running": _damon_running(root),
        "pressure_some_avg60_percent": float(avg60[1]) if avg60 else None,
        "overcommit_memory": read_int(vm / "overcommit_memory"),
        "nr_hugepages": read_int(vm / "nr_hugepages"),
        "hugepage_bytes": info.get("Hugepagesize"),
    }


def _chosen(path: Path) -> str | None:
    """Return the word in brackets of a file such as ``always [madvise] never``."""
    word = re.search(r"\[(\S+)\]", read_text(path) or "")
    return word[1] if word else None


def _damon_running(root: Path) -> list[str] | None:
    """Return who monitors memory accesses now, by kdamond or module; None without DAMON.

    Source: Documentation/admin-guide/mm/damon/usage.rst, "kdamonds/<N>/" (``state``: on or off);
    damon/{reclaim,lru_sort,stat}.rst, ``enabled``.
    """
    kdamonds = entries(root / "sys/kernel/mm/damon/admin/kdamonds", r"[0-9]+$")
    modules = entries(root / "sys/module", r"damon_")
    if not modules and not os.path.isdir(root / "sys/kernel/mm/damon"):
        return None
    running = [f"kdamond {path.name}" for path in kdamonds if read_text(path / "state") == "on"]
    return running + [
        path.name for path in modules if read_text(path / "parameters/enabled") == "Y"
    ]


def _cgroup(cgroups: Cgroups) -> dict[str, object | None]:
    memory = min(cgroups.memory(), default=None, key=lambda group: group.limit - group.used)
    pids = min(cgroups.pids(), default=None, key=lambda group: group.limit - group.used)
    cpuset = cgroups.cpuset()
    return {
        "memory_limit_bytes": memory.limit if memory else None,
        "memory_used_bytes": memory.used if memory else None,
        "quota_cpus": cgroups.quota_cpus(),
        "cpuset_cpus": cpuset.get("cpus"),
        "cpuset_mems": cpuset.get("mems"),
        "pids_max": pids.limit if pids else None,
        "pids_current": pids.used if pids else None,
    }
