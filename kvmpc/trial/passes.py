"""Further passes: once every vCPU has touched its pages, all go through them again, together.

Pass 1 is left exactly as it is without them: its program, its stamps, its counters. The further
passes have a gate and records of their own. This module starts nothing; the trial does.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Self

from kvmpc.errors import KernelError, VerifyError
from kvmpc.loops.program import NativeProgram
from kvmpc.loops.records import RecordArray, SharedRecord, VcpuRecord
from kvmpc.vm.guest import Guest
from kvmpc.vm.memory import DATA_GPA
from kvmpc.work.work import Work

__all__ = ["FurtherPasses"]


class FurtherPasses:
    """Gate and records of the passes after the first; none where `work` has one pass."""

    def __init__(self, work: Work, program: NativeProgram) -> None:
        self._work, self._program = work, program
        self._shared = RecordArray(SharedRecord, 1)
        self._records = RecordArray(VcpuRecord, work.vcpus if work.passes > 1 else 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._records.close()
        self._shared.close()

    @property
    def shared(self) -> SharedRecord:
        """The second gate."""
        return self._shared.records[0]

    @property
    def records(self) -> Sequence[VcpuRecord]:
        """One per vCPU; empty with one pass."""
        return self._records.records

    def equip(self, vcpu: int, first: VcpuRecord) -> VcpuRecord | None:
        """Return the vCPU's record for these passes, made from that of its first, before it runs.

        None where there are none.
        """
        if not self.records:
            return None
        record = self.records[vcpu]
        ctypes.memmove(ctypes.addressof(record), ctypes.addressof(first), ctypes.sizeof(first))
        record.shared = ctypes.addressof(self.shared)
        return record

    def open_gate(self) -> None:
        """Let all vCPUs go on. Raises: KernelError."""
        result = self._program.call("open_gate", self.shared)
        if result:
            raise KernelError("opening the second gate (clock_gettime, futex)", -result)

    def stop(self) -> None:
        """Let nobody sleep at the gate, nor run the guest any more."""
        for record in self.records:
            record.stop = 1
        if self.records and not self.shared.gate:
            self.open_gate()

    def verify(self, guest: Guest) -> None:
        """Every vCPU made every pass, and found each page as it had left it. Raises: VerifyError.

        A page that was filled a second time between two passes has lost what the guest wrote, and
        that shows here: by the end the next pass has written it anew.
        """
        for vcpu in range(len(self.records)):
            record = guest.record(vcpu)
            wanted = record.touches * (self._work.passes - 1)
            if record.again != wanted:
                raise VerifyError(f"vcpu{vcpu} touched {record.again} of {wanted} pages again")
            if record.changed:
                gpa = record.changed_gpa
                raise VerifyError(
                    f"vcpu{vcpu} found {record.changed} pages changed in a further pass, first "
                    f"page {(gpa - DATA_GPA) // self._work.unit_bytes} (gpa {gpa:#x}): "
                    f"{record.changed_word:#018x} in the word that the guest writes"
                )

    def full_speed(self) -> float | None:
        """Return touches a second of all vCPUs together, None where there is no further pass."""
        if not self.records:
            return None
        took_ns = max(record.end_ns for record in self.records) - self.shared.gate_ns
        work = self._work
        touches = work.vcpus * work.touched_per_part * (work.passes - 1)
        return float(touches / took_ns * 1e9)
