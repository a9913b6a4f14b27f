"""Which source a trial's pages come from, as its work asks: a line for each kind."""

from __future__ import annotations

from kvmpc.sources.delay import Delay
from kvmpc.sources.source import Source
from kvmpc.work.work import Work

__all__ = ["source_of"]


def source_of(work: Work) -> Source:
    """Return the source that `work` asks for."""
    return Delay(work.fetch_delay_ns) if work.fetch_delay_ns else Source()
