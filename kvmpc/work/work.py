"""What a trial works on: `Work`, a frozen record that is right from the moment it exists.

Every limit that can be known without the host is checked here, before anything is allocated; what
depends on the host is checked in ``run/needs.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from kvmpc.errors import UsageError
from kvmpc.units import MIB, PAGE_BYTES, format_bytes
from kvmpc.work.placement import ANYWHERE, Placement

__all__ = [
    "ACCESSES",
    "MAX_PASSES",
    "MAX_VCPUS_DEFAULT",
    "ORDERS",
    "VERIFIES",
    "Work",
    "default_mem_per_vcpu_bytes",
]

ORDERS: Final = ("sequential", "scattered")
ACCESSES: Final = ("write", "read")
VERIFIES: Final = ("words", "page")
MAX_PASSES: Final = 1_000_000
MAX_VCPUS_DEFAULT: Final = 160
"""The talk's machine; more only when asked for."""


def default_mem_per_vcpu_bytes(vcpus: int) -> int:
    """Return the memory a vCPU touches by default: a run stays short and fits a small host."""
    return 64 * MIB if vcpus <= 32 else 16 * MIB


@dataclass(frozen=True, kw_only=True)
class Work:
    """The same for every pager of a run: how many vCPUs touch how much memory, and how.

    vcpus: vCPUs in the guest.
    mem_per_vcpu_bytes: size of each vCPU's own part; with `overlap`, of the one part all share.
    touch_pages: pages touched in a part; None = all of them.
    order: ``sequential``, or ``scattered`` (a seeded stride; from 7 pages on, no touch follows one
        of a neighbour).
    access: whether the first touch of a page is a ``write`` or a ``read``.
    overlap: all vCPUs touch the same part, each from another place if it has as many pages.
    seed: varies tags and scattered orders.
    fetch_delay_ns: simulated network time of one page, in every pager that fetches.
    passes: how often each vCPU goes through its pages: once, and then, all together once every
        page is there, ``passes - 1`` times at the guest's full speed.
    timeline: whether progress is sampled; always with further passes.
    split: whether each page carries stamps that tell where its fault's time went.
    verify: how much of each page is looked at when all is over: the ``words`` that carry its tags
        and what the guest wrote, or the whole ``page``, which then comes with every byte known.
    placement: where threads and memory are, and how deep idle CPUs may sleep.
    timed, checked: whether the guest times each touch and compares the tags; off only to measure
        what they cost (``bench/guest_cost.py``); a trial without the checks says so.
    """

    vcpus: int
    mem_per_vcpu_bytes: int
    touch_pages: int | None = None
    order: str = "sequential"
    access: str = "write"
    overlap: bool = False
    seed: int = 1
    fetch_delay_ns: int = 0
    passes: int = 1
    timeline: bool = False
    split: bool = False
    verify: str = VERIFIES[0]
    placement: Placement = ANYWHERE
    timed: bool = True
    checked: bool = True

    def __post_init__(self) -> None:
        if self.vcpus < 1:
            raise UsageError("--vcpus", self.vcpus, "1 up to what KVM allows")
        size, unit = self.mem_per_vcpu_bytes, self.unit_bytes
        if size < unit or size % unit:
            raise UsageError("--mem-per-vcpu", size, f"a multiple of the page, {unit} bytes")
        if self.touch_pages is not None and not 1 <= self.touch_pages <= self.pages_per_part:
            raise UsageError(
                "--touch-pages",
                self.touch_pages,
                f"1 to {self.pages_per_part}, the pages in {format_bytes(size)}",
            )
        if self.order not in ORDERS:
            raise UsageError("--order", self.order, " or ".join(ORDERS))
        if self.access not in ACCESSES:
            raise UsageError("--access", self.access, " or ".join(ACCESSES))
        if self.verify not in VERIFIES:
            raise UsageError("--verify", self.verify, " or ".join(VERIFIES))
        if not 0 <= self.seed < 1 << 32:
            raise UsageError("--seed", self.seed, "0 to 4294967295")
        if not 0 <= self.fetch_delay_ns <= 10**10:
            raise UsageError("--fetch-delay", f"{self.fetch_delay_ns}ns", "0 to 10s")

        if not 1 <= self.passes <= MAX_PASSES:
            raise UsageError("--passes", self.passes, f"1 to {MAX_PASSES}")
        if self.split and (self.overlap or not self.timed):
            # Most touches find their page there: they and its stamps have nothing in common.
            raise UsageError("--split", "given with --overlap", "one of the two")

    @property
    def sampled(self) -> bool:
        """Whether progress is sampled."""
        return self.timeline or self.passes > 1

    @property
    def unit_bytes(self) -> int:
        """Bytes in a page of demand-paged memory: what is missing, fetched, installed and counted.

        A power of two. The base page, as long as nothing else backs guest memory; never the size
        of tables, records or stacks, which is `PAGE_BYTES`.
        """
        return PAGE_BYTES

    @property
    def pages_per_part(self) -> int:
        """Pages in one vCPU's part, touched or not."""
        return self.mem_per_vcpu_bytes // self.unit_bytes

    @property
    def touched_per_part(self) -> int:
        """Pages that each vCPU touches."""
        return self.pages_per_part if self.touch_pages is None else self.touch_pages

    @property
    def parts(self) -> int:
        """How many parts guest memory has: one per vCPU, or one that all share."""
        return 1 if self.overlap else self.vcpus

    @property
    def total_pages(self) -> int:
        """Pages of demand-paged guest memory."""
        return self.parts * self.pages_per_part

    @property
    def expected_pages(self) -> int:
        """Pages that must be present, each once, when every vCPU is done."""
        return self.parts * self.touched_per_part

    @property
    def sparse(self) -> bool:
        """Whether some pages of a part are never touched."""
        return self.touched_per_part != self.pages_per_part

    def smallest(self, pages: int) -> Work:
        """Return work on one vCPU and `pages` pages that asks for as many kinds of things."""
        return replace(
            self,
            vcpus=1,
            mem_per_vcpu_bytes=pages * self.unit_bytes,
            touch_pages=None,
            order=ORDERS[0],
            seed=1,
            passes=min(self.passes, 2),
            fetch_delay_ns=1000 if self.fetch_delay_ns else 0,
        )

    def scaled_down(self, divisor: int) -> Work:
        """Return the same work with a `divisor`-th of the pages touched, for a warm-up."""
        return replace(self, touch_pages=max(1, self.touched_per_part // divisor))
