"""Where a fault's time went: read after a trial from the stamps that its pages carry.

Both sides stamp the page itself (loops/stamps.py, loops/stamp.asm, guest/touch.asm), so that each
page's own times are subtracted from each other, with no queue, table or histogram in between. Only
where guest and host read one TSC; a part that cannot be had honestly is absent:

noticed: from the guest's stamp before its touch until the resolver has claimed the page.
fetch: from there until its bytes are there; absent without a fetch delay.
install: UFFDIO_COPY, which for ``uffd`` includes waking the vCPU.
back: from its return until the guest goes on; absent for ``uffd``, whose vCPU is woken before it
    returns.
install_back: both together, from before UFFDIO_COPY until the guest goes on; for every pager.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from kvmpc.caution import Caution
from kvmpc.kernel import syscalls
from kvmpc.loops.stamps import STAMPS
from kvmpc.loops.tsc import host_cycles_per_ns
from kvmpc.pagers.pager import Pager
from kvmpc.result.metrics import PART_QUANTILES, part_metric
from kvmpc.trial.outcome import Finding
from kvmpc.vm.memory import GuestMemory
from kvmpc.work.layout import Layout

__all__ = ["MAX_PAGES", "extents", "latency_split"]

MAX_PAGES = 1 << 18
"""Of a larger guest, so many are read, spread over all of it."""

_MAX_DISORDER = 0.001
_MAX_RATE_DEVIATION = 0.01
_READ_PAGES = 512

_PARTS = {
    "noticed": ("STAMP_TOUCHED", "STAMP_CLAIMED"),
    "fetch": ("STAMP_CLAIMED", "STAMP_FETCHED"),
    "install": ("STAMP_INSTALL", "STAMP_INSTALLED"),
    "back": ("STAMP_INSTALLED", "STAMP_BACK"),
    "install_back": ("STAMP_INSTALL", "STAMP_BACK"),
}


def extents(layout: Layout) -> Iterator[tuple[int, int]]:
    """Yield (first page, pages) of what is touched, in pieces; untouched pages may be missing."""
    work = layout.work
    step, piece = layout.run_stride, layout.run_pages
    if step == piece:
        step = piece = max(piece, _READ_PAGES)
    for part in range(work.parts):
        first, left = part * work.pages_per_part, work.touched_per_part
        while left > 0:
            yield first, min(piece, left)
            first, left = first + step, left - piece


def latency_split(
    memory: GuestMemory,
    layout: Layout,
    pager: Pager,
    *,
    tsc_khz: float,
    tsc_shared: bool,
) -> Finding:
    """Return the metrics of a verified trial's pages, and what weakens them; none without --split.

    Raises: KernelError, where a page cannot be read.
    """
    if not layout.work.split or not pager.fetches:
        return Finding()
    deviation = abs(tsc_khz / host_cycles_per_ns() / 1e6 - 1)
    if not tsc_shared or deviation > _MAX_RATE_DEVIATION:
        clock = Caution(
            "split-clock",
            "guest and host do not read the same TSC, so no latency was split",
            "use Linux 5.16 or newer, and a host whose TSC is not scaled for the guest",
        )
        return Finding(cautions=(clock,))
    parts = dict(_PARTS)
    if not layout.work.fetch_delay_ns:
        del parts["fetch"]
    if not pager.own_thread:
        del parts["back"]
    found, disordered = _durations(memory, layout, parts)
    pages = len(found["noticed"])
    cautions: tuple[Caution, ...] = ()
    if disordered:
        cautions = (
            Caution(
                "split-order",
                f"{disordered} of {pages} pages have stamps that go back in time",
                "check the host's TSCs (kernel log: tsc); beyond 1 in 1000 no split is given",
                size=disordered / pages,
            ),
        )
    if disordered > _MAX_DISORDER * pages:
        return Finding(cautions=cautions)
    metrics = {}
    for part, cycles in found.items():
        cycles.sort()
        for name, quantile in PART_QUANTILES.items():
            rank = max(1, -(-round(quantile * 100) * pages // 100))
            metrics[part_metric(part, name).key] = cycles[rank - 1] * 1e6 / tsc_khz
    return Finding(metrics=metrics, cautions=cautions)


def _durations(
    memory: GuestMemory, layout: Layout, parts: dict[str, tuple[str, str]]
) -> tuple[dict[str, list[int]], int]:
    """Return the cycles of each part, one entry a page, and how many pages have one below zero."""
    found: dict[str, list[int]] = {part: [] for part in parts}
    disordered, unit_bytes = 0, layout.work.unit_bytes
    every = -(-layout.work.expected_pages // MAX_PAGES)
    # In step with the parts, it would find the same place of each: its beginning.
    pieces = sum(1 for _ in extents(layout)) // layout.work.parts
    while math.gcd(every, pieces) > 1:
        every += 1
    for number, (page, count) in enumerate(extents(layout)):
        if number % every:
            continue
        content = syscalls.read_own_memory(memory.hva_of_page(page), count * unit_bytes)
        words = memoryview(content).cast("Q")
        stamps = {
            name: words[offset // 8 :: unit_bytes // 8].tolist() for name, offset in STAMPS.items()
        }
        wrong = [False] * count
        for part, (begin, end) in parts.items():
            cycles = [b - a for a, b in zip(stamps[begin], stamps[end], strict=True)]
            found[part] += cycles
            if min(cycles) < 0:
                wrong = [bad or value < 0 for bad, value in zip(wrong, cycles, strict=True)]
        disordered += sum(wrong)
    return found, disordered
