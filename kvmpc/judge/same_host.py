"""Whether two results come from hosts whose numbers may be compared, fact by fact.

Three lists. `ONE_RUN`: what must be the same all through one result, whose rounds are taken to be
of one host and one kernel. `IDENTITY`: what changes speeds and is not the kernel's doing, so that a
difference in it would be taken for the kernel's: the processor, how much of it may be used, the
memory, the kind of second-level paging, what an operator sets, and how kvmpc competed for CPUs.
Those are refused. `REMARKS`:
what may well differ because the kernel does (its release, its mitigations, its defaults), or seldom
matters; those are only told. Knows facts as `kvmpc.host.facts.collect` returns them, and nothing of
this host.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from kvmpc.caution import Caution
from kvmpc.result.facts import Facts
from kvmpc.result.records import Result
from kvmpc.units import GIB

__all__ = [
    "IDENTITY",
    "LATER",
    "ONE_RUN",
    "REMARKS",
    "HostDifference",
    "differences",
    "kernel_release",
    "remarks",
]

_SAME_MEMORY: Final = 0.10
"""Firmware and the kernel's own reservations move MemTotal by a few per cent."""


@dataclass(frozen=True)
class HostDifference:
    """A fact in which the hosts differ; `field` is what ``--allow-host`` takes."""

    field: str
    baseline: str
    new: str

    def __str__(self) -> str:
        return f"{self.field}: {self.new} against {self.baseline} in the baseline"


_Reader = Callable[[Facts], object]


def _plain(path: str) -> _Reader:
    return lambda facts: facts.get(path)


def _memory(facts: Facts) -> object:
    total = facts.number("memory.total_bytes")
    return None if total is None else f"{total / GIB:.1f} GiB"


def _governors(facts: Facts) -> object:
    found = facts.items("frequency.governors")
    return None if found is None else ", ".join(map(str, found))


def _idle_states(facts: Facts) -> object:
    """Return the idle states in use: they punish only what sleeps, which decides comparisons."""
    states = facts.items("cpuidle.states")
    if states is None:
        return None
    names = [
        str(state.get("name"))
        for state in states
        if isinstance(state, Mapping) and not state.get("disabled")
    ]
    return " ".join(names)


def _mitigations(facts: Facts) -> object:
    """Return what the command line asks for: what a kernel makes of it is the kernel's doing."""
    line = facts.text("kernel.cmdline")
    if line is None:
        return None
    asked = re.findall(r"(?:^|\s)mitigations=(\S+)", line)
    return asked[-1] if asked else "auto"


def _mitigated(facts: Facts) -> object:
    found = facts.group("vulnerabilities")
    return "; ".join(f"{name}: {text}" for name, text in sorted(found.items())) or None


def _policy(facts: Facts) -> object:
    """Return the policy and, of a real-time one, the priority: ``fifo 10``."""
    policy, priority = facts.text("scheduling.policy"), facts.number("scheduling.priority")
    return f"{policy} {priority:g}" if policy and priority else policy


def _session_nice(facts: Facts) -> object:
    """Return the nice value of the session; whether sessions have one is the kernel's doing."""
    return facts.number("scheduling.autogroup_nice") or 0


def _weights(facts: Facts) -> object:
    return ", ".join(map(str, facts.items("scheduling.cgroup_weights") or [])) or "as usual"


def _debug_options(facts: Facts) -> object:
    found = facts.items("kernel.debug_options")
    return None if found is None else ", ".join(map(str, found)) or "none"


ONE_RUN: Final = (
    "hostname", "kernel.release", "cpu.model", "cpu.allowed", "scheduling.policy",
    "scheduling.priority", "scheduling.nice", "scheduling.cgroup_weights",
)  # fmt: skip
"""Facts that must not change within one result."""

IDENTITY: Final[Mapping[str, _Reader]] = {
    "cpu.model": _plain("cpu.model"),
    "cpu.allowed_count": _plain("cpu.allowed_count"),
    "cpu.threads_per_core": _plain("cpu.threads_per_core"),
    "cpu.hypervisor": _plain("cpu.hypervisor"),
    "memory.total": _memory,
    "kvm.vendor_module": _plain("kvm.vendor_module"),
    "kvm.second_level_paging": _plain("kvm.second_level_paging"),
    "mitigations": _mitigations,
    "frequency.governors": _governors,
    "frequency.boost": _plain("frequency.boost"),
    "frequency.max_khz": _plain("frequency.max_khz"),
    "cpuidle.states": _idle_states,
    "cpuidle.latency_limit_us": _plain("cpuidle.latency_limit_us"),
    "cgroup.quota_cpus": _plain("cgroup.quota_cpus"),
    "scheduling.policy": _policy,
    "scheduling.nice": _plain("scheduling.nice"),
    "scheduling.autogroup_nice": _session_nice,
    "scheduling.cgroup_weights": _weights,
    "memory.thp_enabled": _plain("memory.thp_enabled"),
    "memory.ksm_run": _plain("memory.ksm_run"),
    "memory.numa_balancing": _plain("memory.numa_balancing"),
}
"""Facts that must be the same, by the name that ``--allow-host`` takes."""

LATER: Final = ("scheduling",)
"""Groups of facts that results of an older kvmpc do not have: there, nothing is known to differ."""

REMARKS: Final[Mapping[str, _Reader]] = {
    "hostname": _plain("hostname"),
    # As many, or it is refused; which ones may decide about caches, nodes and neighbours.
    "cpu.allowed": _plain("cpu.allowed"),
    "cpu.microcode": _plain("cpu.microcode"),
    "cpu.clocksource": _plain("cpu.clocksource"),
    "frequency.driver": _plain("frequency.driver"),
    "kvm.tdp_mmu": _plain("kvm.modules.kvm.tdp_mmu"),
    "kvm.nx_huge_pages": _plain("kvm.modules.kvm.nx_huge_pages"),
    "memory.mglru_enabled": _plain("memory.mglru_enabled"),
    "kernel.debug_options": _debug_options,
    "vulnerabilities": _mitigated,
}


def differences(baseline: Mapping[str, object], new: Mapping[str, object]) -> list[HostDifference]:
    """Return each fact of `IDENTITY` in which the hosts differ; unknown on one side differs."""
    sides = Facts(baseline), Facts(new)
    found = []
    for field, read in IDENTITY.items():
        group = field.partition(".")[0]
        if group in LATER and not all(side.group(group) for side in sides):
            continue
        one, other = map(read, sides)
        if one != other and not (field == "memory.total" and _alike(*sides)):
            found.append(HostDifference(field, _shown(one), _shown(other)))
    return found


def remarks(baseline: Result, new: Result) -> list[Caution]:
    """Return what else differs, as cautions: the tool's version and the facts of `REMARKS`."""
    found = []
    if baseline.tool_version != new.tool_version:
        found.append(
            Caution(
                "tool-version",
                f"measured by kvmpc {new.tool_version} against {baseline.tool_version} in the "
                "baseline",
                "measure the baseline again with this kvmpc, if its loops have changed",
            )
        )
    for field, read in REMARKS.items():
        one, other = (read(Facts(result.host)) for result in (baseline, new))
        # A result that is older than this fact, or of a kernel that does not say, has no doubt.
        unknown = field == "kernel.debug_options" and None in (one, other)
        if one == other or unknown:
            continue
        if field == "vulnerabilities":
            text = "the mitigations in force are not those of the baseline"
        else:
            text = str(HostDifference(field, _shown(one), _shown(other)))
        found.append(Caution("host-differs", text, "make sure that this is what you compare"))
    return found


def kernel_release(result: Result) -> str | None:
    """Return the kernel it was measured on."""
    return Facts(result.host).text("kernel.release")


def _alike(baseline: Facts, new: Facts) -> bool:
    one, other = (facts.number("memory.total_bytes") for facts in (baseline, new))
    if one is None or other is None:
        return False
    return abs(one - other) <= _SAME_MEMORY * max(abs(one), abs(other))


def _shown(value: object) -> str:
    return "unknown" if value is None else str(value)
