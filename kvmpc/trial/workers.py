"""What the threads of a trial do: a vCPU's runs its guest, a reader's answers faults."""

from __future__ import annotations

from dataclasses import dataclass

from kvmpc.abi import kvm as abi
from kvmpc.errors import GuestError
from kvmpc.host.scheduling import thread_times
from kvmpc.kernel.kvm import Vcpu
from kvmpc.loops.program import NativeProgram
from kvmpc.loops.records import Return, VcpuRecord
from kvmpc.pagers.pager import Supply
from kvmpc.trial.crew import Report, Worker
from kvmpc.trial.failures import describe_exit, error_of
from kvmpc.vm.guest import DONE_PORT, READY_PORT, TRAP_PORT, Guest

__all__ = ["ReaderWorker", "VcpuWorker"]


class _Stopped(Exception):
    """A thread left because its record's stop flag was set."""


@dataclass(eq=False, kw_only=True)
class ReaderWorker(Worker):
    """The thread of one reader: ``ready``, and then in the loop until it is stopped."""

    program: NativeProgram

    def run(self, report: Report) -> None:
        """Answer faults until the stop flag is set."""
        report("ready")
        code = self.program.call("reader_loop", self.record)
        if code != Return.STOPPED:
            raise error_of(code, self.name, self.record)


@dataclass(eq=False, kw_only=True)
class VcpuWorker(Worker):
    """The thread of one vCPU: ``ready``, ``done``, and ``again`` after further passes.

    later: the record of its further passes; None where there are none.
    """

    record: VcpuRecord
    later: VcpuRecord | None
    vcpu: Vcpu
    guest: Guest
    program: NativeProgram
    supply: Supply

    @property
    def index(self) -> int:
        """Which vCPU it is."""
        return self.vcpu.index

    def interrupt(self) -> None:
        """Make the next KVM_RUN return at once, should the signal come just before it."""
        self.vcpu.run.immediate_exit = 1
        if self.later is not None:
            self.later.stop = 1

    def run(self, report: Report) -> None:
        """Run the guest to the gate, through its pages, and through its further passes."""
        try:
            if self.supply.before_ready(self.index) != Return.OK:
                raise _Stopped
            self._run_until(READY_PORT, "vcpu_loop", self.record)
            self.record.kvm_runs = 0
            report("ready")
            self._run_until(DONE_PORT, "gated_vcpu_loop", self.record)
            self.times = thread_times()
            report("done")
            if self.later is not None:
                self._run_until(DONE_PORT, "gated_vcpu_loop", self.later)
                report("again")
        except _Stopped:
            pass

    def _run_until(self, port: int, function: str, record: VcpuRecord) -> None:
        """Run the vCPU on `record` until the guest writes to `port`."""
        vcpu = self.vcpu
        while True:
            code = self.program.call(function, record)
            if code == Return.EXIT:
                if record.error == 0 and vcpu.run.exit_reason == abi.KVM_EXIT_IO:
                    if vcpu.run.io.port == port:
                        return
                    if vcpu.run.io.port == TRAP_PORT:
                        raise GuestError(self.index, self.guest.describe_trap(self.index))
                handled = None if record.error else self.supply.handle(vcpu, record)
                if handled is None:
                    raise GuestError(self.index, describe_exit(vcpu, record.error))
                code = handled
            if code == Return.STOPPED:
                raise _Stopped
            if code != Return.OK:
                raise error_of(code, self.name, record)
