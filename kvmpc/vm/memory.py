"""Guest memory: the two mappings behind a VM's slots, and which of its pages are there.

No Python here dereferences data memory: while a
userfaultfd holds it, a load would be a SIGBUS, or a hang that holds the GIL. Presence is read from
/proc/self/pagemap.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
from pathlib import Path
from typing import Self

from kvmpc.abi import mman, pagemap
from kvmpc.errors import KernelError
from kvmpc.host.files import read_text
from kvmpc.kernel import syscalls
from kvmpc.kernel.kvm import Vm
from kvmpc.units import MIB, PAGE_BYTES
from kvmpc.vm.policy import bind_memory
from kvmpc.work.placement import ANYWHERE, Placement

__all__ = [
    "DATA_GPA",
    "GuestMemory",
]

DATA_GPA = 1 << 32
"""Where demand-paged memory begins: above the low slot and above every legacy hole."""


_SLOT_PAGES = 1 << 30
"""Pages in one data slot, at most. Source: KVM_MEM_MAX_NR_PAGES, 2^31 - 1
(include/linux/kvm_host.h)."""


class GuestMemory:
    """The mappings behind a VM's memory: the low slot and the demand-paged data slots.

    `low_hva` holds tables, code and per-vCPU records, resident from the start. `data_hva` is where
    page 0 of guest memory is: aligned to 2 MiB, untouched, never huge and never forked, and under
    the NUMA policy of `placement`. Must outlive the VM it is given to.
    """

    def __init__(self, low_bytes: int, data_bytes: int, placement: Placement = ANYWHERE) -> None:
        self.low_bytes = low_bytes
        self.data_bytes = data_bytes
        self._low = syscalls.Mapping.anonymous(low_bytes, populate=True, what="guest tables")
        try:
            # Without access until it is advised against huge pages below, and with such a margin on
            # both sides for good. Accessible, it would be one mapping with the populated one next
            # door, and khugepaged may make any 2 MiB of that huge, the end of this included: its
            # pages would then be there, as zeros (seen; tests/lab/guest_scripts/huge_pages.py).
            self._data = syscalls.Mapping(
                data_bytes + 4 * MIB,
                prot=mman.PROT_NONE,
                flags=mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_NORESERVE,
                what="guest memory",
            )
        except BaseException:
            self._low.close()
            raise
        self.low_hva = self._low.address
        self.data_hva = (self._data.address // (2 * MIB) + 1) * (2 * MIB)
        try:
            # The page is what is measured: no huge page may satisfy 512 touches at once, and no
            # fork may turn a touch into a copy-on-write fault.
            for advice, name in (
                (mman.MADV_NOHUGEPAGE, "MADV_NOHUGEPAGE"),
                (mman.MADV_DONTFORK, "MADV_DONTFORK"),
            ):
                try:
                    syscalls.madvise(self.data_hva, data_bytes, advice, call=f"madvise({name})")
                except KernelError as error:
                    # A kernel without transparent huge pages has no such advice, nor need of it.
                    if advice != mman.MADV_NOHUGEPAGE or error.errno != errno.EINVAL:
                        raise
            bind_memory(placement, self.data_hva, data_bytes)
            syscalls.mprotect(self.data_hva, data_bytes, mman.PROT_READ | mman.PROT_WRITE)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmap both. The VM must be closed by now."""
        self._data.close()
        self._low.close()

    def give_to(self, vm: Vm) -> None:
        """Make the memory the VM's: slot 0 at gpa 0, data slots from DATA_GPA on."""
        vm.set_memslot(0, gpa=0, hva=self.low_hva, size_bytes=self.low_bytes)
        limit = _SLOT_PAGES * PAGE_BYTES
        for slot, offset in enumerate(range(0, self.data_bytes, limit), start=1):
            vm.set_memslot(
                slot,
                gpa=DATA_GPA + offset,
                hva=self.data_hva + offset,
                size_bytes=min(limit, self.data_bytes - offset),
            )

    def hva_of_page(self, page: int) -> int:
        """Return where page `page` of guest memory is in this process."""
        return self.data_hva + page * PAGE_BYTES

    def write_low(self, gpa: int, data: bytes) -> None:
        """Put bytes into the low slot."""
        if not 0 <= gpa <= gpa + len(data) <= self.low_bytes:
            raise ValueError(f"{len(data)} bytes at gpa {gpa:#x} do not fit the low slot")
        ctypes.memmove(self.low_hva + gpa, data, len(data))

    def present(self, first_page: int, pages: int) -> bytes:
        """Return one byte a page: 1 where it is present or swapped out, 0 where it is missing.

        Source: Documentation/admin-guide/mm/pagemap.rst; flags need no privilege. Raises: OSError.
        """
        with open("/proc/self/pagemap", "rb", buffering=0) as file:
            raw = bytearray()
            start = self.hva_of_page(first_page) // PAGE_BYTES * pagemap.PAGEMAP_ENTRY_BYTES
            end = start + pages * pagemap.PAGEMAP_ENTRY_BYTES
            while start < end:
                piece = os.pread(file.fileno(), end - start, start)
                if not piece:
                    raise OSError("pagemap ended early")
                raw += piece
                start += len(piece)
        return bytes(raw[7::8]).translate(_PRESENT_BY_TOP_BYTE)

    def any_resident(self, first_page: int, pages: int) -> bool:
        """Return whether any page of a range is in memory, the shared zero page included.

        A tenth of the time `present` takes where memory is empty; a page that was swapped out
        does not show. Source: mincore(2), mm/mincore.c. Raises: KernelError.
        """
        return b"\1" in syscalls.mincore(self.hva_of_page(first_page), pages)

    def describe_page(self, page: int) -> str:
        """Return what the kernel has at a page of guest memory: for the text of an error."""
        state = "present" if self.present(page, 1) == b"\1" else "missing"
        return f"page {page} is {state}; its mapping: {self._mapping_of(self.hva_of_page(page))}"

    def _mapping_of(self, hva: int) -> str:
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

    def pages_per_node(self) -> dict[str, int]:
        """Return how many pages of data memory each NUMA node holds; empty where not told.

        Source: Documentation/admin-guide/mm/numa_memory_policy.rst, /proc/PID/numa_maps.
        """
        nodes: dict[str, int] = {}
        try:
            with open("/proc/self/numa_maps", encoding="ascii", errors="replace") as file:
                for line in file:
                    words = line.split()
                    if not 0 <= int(words[0], 16) - self.data_hva < self.data_bytes:
                        continue
                    for word in words[2:]:
                        node, equals, count = word.partition("=")
                        if equals and node[0] == "N" and node[1:].isdigit():
                            nodes[node[1:]] = nodes.get(node[1:], 0) + int(count)
        except OSError:
            return {}
        return nodes


_TELLING = ("Rss:", "AnonHugePages:", "Swap:", "THPeligible:", "VmFlags:")

_PRESENT_BY_TOP_BYTE = bytes(
    int(bool(top & (pagemap.PM_PRESENT | pagemap.PM_SWAP) >> 56)) for top in range(256)
)
