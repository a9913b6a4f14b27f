"""The guest in place: tables, the assembled program and a page for each vCPU, in the low slot.

`kvmpc.vm.x86` says where everything is there; `Guest` writes it and prepares the vCPUs. What the
guest does is in ``guest/touch.asm``; what it reports is a `GuestRecord` per vCPU, read with
`Guest.record`. This module knows nothing of pagers.
"""

from __future__ import annotations

import ctypes
import struct
from functools import cache
from importlib import resources

from kvmpc.abi import kvm_x86
from kvmpc.assembler.assemble import Program, Symbols, assemble
from kvmpc.kernel.kvm import Cpuid, Vcpu, Vm
from kvmpc.loops.records import record_symbols
from kvmpc.loops.stamps import STAMPS
from kvmpc.units import PAGE_BYTES
from kvmpc.vm.memory import DATA_GPA, GuestMemory
from kvmpc.vm.record import GUEST_FIELDS, HISTOGRAM_LIMIT, GuestRecord
from kvmpc.vm.x86 import (
    CODE_GPA,
    CR0,
    CR4_PAE,
    DESCRIPTORS_GPA,
    EFER_LONG_MODE,
    GDT_BYTES,
    IDT_OFFSET,
    RECORD_OFFSET,
    RFLAGS_IOPL3,
    TABLES_GPA,
    TSS_BYTES,
    TSS_IO_BITMAP_BASE,
    TSS_RSP0,
    VECTORS,
    GuestPlan,
    describe_trap,
    descriptor_tables,
    segment,
)
from kvmpc.work.layout import Layout
from kvmpc.work.tags import TagRule

__all__ = [
    "DONE_PORT",
    "READY_PORT",
    "TRAP_PORT",
    "Guest",
    "assemble_guest",
]

READY_PORT, DONE_PORT, TRAP_PORT = 0x10, 0x11, 0x12
"""The guest's three words to the host, each an `out` of one byte."""


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

    It begins with the exception table, one `call trap` a vector, so the table is at CODE_GPA.
    """
    folder = resources.files("kvmpc._guest")
    table = "\n".join(["    call trap"] * VECTORS)
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
            "VCPU_PAGE_RECORD": RECORD_OFFSET,
            **STAMPS,
        },
        fields={
            **record_symbols("guest", GuestRecord, GUEST_FIELDS),
        },
        flags=frozenset(name for name, on in wanted.items() if on),
    )
    return assemble(sources, symbols)


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
        if len(program.code) > TABLES_GPA - CODE_GPA:
            raise ValueError("the guest's program outgrew its page")
        memory.write_low(DESCRIPTORS_GPA, descriptor_tables())
        memory.write_low(CODE_GPA, program.code)
        memory.write_low(TABLES_GPA, plan.page_tables())
        self._entry_gva = CODE_GPA + program.labels["touch"]
        for vcpu in range(work.vcpus):
            self._write_vcpu_page(vcpu, layout, tags)

    def record(self, vcpu: int) -> GuestRecord:
        """Return vCPU `vcpu`'s record, live."""
        gpa = self.plan.vcpu_page_gpa(vcpu) + RECORD_OFFSET
        return GuestRecord.from_address(self.memory.low_hva + gpa)

    def _write_vcpu_page(self, vcpu: int, layout: Layout, tags: TagRule) -> None:
        page_gpa = self.plan.vcpu_page_gpa(vcpu)
        tss = bytearray(TSS_BYTES)
        struct.pack_into("<Q", tss, TSS_RSP0, page_gpa + PAGE_BYTES)
        # An I/O bitmap of zeros right behind: KVM's emulator may look there even with IOPL 3.
        struct.pack_into("<H", tss, TSS_IO_BITMAP_BASE, TSS_BYTES)
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
        sregs.cs = segment(0x1B if user else 0x08, type_=11, dpl=ring, long=1)
        data = segment(0x23 if user else 0x10, type_=3, dpl=ring, long=0)
        sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data
        sregs.tr = kvm_x86.kvm_segment(
            base=page_gpa, limit=0xFFF, selector=0x28, type=11, present=1, s=0
        )
        sregs.ldt = kvm_x86.kvm_segment(unusable=1)
        sregs.gdt.base, sregs.gdt.limit = DESCRIPTORS_GPA, GDT_BYTES - 1
        sregs.idt.base, sregs.idt.limit = DESCRIPTORS_GPA + IDT_OFFSET, VECTORS * 16 - 1
        sregs.cr0, sregs.cr3, sregs.cr4 = CR0, TABLES_GPA, CR4_PAE
        sregs.efer = EFER_LONG_MODE
        vcpu.set_sregs(sregs)
        vcpu.set_regs(
            kvm_x86.kvm_regs(
                rip=self._entry_gva,
                rsp=page_gpa + PAGE_BYTES,
                rdi=page_gpa + RECORD_OFFSET,
                rflags=RFLAGS_IOPL3,
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
