"""Guest memory: the low slot, the data slots, and where a page of them is in this process."""

from __future__ import annotations

import ctypes
from contextlib import ExitStack
from typing import Self

from kvmpc.kernel import syscalls
from kvmpc.kernel.kvm import Vm
from kvmpc.units import PAGE_BYTES
from kvmpc.vm.backing import AnonymousBacking
from kvmpc.vm.presence import Presence
from kvmpc.work.placement import ANYWHERE, Placement

__all__ = [
    "DATA_GPA",
    "GuestMemory",
]

DATA_GPA = 1 << 32
"""Where demand-paged memory begins: above the low slot and above every legacy hole."""

_SLOT_BYTES = (1 << 30) * PAGE_BYTES
"""Bytes of one data slot, at most. Source: KVM_MEM_MAX_NR_PAGES, 2^31 - 1 base pages
(include/linux/kvm_host.h)."""


class GuestMemory:
    """The memory behind a VM's slots: the low slot, and the demand-paged data slots.

    `low_hva` holds tables, code and per-vCPU records, resident from the start. `data_hva` is where
    page 0 of data memory is: untouched, and under the NUMA policy of `placement`. `presence` tells
    which of its pages are there. Must outlive the VM it is given to.
    Raises: HostError, KernelError.
    """

    def __init__(self, low_bytes: int, data_bytes: int, placement: Placement = ANYWHERE) -> None:
        self.low_bytes = low_bytes
        self.data_bytes = data_bytes
        with ExitStack() as stack:
            low = syscalls.Mapping.anonymous(low_bytes, populate=True, what="guest tables")
            stack.callback(low.close)
            backing = stack.enter_context(AnonymousBacking(data_bytes, placement))
            self._owned = stack.pop_all()
        self.low_hva = low.address
        self.data_hva, self.unit_bytes = backing.hva, backing.unit_bytes
        self.presence = Presence(self.data_hva, data_bytes, self.unit_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmap it all. The VM must be closed by now."""
        self._owned.close()

    def give_to(self, vm: Vm, *, flags: int = 0) -> None:
        """Make the memory the VM's: slot 0 at gpa 0, data slots from DATA_GPA on.

        flags: ``KVM_MEM_*`` of the data slots. Raises: KernelError.
        """
        vm.set_memslot(0, gpa=0, hva=self.low_hva, size_bytes=self.low_bytes)
        for slot, offset in enumerate(range(0, self.data_bytes, _SLOT_BYTES), start=1):
            vm.set_memslot(
                slot,
                gpa=DATA_GPA + offset,
                hva=self.data_hva + offset,
                size_bytes=min(_SLOT_BYTES, self.data_bytes - offset),
                flags=flags,
            )

    def hva_of_page(self, page: int) -> int:
        """Return where page `page` of data memory is in this process."""
        return self.data_hva + page * self.unit_bytes

    def write_low(self, gpa: int, data: bytes) -> None:
        """Put bytes into the low slot."""
        if not 0 <= gpa <= gpa + len(data) <= self.low_bytes:
            raise ValueError(f"{len(data)} bytes at gpa {gpa:#x} do not fit the low slot")
        ctypes.memmove(self.low_hva + gpa, data, len(data))
