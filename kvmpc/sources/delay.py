"""A simulated network (``--fetch-delay``): each page's bytes come in a fixed time after the claim.

Whoever waits itself sleeps; a pipelined reader puts the page into a ring, in order of time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from kvmpc.loops.records import ResolverRecord
from kvmpc.loops.steps import Steps
from kvmpc.loops.tsc import host_cycles_per_ns
from kvmpc.sources.source import Source

__all__ = ["Delay"]


@dataclass(frozen=True)
class Delay(Source):
    """A sender that answers `delay_ns` after it was asked, however many ask."""

    delay_ns: int

    waits: ClassVar[bool] = True

    def blocking(self, steps: Steps) -> Steps:
        """Sleep through each fetch."""
        return replace(steps, fetch="fetch_sleep")

    def pipelined(self, steps: Steps) -> Steps:
        """Put a page into the ring, and install what is due."""
        return replace(steps, take="take_later", install_due="due_installs")

    def equip(self, record: ResolverRecord) -> None:
        """Give the record the delay, by both clocks. Raises: KernelError."""
        per_ns = host_cycles_per_ns()
        record.fetch_delay_ns = self.delay_ns
        record.fetch_delay_cycles = round(self.delay_ns * per_ns)
        record.ns_per_cycle_q32 = round(2**32 / per_ns)
