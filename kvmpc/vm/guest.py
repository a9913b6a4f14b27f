"""The guest in place: tables, the assembled program and a page for each vCPU, in the low slot.

`kvmpc.vm.x86` says where everything is there; `Guest` writes it and prepares the vCPUs. What the
guest does is in ``guest/x86_64/touch.asm``; what it reports is a `GuestRecord` per vCPU, read with
`Guest.record`. This module knows nothing of pagers.
"""

from __future__ import annotations

import ctypes
import struct
from functools import cache
from importlib import resources

from kvmpc.assembler.assemble import Program, Symbols, assemble
from kvmpc.kernel.kvm import Cpuid, Vcpu, Vm
from kvmpc.loops.records import record_symbols, unit_constants
from kvmpc.loops.stamps import STAMPS
from kvmpc.units import PAGE_BYTES
from kvmpc.vm import x86
from kvmpc.vm.memory import DATA_GPA, GuestMemory
from kvmpc.vm.record import GUEST_FIELDS, HISTOGRAM_LIMIT, GuestRecord
from kvmpc.work.layout import Layout
from kvmpc.work.tags import TagRule

__all__ = ["DONE_PORT", "READY_PORT", "TRAP_PORT", "Guest", "assemble_guest", "read_sources"]

READY_PORT, DONE_PORT, TRAP_PORT = 0x10, 0x11, 0x12
"""The guest's three words to the host, each an `out` of one byte."""


def read_sources() -> list[tuple[str, str]]:
    """Return (file name, text) of every assembly file, in the order they are linked."""
    folder = resources.files("kvmpc._guest") / x86.FOLDER
    return [(name, (folder / name).read_text("ascii")) for name in x86.SOURCES]


@cache
def assemble_guest(
    *,
    write: bool,
    timed: bool = True,
    checked: bool = True,
    passes: bool = False,
    split: bool = False,
    unit_bytes: int = PAGE_BYTES,
) -> Program:
    """Assemble the guest's program, for pages of `unit_bytes`.

    It begins with the exception table, so that is where the program is.
    """
    wanted = {"WRITE": write, "TIMED": timed, "CHECKED": checked, "PASSES": passes}
    wanted["SPLIT"] = split
    symbols = Symbols(
        constants={
            "READY_PORT": READY_PORT,
            "DONE_PORT": DONE_PORT,
            "TRAP_PORT": TRAP_PORT,
            "PAGE_BYTES": PAGE_BYTES,
            "HISTOGRAM_LIMIT": HISTOGRAM_LIMIT,
            "VCPU_PAGE_RECORD": x86.RECORD_OFFSET,
            **unit_constants(unit_bytes),
            **STAMPS,
        },
        fields=record_symbols("guest", GuestRecord, GUEST_FIELDS),
        flags=frozenset(name for name, on in wanted.items() if on),
    )
    return assemble([("exception table", x86.EXCEPTION_TABLE), *read_sources()], symbols)


class Guest:
    """A guest in place: its records, and its vCPUs ready for their first KVM_RUN.

    The memory must stay mapped as long as this is used. `stamped`: whoever supplies the pages
    stamps them where the work has a latency split, so the guest does as well.
    """

    def __init__(
        self,
        plan: x86.GuestPlan,
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
            unit_bytes=work.unit_bytes,
        )
        for gpa, data in x86.low_memory(plan, program.code):
            memory.write_low(gpa, data)
        self._entry_gva = x86.CODE_GPA + program.labels["touch"]
        for vcpu in range(work.vcpus):
            self._write_record(vcpu, layout, tags)

    def record(self, vcpu: int) -> GuestRecord:
        """Return vCPU `vcpu`'s record, live."""
        return GuestRecord.from_address(self.memory.low_hva + self.plan.record_gpa(vcpu))

    def _write_record(self, vcpu: int, layout: Layout, tags: TagRule) -> None:
        order, work = layout.order(vcpu), layout.work
        record = self.record(vcpu)
        record.touches, record.further = order.count, work.passes - 1
        record.start, record.step, record.count = order.start, order.step, order.count
        record.part = DATA_GPA + order.part_page * work.unit_bytes
        record.run_shift = layout.run_pages.bit_length() - 1
        record.run_stride = layout.run_stride
        record.tag_multiplier, record.tag_seed = tags.multiplier, tags.seed

    def create_vcpu(self, vm: Vm, index: int, cpuid: Cpuid, *, ring: int = 3) -> Vcpu:
        """Create vCPU `index` with the state it starts in.

        `ring` 0 is for tests of what a shadow-paging KVM emulates. Raises: KernelError.
        """
        vcpu = vm.create_vcpu(index)
        vcpu.set_cpuid(cpuid)
        x86.set_start_state(vcpu, self.plan, entry_gva=self._entry_gva, ring=ring)
        return vcpu

    def describe_trap(self, vcpu: int) -> str:
        """Return vector, error code, rip and cr2 of the exception that `vcpu` reported."""
        record = self.record(vcpu)
        stack = ctypes.string_at(
            self.memory.low_hva + record.trap_rsp,
            min(56, self.plan.vcpu_page_gpa(vcpu) + PAGE_BYTES - record.trap_rsp),
        )
        words = struct.unpack(f"<{len(stack) // 8}Q", stack[: len(stack) // 8 * 8])
        return x86.describe_trap(words, record.trap_cr2)
