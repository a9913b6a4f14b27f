"""Which pages of guest memory belong to which vCPU, which are touched, and in which order."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from kvmpc.work.work import Work

__all__ = ["RUN_PAGES", "Layout", "VcpuOrder", "shares"]

RUN_PAGES = 512
"""Pages touched side by side in a sparse run: 2 MiB, what one page-table page maps."""


_GOLDEN_FRACTION = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class VcpuOrder:
    """The order in which one vCPU touches its part: indices start, start + step, ... modulo
    `count`.

    An index names the n-th touched page of the part; `Layout.page_of_index` tells which that is.
    """

    part_page: int
    start: int
    step: int
    count: int

    def index(self, touch: int) -> int:
        """Return the index of the `touch`-th touch."""
        return (self.start + touch * self.step) % self.count


class Layout:
    """Which pages of guest memory belong to which vCPU, which are touched, and in which order.

    Touched pages come in runs of `run_pages` (a power of two), one run every `run_stride` pages of
    a part, so that K of P pages are spread over the part.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        touched = work.touched_per_part
        self.run_pages = RUN_PAGES if touched >= RUN_PAGES else 1
        self.runs = -(-touched // self.run_pages)
        stride = work.pages_per_part // self.runs
        self.run_stride = max(stride // self.run_pages, 1) * self.run_pages

    def page_of_index(self, index: int) -> int:
        """Return the page, counted from its part's start, of the `index`-th touched page."""
        run, within = divmod(index, self.run_pages)
        return run * self.run_stride + within

    def order(self, vcpu: int) -> VcpuOrder:
        """Return where vCPU `vcpu` starts and how it steps.

        With overlap each vCPU starts at another place, and in scattered order has a stride of its
        own, so that they meet and race.
        """
        work, count = self.work, self.work.touched_per_part
        step = 1
        if work.order == "scattered":
            step = _coprime_step(count, work.seed * 1009 + (vcpu if work.overlap else 0))
        if work.overlap:
            return VcpuOrder(0, vcpu * count // work.vcpus, step, count)
        return VcpuOrder(vcpu * work.pages_per_part, 0, step, count)

    def touched_page(self, vcpu: int, touch: int) -> int:
        """Return the page of guest memory that vCPU `vcpu` touches as its `touch`-th."""
        order = self.order(vcpu)
        return order.part_page + self.page_of_index(order.index(touch))

    @cached_property
    def expected_part(self) -> bytes:
        """One byte a page of a part: 1 = touched, so present afterwards. The same for every
        part."""
        run = b"\1" * self.run_pages + b"\0" * (self.run_stride - self.run_pages)
        # The last run may be short, and the stride after it may reach beyond the part.
        body = run * (self.runs - 1)
        body += b"\1" * (self.work.touched_per_part - (self.runs - 1) * self.run_pages)
        return body.ljust(self.work.pages_per_part, b"\0")


def _coprime_step(count: int, seed: int) -> int:
    """Return a step near `count` over the golden ratio that visits all `count` indices.

    Such a step keeps successive touches far apart and fills a part evenly.
    """
    jitter = (seed * 2654435761 & 0xFFFF) / 0x10000 * 0.1 - 0.05
    step = max(1, int(count * (_GOLDEN_FRACTION + jitter)))
    while math.gcd(step, count) != 1:
        step += 1
    return step


def shares(pages: int, count: int) -> list[tuple[int, int]]:
    """Return (first page, pages) of `count` contiguous shares that differ by at most one page."""
    bounds = [index * pages // count for index in range(count + 1)]
    return [(low, high - low) for low, high in pairwise(bounds)]
