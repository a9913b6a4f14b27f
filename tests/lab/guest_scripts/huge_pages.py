"""Give khugepaged every chance to get a huge page into guest memory; JSON out.

It makes one of any 2 MiB of a mapping in which a page is there, zeros and all, so also of the end
of guest memory with what is mapped behind it, if both may be huge for a moment. Pages so made stay
when the memory is then advised against huge ones: they cost no fault, and hold zeros. Here that
moment lasts as long as khugepaged needs, and khugepaged does not pause.
"""

from __future__ import annotations

import json
import mmap
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kvmpc.kernel import syscalls
from kvmpc.units import MIB, PAGE_BYTES
from kvmpc.vm import memory

THP = Path("/sys/kernel/mm/transparent_hugepage")
BUSY = {
    "enabled": "always",
    "khugepaged/scan_sleep_millisecs": "0",
    "khugepaged/alloc_sleep_millisecs": "0",
}
TRIES = 4
PAGES = 2 * MIB // PAGE_BYTES + 1
"""One page more than a huge one, so that the end of guest memory shares its 2 MiB."""

LOW_BYTES = 4 * MIB - PAGE_BYTES
"""Mapped just above, and populated. The kernel aligns multiples of 2 MiB, which leaves gaps."""


@contextmanager
def busy_khugepaged():
    before = {name: (THP / name).read_text().strip() for name in BUSY}
    before["enabled"] = before["enabled"].partition("[")[2].partition("]")[0]
    for name, text in BUSY.items():
        (THP / name).write_text(text)
    try:
        yield
    finally:
        for name, text in before.items():
            (THP / name).write_text(text)


def seconds_to_collapse() -> float:
    """Return how long khugepaged takes to make a huge page of memory with one page in it."""
    with syscalls.Mapping.anonymous(4 * MIB) as mapping:
        start = -(-mapping.address // (2 * MIB)) * (2 * MIB)
        # Or the first touch would be answered with a huge page at once.
        syscalls.madvise(start, 2 * MIB, mmap.MADV_NOHUGEPAGE, call="madvise(NOHUGEPAGE)")
        syscalls.write_own_memory(start + 2 * MIB - 1, b"x")
        syscalls.madvise(start, 2 * MIB, mmap.MADV_HUGEPAGE, call="madvise(HUGEPAGE)")
        begin = time.monotonic()
        while 0 in syscalls.mincore(start, 512):
            if time.monotonic() > begin + 30:
                raise TimeoutError("khugepaged made no huge page within 30 s")
            time.sleep(0.01)
        return time.monotonic() - begin


def main() -> int:
    if not THP.is_dir():
        print(json.dumps({"absent": "this kernel has no transparent huge pages"}))
        return 0
    madvise = syscalls.madvise

    def late(*arguments: Any, call: str) -> None:
        time.sleep(wait_s)
        madvise(*arguments, call=call)

    found = []
    with busy_khugepaged():
        collapse_s = max(seconds_to_collapse() for _ in range(2))
        wait_s = 0.5 + 3 * collapse_s
        syscalls.madvise = late
        for _ in range(TRIES):
            with memory.GuestMemory(LOW_BYTES, PAGES * PAGE_BYTES) as guest_memory:
                present = guest_memory.presence.present(0, PAGES)
                found.append(sum(present))
                if 1 in present:
                    print(guest_memory.presence.describe(present.index(1)), file=sys.stderr)
    print(json.dumps({"collapse_s": round(collapse_s, 2), "pages_found": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
