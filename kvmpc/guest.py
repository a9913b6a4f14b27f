"""The guest: page tables, descriptor tables, the assembled program and a page for each vCPU.

`GuestPlan` says where everything is in the low slot; `Guest` writes it there and prepares the
vCPUs. What the guest does is in ``guest/touch.asm``; what it reports is a `GuestRecord` per vCPU,
read with `Guest.record`. This module knows nothing of pagers.
"""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass
from functools import cache
from importlib import resources

from kvmpc.abi import kvm_x86
from kvmpc.config import Work
from kvmpc.errors import HostError
from kvmpc.kvm import Cpuid, Vcpu, Vm
from kvmpc.memory import DATA_GPA, GuestMemory, Layout
from kvmpc.native.assembler import Program, Symbols, assemble
from kvmpc.native.records import FieldSpec, ctypes_fields, record_symbols
from kvmpc.source import TagRule
from kvmpc.stamps import STAMPS
from kvmpc.units import GIB, MIB, PAGE_BYTES

__all__ = [
    "DONE_PORT",
    "GUEST_FIELDS",
    "HISTOGRAM_BUCKETS",
    "READY_PORT",
    "TRAP_PORT",
    "Guest",
    "GuestPlan",
    "GuestRecord",
    "assemble_guest",
    "bucket_bounds",
    "describe_trap",
]

READY_PORT, DONE_PORT, TRAP_PORT = 0x10, 0x11, 0x12
"""The guest's three words to the host, each an `out` of one byte."""

HISTOGRAM_LIMIT = (1 << 40) - 1
"""Cycles; a longer touch counts as this long (minutes). The longest is kept on its own."""

HISTOGRAM_BUCKETS = 592

u32, u64 = ctypes.c_uint32, ctypes.c_uint64
F = FieldSpec

GUEST_FIELDS = (
    F("touches", u64, "touches", "in", "how many pages to touch"),
    F("start", u64, "index", "in", "index of the first"),
    F("step", u64, "indices", "in", "from one to the next, modulo count"),
    F("count", u64, "indices", "in", "touched pages in the part"),
    F("part", u64, "gpa", "in", "first page of the part"),
    F("run_shift", u64, "bits", "in", "log2 of the pages in a run"),
    F("run_stride", u64, "pages", "in", "from one run's first page to the next one's"),
    F("tag_multiplier", u64, "number", "in", "TagRule.multiplier"),
    F("tag_seed", u64, "number", "in", "TagRule.seed"),
    F("touched", u64, "touches", "out", "progress"),
    F("start_cycles", u64, "TSC cycles", "out", "guest TSC after the gate"),
    F("end_cycles", u64, "TSC cycles", "out", "guest TSC after the last page"),
    F("longest_cycles", u64, "TSC cycles", "out", "the longest touch"),
    F("mismatches", u64, "pages", "out", "pages whose tags were wrong"),
    F("wrong_gpa", u64, "gpa", "out", "the first of them"),
    F("wrong_first", u64, "word", "out", "what its first word was"),
    F("wrong_last", u64, "word", "out", "what its last word was"),
    F("trap_rsp", u64, "gva", "out", "stack pointer in an exception; 0 = none happened"),
    F("trap_cr2", u64, "gva", "out", "CR2 then"),
    F("histogram", u32 * HISTOGRAM_BUCKETS, "touches", "out", "by duration, see bucket_bounds"),  # type: ignore[arg-type]
    # Last, so that no other field's place depends on them.
    F("further", u64, "passes", "in", "passes after the first; counts down"),
    F("again", u64, "touches", "out", "progress in these"),
    F(
        "changed",
        u64,
        "touches",
        "out",
        "of these, found a page other than the pass before left it",
    ),
    F("changed_gpa", u64, "gpa", "out", "the first of them"),
    F("changed_word", u64, "word", "out", "what was in the word that the guest writes"),
)


class GuestRecord(ctypes.Structure):
    """What one vCPU is told and what it reports; in its own page of the low slot."""

    _fields_ = ctypes_fields(GUEST_FIELDS)


# A vCPU's own page: its TSS, its record, and the stack that grows down from the end.
_TSS_BYTES = 104
_RECORD_OFFSET = 128
_TSS_RSP0 = 4
_TSS_IO_BITMAP_BASE = 102

# The low slot, gpa = gva.
_DESCRIPTORS_GPA = 0x1000
_CODE_GPA = 0x2000
_TABLES_GPA = 0x3000

_IDT_OFFSET = 0x100
_VECTORS = 32
_CALL_BYTES = 5
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

# Source: Intel SDM vol. 3A 2.5 (CR0: PE ET NE WP PG; CR4: PAE), 2.2.1 (EFER: LME LMA).
_CR0 = 0x80010031
_CR4_PAE = 0x20
_EFER_LONG_MODE = 0x500
_RFLAGS_IOPL3 = 0x3002


def bucket_bounds(bucket: int) -> tuple[int, int]:
    """Return (lowest, highest) duration in cycles that `bucket` of the histogram counts."""
    shift = max(0, bucket // 16 - 1)
    lowest = (bucket - shift * 16) << shift
    return lowest, lowest + (1 << shift) - 1


@cache
def assemble_guest(
    *,
    write: bool,
    timed: bool = True,
    checked: bool = True,
    passes: bool = False,
    split: bool = False,
) -> Program:
    """Assemble the guest's program for its place in the low slot.

    It begins with the exception table, one `call trap` a vector, so the table is at _CODE_GPA.
    """
    folder = resources.files("kvmpc._guest")
    table = "\n".join(["    call trap"] * _VECTORS)
    sources = [("exception table", f"exception_table:\n{table}\n")]
    sources += [
        (name, (folder / name).read_text("ascii")) for name in ("touch.asm", "exceptions.asm")
    ]
    wanted = {"WRITE": write, "TIMED": timed, "CHECKED": checked, "PASSES": passes}
    wanted["SPLIT"] = split
    symbols = Symbols(
        constants={
            "READY_PORT": READY_PORT,
            "DONE_PORT": DONE_PORT,
            "TRAP_PORT": TRAP_PORT,
            "PAGE_BYTES": PAGE_BYTES,
            "PAGE_SHIFT": PAGE_BYTES.bit_length() - 1,
            "LAST_WORD": PAGE_BYTES - 8,
            "HISTOGRAM_LIMIT": HISTOGRAM_LIMIT,
            "VCPU_PAGE_RECORD": _RECORD_OFFSET,
            **STAMPS,
        },
        fields={
            **record_symbols("guest", GuestRecord, GUEST_FIELDS),
        },
        flags=frozenset(name for name, on in wanted.items() if on),
    )
    return assemble(sources, symbols)


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
    data_bytes = work.total_pages * PAGE_BYTES
    bits = cpuid.physical_address_bits
    if DATA_GPA + data_bytes > 1 << min(bits, 47):
        raise HostError(
            "guest memory",
            f"{data_bytes} bytes do not fit the {bits} physical address bits of a vCPU here",
            "use fewer vCPUs or less --mem-per-vcpu",
        )
    return GuestPlan(work.vcpus, data_bytes, GIB if cpuid.has_1g_pages else 2 * MIB)


class Guest:
    """A guest in place: its records, and its vCPUs ready for their first KVM_RUN.

    The memory must stay mapped as long as this is used. `stamped`: whoever supplies the pages
    stamps them where the work has a latency split, so the guest does as well.
    """

    def __init__(
        self,
        plan: GuestPlan,
        memory: GuestMemory,
        layout: Layout,
        tags: TagRule,
        *,
        stamped: bool = False,
    ) -> None:
        work = layout.work
        self.plan = plan
        self.memory = memory
        program = assemble_guest(
            write=work.access == "write",
            timed=work.timed,
            checked=work.checked,
            passes=work.passes > 1,
            split=work.split and stamped,
        )
        if len(program.code) > _TABLES_GPA - _CODE_GPA:
            raise ValueError("the guest's program outgrew its page")
        memory.write_low(_DESCRIPTORS_GPA, _descriptor_tables())
        memory.write_low(_CODE_GPA, program.code)
        memory.write_low(_TABLES_GPA, plan.page_tables())
        self._entry_gva = _CODE_GPA + program.labels["touch"]
        for vcpu in range(work.vcpus):
            self._write_vcpu_page(vcpu, layout, tags)

    def record(self, vcpu: int) -> GuestRecord:
        """Return vCPU `vcpu`'s record, live."""
        gpa = self.plan.vcpu_page_gpa(vcpu) + _RECORD_OFFSET
        return GuestRecord.from_address(self.memory.low_hva + gpa)

    def _write_vcpu_page(self, vcpu: int, layout: Layout, tags: TagRule) -> None:
        page_gpa = self.plan.vcpu_page_gpa(vcpu)
        tss = bytearray(_TSS_BYTES)
        struct.pack_into("<Q", tss, _TSS_RSP0, page_gpa + PAGE_BYTES)
        # An I/O bitmap of zeros right behind: KVM's emulator may look there even with IOPL 3.
        struct.pack_into("<H", tss, _TSS_IO_BITMAP_BASE, _TSS_BYTES)
        self.memory.write_low(page_gpa, bytes(tss))
        order = layout.order(vcpu)
        record = self.record(vcpu)
        record.touches, record.further = order.count, layout.work.passes - 1
        record.start, record.step, record.count = order.start, order.step, order.count
        record.part = DATA_GPA + order.part_page * PAGE_BYTES
        record.run_shift = layout.run_pages.bit_length() - 1
        record.run_stride = layout.run_stride
        record.tag_multiplier, record.tag_seed = tags.multiplier, tags.seed

    def create_vcpu(self, vm: Vm, index: int, cpuid: Cpuid, *, ring: int = 3) -> Vcpu:
        """Create vCPU `index` with the state it starts in.

        `ring` 0 is for tests of what a shadow-paging KVM emulates. Raises: KernelError.
        """
        page_gpa = self.plan.vcpu_page_gpa(index)
        vcpu = vm.create_vcpu(index)
        vcpu.set_cpuid(cpuid)
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
                rip=self._entry_gva,
                rsp=page_gpa + PAGE_BYTES,
                rdi=page_gpa + _RECORD_OFFSET,
                rflags=_RFLAGS_IOPL3,
            )
        )
        # Every exit leaves the registers in struct kvm_run: no KVM_GET_REGS on the measured path.
        vcpu.run.kvm_valid_regs = kvm_x86.KVM_SYNC_X86_REGS
        return vcpu

    def describe_trap(self, vcpu: int) -> str:
        """Return vector, error code, rip and cr2 of the exception that `vcpu` reported."""
        record = self.record(vcpu)
        stack = ctypes.string_at(
            self.memory.low_hva + record.trap_rsp,
            min(56, self.plan.vcpu_page_gpa(vcpu) + PAGE_BYTES - record.trap_rsp),
        )
        words = struct.unpack(f"<{len(stack) // 8}Q", stack[: len(stack) // 8 * 8])
        return describe_trap(words, record.trap_cr2)


def describe_trap(stack: tuple[int, ...], cr2: int) -> str:
    """Return what an exception's stack says: return address into the table, then the frame."""
    vector = (stack[0] - _CODE_GPA) // _CALL_BYTES - 1
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
        handler = _CODE_GPA + vector * _CALL_BYTES
        gates += struct.pack("<HHBBHQ", handler & 0xFFFF, 0x08, 0, 0x8E, handler >> 16, 0)
    return struct.pack(f"<{len(_GDT)}Q", *_GDT).ljust(_IDT_OFFSET, b"\0") + bytes(gates)
