"""Which pagers `compare` measures unless told: each side at its best that this host has CPUs for.

The rows are five, and all but one are always the same: ratios refer to plain ``uffd``, whatever the
CPUs. The other one is the best uffd. Where a reader has a CPU to itself it spins, which spares each
page a wake-up; where it has none, that would gain nothing (bench/README.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from kvmpc.pagers import DEFAULT_COMPARE
from kvmpc.work.work import Work

__all__ = ["best_uffd", "default_pagers"]

_SLEEPING: Final = "uffd,uffds=per-vcpu"
_SERVED: Final = 4
"""vCPUs that one userfaultfd can serve: at more it gains nothing, with however many readers.

Source: KVM Forum 2018, Demand Paging Performance with 160 vCPUs."""


def best_uffd(vcpus: int, spare: int) -> str:
    """Return the spec of the best uffd for `vcpus` vCPUs where `spare` CPUs are free for readers.

    As many userfaultfds as there are CPUs for a reader of each, if they are enough for the vCPUs.
    """
    uffds = min(vcpus, spare)
    if uffds * _SERVED < vcpus:
        return _SLEEPING
    return f"uffd,uffds={'per-vcpu' if uffds == vcpus else uffds},wait=adaptive"


def default_pagers(work: Work, cpus: Sequence[int], quota: float | None = None) -> tuple[str, ...]:
    """Return what is measured on `work` unless told, where this process may use `cpus`.

    quota: so many CPUs' time it may use at once, None where all.
    """
    spare = work.placement.spare_cpus(work.vcpus, cpus)
    if quota is not None:
        spare = min(spare, max(0, int(quota) - work.vcpus))
    best = {_SLEEPING: best_uffd(work.vcpus, spare)}
    if work.access == "read":
        # Untouched memory reads as the one shared zero page: nothing would be paged in.
        best["none"] = "none,host=populated"
    return tuple(best.get(spec, spec) for spec in DEFAULT_COMPARE)
