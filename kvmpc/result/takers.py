"""Who had the CPU time that a starved trial lost: other threads, a quota, or other guests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kvmpc.result.metrics import CPU_READERS, CPU_VCPUS, LOST, STOLEN, THROTTLED

__all__ = ["Taker", "taker_of"]


@dataclass(frozen=True)
class Taker:
    """Who keeps threads from CPUs: `had`, the words before how much, and what helps against it."""

    had: str
    remedy: str


_OTHERS = Taker(
    "others had",
    "stop what runs beside, keep it off these CPUs (cpuset, isolcpus), or let kvmpc go before it "
    "(chrt -f 10 kvmpc ...)",
)
_BY_METRIC = {
    THROTTLED.key: Taker(
        "a cgroup's quota withheld", "lift it (cpu.max, cpu.cfs_quota_us), or run elsewhere"
    ),
    STOLEN.key: Taker(
        "a hypervisor gave others", "give this VM CPUs of its own, or measure on bare metal"
    ),
}


def taker_of(metrics: Mapping[str, float]) -> Taker:
    """Return who took over half of what a trial lost, by its metrics; others, if nobody else did.

    What others ran meanwhile is no measure of it: they may have run on CPUs that nobody missed.
    """
    share = metrics.get(LOST.key, 0.0)
    ran_s = metrics.get(CPU_VCPUS.key, 0.0) + metrics.get(CPU_READERS.key, 0.0)
    for key, taker in _BY_METRIC.items():
        if 2 * (1 - share) * metrics.get(key, 0.0) > share * ran_s > 0:
            return taker
    return _OTHERS
