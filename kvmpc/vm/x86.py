"""The guest as x86-64 needs it: page tables, descriptor tables, segments, exceptions.

Everything about the guest that another architecture would have otherwise is here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from kvmpc.abi import kvm_x86
from kvmpc.errors import HostError
from kvmpc.kernel.kvm import Cpuid, Vcpu
from kvmpc.units import GIB, MIB, PAGE_BYTES
from kvmpc.vm.memory import DATA_GPA
from kvmpc.work.work import Work

__all__ = [
    "CODE_GPA",
    "EXCEPTION_TABLE",
    "FOLDER",
    "RECORD_OFFSET",
    "SOURCES",
    "GuestPlan",
    "describe_trap",
    "low_memory",
    "plan_guest",
    "set_start_state",
]

FOLDER = "x86_64"
SOURCES = ("rules.asm", "touch.asm", "exceptions.asm")
"""The guest's program below guest/, in the order in which it is assembled."""

# A vCPU's own page: its TSS, its record, and the stack that grows down from the end.
_TSS_BYTES = 104
RECORD_OFFSET = 128
_TSS_RSP0 = 4
_TSS_IO_BITMAP_BASE = 102

# The low slot, gpa = gva.
_DESCRIPTORS_GPA = 0x1000
CODE_GPA = 0x2000
_TABLES_GPA = 0x3000

_IDT_OFFSET = 0x100
_VECTORS = 32
_CALL_BYTES = 5
EXCEPTION_TABLE = "exception_table:\n" + "    call trap\n" * _VECTORS
"""What the program begins with, at CODE_GPA: each vector's gate leads to its own call."""

_VECTORS_WITH_ERROR_CODE = frozenset({8, 10, 11, 12, 13, 14, 17, 21, 29, 30})
_VECTOR_NAMES = {
    0: "#DE divide error",
    6: "#UD invalid opcode",
    8: "#DF double fault",
    13: "#GP general protection",
    14: "#PF page fault",
}

# Page-table entries. Accessed and Dirty are set ahead: many vCPUs share the tables, and setting the
# bits concurrently is noise (and a spurious triple fault under QEMU TCG).
_PRESENT, _WRITE, _USER, _ACCESSED, _DIRTY, _LARGE = 1, 2, 4, 1 << 5, 1 << 6, 1 << 7
_TABLE_ENTRY = _PRESENT | _WRITE | _USER | _ACCESSED
_LEAF_ENTRY = _TABLE_ENTRY | _DIRTY | _LARGE

# Source: Intel SDM vol. 3A 2.5 (_CR0: PE ET NE WP PG; CR4: PAE), 2.2.1 (EFER: LME LMA).
_CR0 = 0x80010031
_CR4_PAE = 0x20
_EFER_LONG_MODE = 0x500
_RFLAGS_IOPL3 = 0x3002


@dataclass(frozen=True)
class GuestPlan:
    """Where things are in the low slot, for a guest of this size; arithmetic only.

    `leaf_bytes` is the guest's page size for all mappings: 1 GiB where CPUID allows, else 2 MiB.
    """

    vcpus: int
    data_bytes: int
    leaf_bytes: int

    @property
    def _end_gva(self) -> int:
        return DATA_GPA + self.data_bytes

    @property
    def _directory_pointers(self) -> int:
        """Pages of level 3, one for each 512 GiB."""
        return -(-self._end_gva // (512 * GIB))

    @property
    def _directories(self) -> int:
        """Pages of level 2, one for each GiB; none with 1 GiB pages."""
        return 0 if self.leaf_bytes == GIB else -(-self._end_gva // GIB)

    @property
    def table_pages(self) -> int:
        """Pages of page tables."""
        return 1 + self._directory_pointers + self._directories

    @property
    def low_bytes(self) -> int:
        """Size of the low slot."""
        return self.vcpu_page_gpa(self.vcpus)

    def vcpu_page_gpa(self, vcpu: int) -> int:
        """Return where vCPU `vcpu`'s own page is."""
        return _TABLES_GPA + (self.table_pages + vcpu) * PAGE_BYTES

    def record_gpa(self, vcpu: int) -> int:
        """Return where vCPU `vcpu`'s record is, within its own page."""
        return self.vcpu_page_gpa(vcpu) + RECORD_OFFSET

    def page_tables(self) -> bytes:
        """Return the tables that map every gva to the same gpa, for _TABLES_GPA."""
        entries_per_page = PAGE_BYTES // 8

        def page_of(level: list[int]) -> bytes:
            padded = level + [0] * (-len(level) % entries_per_page)
            return struct.pack(f"<{len(padded)}Q", *padded)

        pointers_gpa = _TABLES_GPA + PAGE_BYTES
        directories_gpa = pointers_gpa + self._directory_pointers * PAGE_BYTES
        gibs = -(-self._end_gva // GIB)
        top = [
            pointers_gpa + index * PAGE_BYTES | _TABLE_ENTRY
            for index in range(self._directory_pointers)
        ]
        if self.leaf_bytes == GIB:
            pointers = [index * GIB | _LEAF_ENTRY for index in range(gibs)]
            return page_of(top) + page_of(pointers)
        pointers = [directories_gpa + index * PAGE_BYTES | _TABLE_ENTRY for index in range(gibs)]
        leaves = [index * 2 * MIB | _LEAF_ENTRY for index in range(gibs * entries_per_page)]
        return page_of(top) + page_of(pointers) + page_of(leaves)


def plan_guest(work: Work, cpuid: Cpuid) -> GuestPlan:
    """Lay the guest out. Raises: HostError where its memory exceeds the physical address width."""
    data_bytes = work.total_pages * work.unit_bytes
    bits = cpuid.physical_address_bits
    if DATA_GPA + data_bytes > 1 << min(bits, 47):
        raise HostError(
            "guest memory",
            f"{data_bytes} bytes do not fit the {bits} physical address bits of a vCPU here",
            "use fewer vCPUs or less --mem-per-vcpu",
        )
    return GuestPlan(work.vcpus, data_bytes, GIB if cpuid.has_1g_pages else 2 * MIB)


def low_memory(plan: GuestPlan, code: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (gpa, bytes) of all that the low slot holds but the vCPUs' records.

    Raises: ValueError where the program does not fit its page.
    """
    if len(code) > _TABLES_GPA - CODE_GPA:
        raise ValueError("the guest's program outgrew its page")
    yield _DESCRIPTORS_GPA, _descriptor_tables()
    yield CODE_GPA, code
    yield _TABLES_GPA, plan.page_tables()
    for vcpu in range(plan.vcpus):
        page_gpa = plan.vcpu_page_gpa(vcpu)
        tss = bytearray(_TSS_BYTES)
        struct.pack_into("<Q", tss, _TSS_RSP0, page_gpa + PAGE_BYTES)
        # An I/O bitmap of zeros right behind: KVM's emulator may look there even with IOPL 3.
        struct.pack_into("<H", tss, _TSS_IO_BITMAP_BASE, _TSS_BYTES)
        yield page_gpa, bytes(tss)


def set_start_state(vcpu: Vcpu, plan: GuestPlan, *, entry_gva: int, ring: int) -> None:
    """Put a vCPU that has its CPUID in long mode at `entry_gva`, its record's gva in rdi.

    Raises: KernelError.
    """
    page_gpa = plan.vcpu_page_gpa(vcpu.index)
    sregs = vcpu.get_sregs()
    user = ring == 3
    sregs.cs = _segment(0x1B if user else 0x08, type_=11, dpl=ring, long=1)
    data = _segment(0x23 if user else 0x10, type_=3, dpl=ring, long=0)
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data
    sregs.tr = kvm_x86.kvm_segment(
        base=page_gpa, limit=0xFFF, selector=0x28, type=11, present=1, s=0
    )
    sregs.ldt = kvm_x86.kvm_segment(unusable=1)
    sregs.gdt.base, sregs.gdt.limit = _DESCRIPTORS_GPA, _GDT_BYTES - 1
    sregs.idt.base, sregs.idt.limit = _DESCRIPTORS_GPA + _IDT_OFFSET, _VECTORS * 16 - 1
    sregs.cr0, sregs.cr3, sregs.cr4 = _CR0, _TABLES_GPA, _CR4_PAE
    sregs.efer = _EFER_LONG_MODE
    vcpu.set_sregs(sregs)
    vcpu.set_regs(
        kvm_x86.kvm_regs(
            rip=entry_gva,
            rsp=page_gpa + PAGE_BYTES,
            rdi=plan.record_gpa(vcpu.index),
            rflags=_RFLAGS_IOPL3,
        )
    )
    # Every exit leaves the registers in struct kvm_run: no KVM_GET_REGS on the measured path.
    vcpu.run.kvm_valid_regs = kvm_x86.KVM_SYNC_X86_REGS


def describe_trap(stack: tuple[int, ...], cr2: int) -> str:
    """Return what an exception's stack says: return address into the table, then the frame."""
    vector = (stack[0] - CODE_GPA) // _CALL_BYTES - 1
    has_code = vector in _VECTORS_WITH_ERROR_CODE
    code = f", error code {stack[1]:#x}" if has_code else ""
    name = _VECTOR_NAMES.get(vector, f"vector {vector}")
    return f"exception {name} in the guest{code}, rip {stack[1 + has_code]:#x}, cr2 {cr2:#x}"


def _segment(selector: int, *, type_: int, dpl: int, long: int) -> kvm_x86.kvm_segment:
    return kvm_x86.kvm_segment(
        base=0,
        limit=0xFFFFFFFF,
        selector=selector,
        type=type_,
        present=1,
        dpl=dpl,
        db=0 if long else 1,
        s=1,
        l=long,
        g=1,
    )


# null, ring 0 code, ring 0 data, ring 3 code, ring 3 data; all flat, accessed. TR is loaded by KVM
# with its base, so the two TSS entries are only there to give its selector a place.
_GDT = (0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00AFFB000000FFFF, 0x00CFF3000000FFFF, 0, 0)
_GDT_BYTES = len(_GDT) * 8


def _descriptor_tables() -> bytes:
    """Return GDT and IDT, for _DESCRIPTORS_GPA. Source: Intel SDM vol. 3A 6.14.1 (64-bit gates)."""
    gates = bytearray()
    for vector in range(_VECTORS):
        handler = CODE_GPA + vector * _CALL_BYTES
        gates += struct.pack("<HHBBHQ", handler & 0xFFFF, 0x08, 0, 0x8E, handler >> 16, 0)
    return struct.pack(f"<{len(_GDT)}Q", *_GDT).ljust(_IDT_OFFSET, b"\0") + bytes(gates)
