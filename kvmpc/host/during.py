"""What else happened on this host during a run: CPU time of others, stolen time, throttling.

Asks the kernel's counters twice, before the first trial and after the last, and gives the
difference. What cannot be read is absent.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from kvmpc.host.files import Cgroups, entries, read_int, read_text
from kvmpc.host.reclaim import read_reclaim
from kvmpc.host.scheduling import cpu_times
from kvmpc.units import format_cpu_list, parse_cpu_list

__all__ = ["HostWatch"]

_ROOT = Path("/")


class HostWatch:
    """Counts from the moment it is made; `facts` may be asked more than once."""

    def __init__(self, root: Path = _ROOT) -> None:
        self._root = root
        self._cpus = frozenset(os.sched_getaffinity(0))
        self._sets: list[str] = []
        self._before = self._read()
        self._reclaim = self._read_reclaim()
        self.look()

    def look(self) -> None:
        """Take note of the CPUs that may be used now; call it often, to miss no change."""
        online = parse_cpu_list(read_text(self._root / "sys/devices/system/cpu/online") or "")
        allowed = os.sched_getaffinity(0)
        now = format_cpu_list(allowed & set(online) if online else allowed)
        if self._sets[-1:] != [now]:
            self._sets.append(now)

    def facts(self) -> dict[str, object]:
        """Return what happened so far, JSON-ready.

        elapsed_s: time since; cpus_count: CPUs this process may run on, to which all refers.
        own_cpu_s, other_cpu_s: CPU time this process took, and all others, interrupts included.
        steal_cpu_s: time a hypervisor gave to other guests.
        throttled_count: times a CPU slowed down for heat or power (Intel only).
        max_khz: [before, after] of the highest frequency allowed, where it moved.
        cpus: lists of the CPUs that could be used, one after the other, where they changed.
        reclaim: by how much the counts of `read_reclaim` grew, those that did.
        """
        self.look()
        then, now = self._before, self._read()
        facts: dict[str, object] = {"elapsed_s": now["elapsed_s"] - then["elapsed_s"]}
        facts["cpus_count"] = len(self._cpus)
        if then.keys() >= {"busy_s"} <= now.keys():
            own = now["own_s"] - then["own_s"]
            facts["own_cpu_s"] = own
            facts["other_cpu_s"] = max(0.0, now["busy_s"] - then["busy_s"] - own)
            facts["steal_cpu_s"] = max(0.0, now["steal_s"] - then["steal_s"])
        if then.keys() >= {"throttled"} <= now.keys():
            facts["throttled_count"] = round(now["throttled"] - then["throttled"])
        if then.get("max_khz") != now.get("max_khz"):
            facts["max_khz"] = [then.get("max_khz"), now.get("max_khz")]
        if len(self._sets) > 1:
            facts["cpus"] = list(self._sets)
        after = self._read_reclaim()
        grown = {name: count - self._reclaim.get(name, count) for name, count in after.items()}
        if any(count > 0 for count in grown.values()):
            facts["reclaim"] = {name: count for name, count in grown.items() if count > 0}
        return {
            name: round(value, 3) if isinstance(value, float) else value
            for name, value in facts.items()
        }

    def _read_reclaim(self) -> dict[str, int]:
        return read_reclaim(self._root, Cgroups(self._root))

    def _read(self) -> dict[str, float]:
        found = {"elapsed_s": time.monotonic(), "own_s": time.process_time()}
        found |= self._cpu_times()
        cpu = self._root / "sys/devices/system/cpu"
        throttled = [
            count
            for number in self._cpus
            if (count := read_int(cpu / f"cpu{number}/thermal_throttle/core_throttle_count"))
            is not None
        ]
        if throttled:
            found["throttled"] = sum(throttled)
        highest = [
            khz
            for policy in entries(cpu / "cpufreq", r"policy[0-9]+$")
            if (khz := read_int(policy / "scaling_max_freq")) is not None
        ]
        if highest:
            found["max_khz"] = max(highest)
        return found

    def _cpu_times(self) -> dict[str, float]:
        """Return busy and stolen seconds of our CPUs since boot."""
        known = cpu_times(self._cpus, self._root).values()
        if not known:
            return {}
        return {
            "busy_s": sum(each.busy_s for each in known),
            "steal_s": sum(each.stolen_s for each in known),
        }
