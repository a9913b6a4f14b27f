"""Which pages of a range are there, as the kernel says: asked, never touched.

While a userfaultfd holds the range, a load would be a SIGBUS, or a hang that holds the GIL.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from kvmpc.abi import pagemap
from kvmpc.host.files import read_text
from kvmpc.kernel import syscalls
from kvmpc.units import PAGE_BYTES

__all__ = ["Presence"]

_TELLING = ("Rss:", "AnonHugePages:", "Swap:", "THPeligible:", "VmFlags:")

_PRESENT_BY_TOP_BYTE = bytes(
    int(bool(top & (pagemap.PM_PRESENT | pagemap.PM_SWAP) >> 56)) for top in range(256)
)


class Presence:
    """What is there of `size_bytes` from `hva` on, in this process; its pages are units.

    A unit comes whole, so its first base page speaks for it.
    """

    def __init__(self, hva: int, size_bytes: int, unit_bytes: int) -> None:
        self._hva, self._size_bytes, self._unit_bytes = hva, size_bytes, unit_bytes

    def _hva_of(self, page: int) -> int:
        return self._hva + page * self._unit_bytes

    def present(self, first_page: int, pages: int) -> bytes:
        """Return one byte a page: 1 where it is present or swapped out, 0 where it is missing.

        Source: Documentation/admin-guide/mm/pagemap.rst; flags need no privilege. Raises: OSError.
        """
        entry, unit = pagemap.PAGEMAP_ENTRY_BYTES, self._unit_bytes // PAGE_BYTES
        with open("/proc/self/pagemap", "rb", buffering=0) as file:
            raw = bytearray()
            start = self._hva_of(first_page) // PAGE_BYTES * entry
            end = start + pages * unit * entry
            while start < end:
                piece = os.pread(file.fileno(), end - start, start)
                if not piece:
                    raise OSError("pagemap ended early")
                raw += piece
                start += len(piece)
        return bytes(raw[entry - 1 :: entry * unit]).translate(_PRESENT_BY_TOP_BYTE)

    def any_resident(self, first_page: int, pages: int) -> bool:
        """Return whether any page of a range is in memory, the shared zero page included.

        A tenth of the time `present` takes where memory is empty; a page that was swapped out
        does not show. Source: mincore(2), mm/mincore.c. Raises: KernelError.
        """
        base_pages = pages * self._unit_bytes // PAGE_BYTES
        return b"\1" in syscalls.mincore(self._hva_of(first_page), base_pages)

    def describe(self, page: int) -> str:
        """Return what the kernel has at a page: for the text of an error. Raises: OSError."""
        state = "present" if self.present(page, 1) == b"\1" else "missing"
        return f"page {page} is {state}; its mapping: {_mapping_of(self._hva_of(page))}"

    def pages_per_node(self) -> dict[str, int]:
        """Return how many pages of it each NUMA node holds; empty where not told.

        Source: Documentation/admin-guide/mm/numa_memory_policy.rst, /proc/PID/numa_maps.
        """
        nodes: dict[str, int] = {}
        try:
            with open("/proc/self/numa_maps", encoding="ascii", errors="replace") as file:
                for line in file:
                    words = line.split()
                    if not 0 <= int(words[0], 16) - self._hva < self._size_bytes:
                        continue
                    for word in words[2:]:
                        node, equals, count = word.partition("=")
                        if equals and node[0] == "N" and node[1:].isdigit():
                            nodes[node[1:]] = nodes.get(node[1:], 0) + int(count)
        except OSError:
            return {}
        return nodes


def _mapping_of(hva: int) -> str:
    """Return the mapping around `hva`: its range, and what says how its pages may come about.

    Source: Documentation/filesystems/proc.rst, "/proc/PID/smaps".
    """
    found: list[str] = []
    for line in (read_text(Path("/proc/self/smaps")) or "").splitlines():
        if (area := re.match(r"([0-9a-f]+)-([0-9a-f]+) \S+", line)) is not None:
            if found:
                break
            if int(area[1], 16) <= hva < int(area[2], 16):
                found = [area[0]]
        elif found and line.startswith(_TELLING):
            found.append(" ".join(line.split()))
    return ", ".join(found) or "not in /proc/self/smaps"
