"""Plans of few pages: schedules a test can state its trials on."""

from __future__ import annotations

from typing import Any

from kvmpc.run.plan import make_plan
from kvmpc.run.schedule import Schedule
from kvmpc.units import PAGE_BYTES

SPECS = ("none", "uffd", "exit")


def make_schedule(
    specs: tuple[str, ...] = SPECS, *, rounds: int = 3, warmup: int = 1, **options: Any
) -> Schedule:
    """Make a schedule of `specs` on 3 vCPUs of 997 pages; `vcpus` may be several."""
    plan = {name: options.pop(name) for name in ("profile", "busy_limit") if name in options}
    axes = {"vcpus": 3, "mem_per_vcpu": 997 * PAGE_BYTES, **options}
    return Schedule(make_plan(axes, specs, rounds=rounds, warmup=warmup, watchdog_s=7.0, **plan))
