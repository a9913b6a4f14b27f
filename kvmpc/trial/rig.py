"""Everything of one VM in one trial, built in order and owned: it exists whole or not at all.

A `Rig` is given the gate that its vCPUs wait at, so that several rigs can wait at the same one. It
starts and measures nothing; `run_trial` does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

from kvmpc.errors import StuckError
from kvmpc.kernel.kvm import Kvm
from kvmpc.loops.records import RecordArray, SharedRecord, VcpuRecord
from kvmpc.pagers.pager import Pager, Scene, Supply
from kvmpc.trial.crew import Crew
from kvmpc.trial.kvm_counters import TrialStats
from kvmpc.trial.passes import FurtherPasses
from kvmpc.trial.seats import Seats
from kvmpc.trial.signals import NEVER, Interrupt
from kvmpc.trial.timeline import Timeline
from kvmpc.trial.workers import ReaderWorker, VcpuWorker
from kvmpc.vm.bitmap import MissingBitmap
from kvmpc.vm.guest import Guest
from kvmpc.vm.memory import GuestMemory
from kvmpc.vm.x86 import plan_guest
from kvmpc.work.layout import Layout
from kvmpc.work.work import Work

__all__ = ["NO_HOOKS", "Rig", "TrialHooks"]

_rig_numbers = itertools.count()


def _nothing(_: Any) -> None:
    """Do nothing."""


@dataclass(frozen=True, kw_only=True)
class TrialHooks:
    """Moments of a trial at which somebody may look at its inside, or break it. Each is optional.

    on_scene: the guest is in place, the pager not yet. on_supply: the pager is, no record of a
    vCPU yet. on_rig: all is there, no thread runs. before_gate: all are parked, and memory is
    verified to be empty. before_passes: all wait at the second gate. before_verify: all have left.
    on_failure: all is taken down, and the result is about to tell of this error.
    """

    on_scene: Callable[[Scene], None] = _nothing
    on_supply: Callable[[Supply], None] = _nothing
    on_rig: Callable[[Rig], None] = _nothing
    before_gate: Callable[[Rig], None] = _nothing
    before_passes: Callable[[Rig], None] = _nothing
    before_verify: Callable[[Rig], None] = _nothing
    on_failure: Callable[[Exception], None] = _nothing


NO_HOOKS = TrialHooks()


class Rig:
    """One VM with its memory, its pager at work, and a worker for each thread.

    gate: where the vCPUs sleep; it must outlive the rig. tsc_shared: whether every vCPU reads the
    host's TSC; tsc_khz: the rate of the guest's as KVM says it, None if it does not; timeline: None
    where progress is not sampled. `interrupt` may end the building, which takes seconds for a
    large guest.
    Raises: HostError, KernelError, Interrupted.
    """

    def __init__(
        self,
        kvm: Kvm,
        work: Work,
        pager: Pager,
        gate: SharedRecord,
        *,
        ring: int = 3,
        interrupt: Interrupt = NEVER,
        hooks: TrialHooks = NO_HOOKS,
    ) -> None:
        self.work, self.pager, self.gate, self.ring = work, pager, gate, ring
        self.layout = Layout(work)
        # Other tags each trial: a page left over from one before cannot pass for this one's.
        self.tags = pager.tags(work.seed << 32 | next(_rig_numbers))
        with ExitStack() as stack:
            own = stack.enter_context
            self.seats = own(Seats(work))
            cpuid = kvm.supported_cpuid()
            plan = plan_guest(work, cpuid)
            self.memory = own(GuestMemory(plan.low_bytes, plan.data_bytes, work.placement))
            self.bitmap = own(MissingBitmap(work.total_pages))
            self.guest = Guest(plan, self.memory, self.layout, self.tags, stamped=pager.fetches)
            # Before the pager, which may want to see it; after the memory, which outlives it.
            self.vm = own(kvm.create_vm(pager.vm_type))
            self.memory.give_to(self.vm, flags=pager.slot_flags(self.bitmap))
            scene = Scene(self.vm, work, self.memory, self.layout, self.bitmap, gate, self.tags)
            hooks.on_scene(scene)
            self.supply = own(pager.open(scene))
            hooks.on_supply(self.supply)
            self.program = self.supply.program()
            self.crew = Crew(gate, self.program)
            self.passes = own(FurtherPasses(work, self.program))
            records = own(RecordArray(VcpuRecord, work.vcpus, tail_bytes=work.unit_bytes))
            self.vcpus: list[VcpuWorker] = []
            self.tsc_shared = True
            for index, (record, staging) in enumerate(
                zip(records.records, records.tails, strict=True)
            ):
                interrupt.check()
                vcpu = self.guest.create_vcpu(self.vm, index, cpuid, ring=ring)
                self.tsc_shared = vcpu.share_host_tsc() and self.tsc_shared
                self.supply.equip(record, staging)
                record.fd, record.run = vcpu.fd, vcpu.run_address
                record.last_page = ~0
                self.vcpus.append(
                    VcpuWorker(
                        name=f"vcpu{index}",
                        record=record,
                        later=self.passes.equip(index, record),
                        seat=self.seats.vcpus[index],
                        vcpu=vcpu,
                        guest=self.guest,
                        program=self.program,
                        supply=self.supply,
                    )
                )
            self.tsc_khz = self.vcpus[0].vcpu.tsc_khz()
            readers = self.supply.readers
            self.readers = [
                ReaderWorker(
                    name=reader.name, record=reader.record, seat=seat, program=self.program
                )
                for reader, seat in zip(readers, self.seats.seat_readers(len(readers)), strict=True)
            ]
            self.reader_records = [reader.record for reader in readers]
            self.stats = TrialStats(kvm, self.vm)
            self.timeline: Timeline | None = None
            if work.sampled:
                both = [*records.records, *self.reader_records]
                self.timeline = Timeline(work, self.guest, both)
                stack.callback(self.timeline.close)
            hooks.on_rig(self)
            self._owned = stack.pop_all()

    @property
    def vcpu_records(self) -> list[VcpuRecord]:
        """One per vCPU."""
        return [worker.record for worker in self.vcpus]

    def stop(self) -> None:
        """Get every thread out, wherever it is.

        Raises: StuckError, KernelError: then one may be left, and nothing that it runs on, the gate
        included, may be unmapped.
        """
        self.passes.stop()
        stuck = self.crew.stop(self.crew.workers, self.supply.stop)
        if stuck:
            raise StuckError(stuck)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._owned.close()
