"""What is behind data memory: where its pages come from, and how large one is.

A backing is one mapping of this process, which it owns; a further kind is a sibling class with the
same attributes. No Python here dereferences it.
"""

from __future__ import annotations

import errno
from typing import ClassVar, Self

from kvmpc.abi import mman
from kvmpc.errors import KernelError
from kvmpc.kernel import syscalls
from kvmpc.units import MIB, PAGE_BYTES
from kvmpc.vm.policy import bind_memory
from kvmpc.work.placement import ANYWHERE, Placement

__all__ = ["AnonymousBacking"]


class AnonymousBacking:
    """Private anonymous memory, untouched, never huge and never forked.

    hva: its first byte, aligned to 2 MiB. unit_bytes: what one fault brings. It is under the NUMA
    policy of `placement`. Raises: HostError, KernelError.
    """

    unit_bytes: ClassVar[int] = PAGE_BYTES

    def __init__(self, size_bytes: int, placement: Placement = ANYWHERE) -> None:
        self.size_bytes = size_bytes
        # Without access until it is advised against huge pages below, and with such a margin on
        # both sides for good. Accessible, it would be one mapping with the populated one next
        # door, and khugepaged may make any 2 MiB of that huge, the end of this included: its
        # pages would then be there, as zeros (seen; tests/lab/guest_scripts/huge_pages.py).
        self._mapping = syscalls.Mapping(
            size_bytes + 4 * MIB,
            prot=mman.PROT_NONE,
            flags=mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_NORESERVE,
            what="guest memory",
        )
        self.hva = (self._mapping.address // (2 * MIB) + 1) * (2 * MIB)
        try:
            self._advise()
            bind_memory(placement, self.hva, size_bytes)
            syscalls.mprotect(self.hva, size_bytes, mman.PROT_READ | mman.PROT_WRITE)
        except BaseException:
            self.close()
            raise

    def _advise(self) -> None:
        """Keep pages apart: they are what is measured.

        No huge page may satisfy 512 touches at once, and no fork may turn a touch into a
        copy-on-write fault.
        """
        for advice, name in (
            (mman.MADV_NOHUGEPAGE, "MADV_NOHUGEPAGE"),
            (mman.MADV_DONTFORK, "MADV_DONTFORK"),
        ):
            try:
                syscalls.madvise(self.hva, self.size_bytes, advice, call=f"madvise({name})")
            except KernelError as error:
                # A kernel without transparent huge pages has no such advice, nor need of it.
                if advice != mman.MADV_NOHUGEPAGE or error.errno != errno.EINVAL:
                    raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmap it."""
        self._mapping.close()
