"""Progress by time: sampled at a low rate by the thread that waits anyway.

A sample reads two words of each vCPU's record, which the guest writes for every page; what that
costs is measured by ``bench/timeline_cost.py``.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence

from kvmpc.loops.records import ResolverRecord
from kvmpc.trial.outcome import Finding
from kvmpc.units import PAGE_BYTES
from kvmpc.vm.guest import Guest
from kvmpc.vm.record import GuestRecord
from kvmpc.work.work import Work

__all__ = ["FIRST_INTERVAL_S", "MAX_SAMPLES", "Timeline"]

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

    def finding(self, gate_ns: int) -> Finding:
        """Return the samples since the gate."""
        return Finding(timeline=self.columns(gate_ns))

    def columns(self, gate_ns: int) -> dict[str, tuple[int, ...]]:
        """Return the samples since the gate as columns of one length; empty if there are none.

        `ns` from the gate, `touches` of all vCPUs with those of further passes, `installs`.
        """
        kept = [(ns - gate_ns, *rest) for ns, *rest in self._samples if ns >= gate_ns]
        if not kept:
            return {}
        return dict(zip(("ns", "touches", "installs"), zip(*kept, strict=True), strict=True))
