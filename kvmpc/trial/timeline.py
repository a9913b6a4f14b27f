"""Progress by time: sampled at a low rate by the thread that waits anyway, and what follows of it.

A sample reads two words of each vCPU's record, which the guest writes for every page; what that
costs is measured by ``bench/timeline_cost.py``.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping, Sequence

from kvmpc.loops.records import ResolverRecord
from kvmpc.result.metrics import (
    FAIRNESS,
    FINISH_SPREAD,
    FULL_SPEED,
    TO_95_SPEED,
    TO_HALF_SPEED,
)
from kvmpc.units import PAGE_BYTES
from kvmpc.vm.guest import Guest
from kvmpc.vm.record import GuestRecord
from kvmpc.work.work import Work

__all__ = ["FIRST_INTERVAL_S", "MAX_SAMPLES", "Timeline", "fairness", "speeds", "time_to_speed_ns"]

FIRST_INTERVAL_S = 0.005
"""Until the samples are as many as MAX_SAMPLES: then every other one goes, and it doubles."""

MAX_SAMPLES = 200

_WORDS_PER_PAGE = PAGE_BYTES // 8


class Timeline:
    """The samples of one trial; `sample` as often as one likes, it takes one when it is due."""

    def __init__(self, work: Work, guest: Guest, resolvers: Sequence[ResolverRecord]) -> None:
        self._resolvers = resolvers
        self._fields = [GuestRecord.touched.offset] + [GuestRecord.again.offset] * (work.passes > 1)
        self._columns = []
        for offset in self._fields:
            # The records lie a page apart: one stride brings all, without an object for each.
            first = ctypes.addressof(guest.record(0)) + offset
            words = (ctypes.c_uint64 * ((work.vcpus - 1) * _WORDS_PER_PAGE + 1)).from_address(first)
            self._columns.append(memoryview(words).cast("B").cast("Q")[::_WORDS_PER_PAGE])
        self._samples: list[tuple[int, int, int]] = []
        self.interval_s = FIRST_INTERVAL_S
        self._due = 0.0

    def sample(self, *, now: bool = False) -> None:
        """Take a sample if one is due, or `now`."""
        if not now and time.monotonic() < self._due:
            return
        touches = sum(sum(column.tolist()) for column in self._columns)
        installs = sum(record.installs for record in self._resolvers)
        self._samples.append((time.monotonic_ns(), touches, installs))
        if len(self._samples) >= MAX_SAMPLES:
            del self._samples[1::2]
            self.interval_s *= 2
        self._due = time.monotonic() + self.interval_s

    def close(self) -> None:
        """Let go of the guest's memory, before it is unmapped."""
        for column in self._columns:
            column.release()
        self._columns = []

    def columns(self, gate_ns: int) -> dict[str, tuple[int, ...]]:
        """Return the samples since the gate as columns."""
        kept = [(ns - gate_ns, *rest) for ns, *rest in self._samples if ns >= gate_ns]
        if not kept:
            return {}
        return dict(zip(("ns", "touches", "installs"), zip(*kept, strict=True), strict=True))


def time_to_speed_ns(
    timeline: Mapping[str, Sequence[int]],
    end_ns: Sequence[int],
    full_per_s: float,
    share: float,
) -> float | None:
    """Return when the guest comes to `share` of its full speed, and stays there.

    Its speed in an interval: what it touched, over its full speed; and a vCPU that has all its
    pages (`end_ns`, one entry per vCPU) could run at full speed, though it waits for the others
    here. None where pass 1 was over before there were two samples.
    """
    times, touches = [0, *timeline["ns"]], [0, *timeline["touches"]]
    last = max(end_ns)
    reached: float | None = None
    seen = 0
    for begin, end, before, after in zip(times, times[1:], touches, touches[1:], strict=False):
        if end > last or end <= begin:
            break
        seen += 1
        touching = (after - before) / (end - begin) * 1e9 / full_per_s
        ended = sum(at <= begin for at in end_ns) / len(end_ns)
        if touching + ended < share:
            reached = None
        elif reached is None:
            reached = float(begin)
    if seen < 2:
        return None
    # After the last vCPU's last page every one of them can run at full speed.
    in_time = sorted(end_ns)[max(0, -(-round(share * 1000) * len(end_ns) // 1000) - 1)]
    return float(in_time) if reached is None else min(reached, float(in_time))


def speeds(
    timeline: Mapping[str, Sequence[int]], end_ns: Sequence[int], full_per_s: float | None
) -> dict[str, float]:
    """Return metrics: how alike the vCPUs fared, and how long the guest was how slow.

    `end_ns`: from the gate, one entry per vCPU; `full_per_s`: None without further passes.
    """
    found: dict[str, float | None] = {
        FAIRNESS.key: fairness(end_ns),
        FINISH_SPREAD.key: float(max(end_ns) - min(end_ns)),
        FULL_SPEED.key: full_per_s,
    }
    if full_per_s is not None and timeline:
        found[TO_HALF_SPEED.key] = time_to_speed_ns(timeline, end_ns, full_per_s, 0.5)
        found[TO_95_SPEED.key] = time_to_speed_ns(timeline, end_ns, full_per_s, 0.95)
    return {name: value for name, value in found.items() if value is not None}


def fairness(end_ns: Sequence[int]) -> float:
    """Return Jain's index of the vCPUs' rates: 1 = all alike, 1/n = one had it all.

    `end_ns`: from the gate, one entry per vCPU, each of which touches as many pages.
    Source: Jain, Chiu, Hawe, DEC-TR-301 (1984).
    """
    rates = [1 / max(1, at) for at in end_ns]
    return sum(rates) ** 2 / (len(rates) * sum(rate * rate for rate in rates))
