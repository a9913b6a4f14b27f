"""What a source is: who sends a missing page's bytes, as the resolver's steps and records see it.

This one has every page at hand. A source knows no pager; which one a trial has, its work says
(`kvmpc.sources.choice`).
"""

from __future__ import annotations

from typing import ClassVar

from kvmpc.loops.records import ResolverRecord
from kvmpc.loops.steps import Steps

__all__ = ["Source"]


class Source:
    """Pages are at hand: a fetch is nothing. Other sources are subclasses.

    waits: whether a page's bytes come in later than they are asked for.
    """

    waits: ClassVar[bool] = False

    def blocking(self, steps: Steps) -> Steps:
        """Return `steps` for a thread that waits for each page itself."""
        return steps

    def pipelined(self, steps: Steps) -> Steps:
        """Return `steps` for a reader that goes on reading while pages are on their way."""
        return steps

    def equip(self, record: ResolverRecord) -> None:
        """Give a thread's record what these steps read of it."""
