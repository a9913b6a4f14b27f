"""Guest memory: how it is divided, what backs it, which pages are still missing.

`Layout` is arithmetic only. `GuestMemory` owns the two mappings behind a VM's slots;
`MissingBitmap` the two bitmaps of a trial. No Python here dereferences data memory: while a
userfaultfd holds it, a load would be a SIGBUS, or a hang that holds the GIL. Presence is read from
/proc/self/pagemap.
"""

from __future__ import annotations

import ctypes
import errno
import math
import os
import re
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Self

from kvmpc import syscalls
from kvmpc.abi import mman, pagemap
from kvmpc.config import Work
from kvmpc.errors import KernelError
from kvmpc.kernelfs import read_text
from kvmpc.kvm import Vm
from kvmpc.placement import ANYWHERE, Placement
from kvmpc.placing import bind_memory
from kvmpc.units import MIB, PAGE_BYTES

__all__ = ["DATA_GPA", "GuestMemory", "Layout", "MissingBitmap", "VcpuOrder", "shares"]

DATA_GPA = 1 << 32
"""Where demand-paged memory begins: above the low slot and above every legacy hole."""

RUN_PAGES = 512
"""Pages touched side by side in a sparse run: 2 MiB, what one page-table page maps."""

_SLOT_PAGES = 1 << 30
"""Pages in one data slot, at most. Source: KVM_MEM_MAX_NR_PAGES, 2^31 - 1
(include/linux/kvm_host.h)."""

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


class MissingBitmap:
    """One bit a page, twice: `missing` (1 = not installed) and `claimed` (1 = somebody fetches it).

    Arrays of u64, bit i = page i, as KVM's own bitmap has them. Both live until close; the native
    loops change them through the addresses given here.
    """

    def __init__(self, pages: int) -> None:
        self.pages = pages
        size_bytes = -(-pages // 64) * 8
        self._missing = syscalls.Mapping.anonymous(size_bytes, what="missing bitmap")
        try:
            # Resident: its first touch would be a fault of ours in the measured path.
            self._claimed = syscalls.Mapping.anonymous(
                size_bytes, populate=True, what="claimed bitmap"
            )
        except BaseException:
            self._missing.close()
            raise
        self.missing_address = self._missing.address
        self.claimed_address = self._claimed.address
        ctypes.memset(self.missing_address, 0xFF, pages // 8)
        if pages % 8:
            ctypes.c_uint8.from_address(self.missing_address + pages // 8).value = (
                1 << pages % 8
            ) - 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmap both."""
        self._claimed.close()
        self._missing.close()

    def is_missing(self, page: int) -> bool:
        """Return the missing bit of `page`."""
        byte = ctypes.c_uint8.from_address(self.missing_address + page // 8).value
        return bool(byte >> page % 8 & 1)

    def missing(self, first_page: int, pages: int) -> int:
        """Return the missing bits of a range as one number; bit 0 is `first_page`."""
        first_byte, last_byte = first_page // 8, (first_page + pages + 7) // 8
        raw = ctypes.string_at(self.missing_address + first_byte, last_byte - first_byte)
        return int.from_bytes(raw, "little") >> first_page % 8 & ((1 << pages) - 1)
