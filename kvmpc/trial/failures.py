"""What the end of a thread means: return codes and exits as errors that a person can act on."""

from __future__ import annotations

import errno

from kvmpc.abi import kvm as abi
from kvmpc.errors import KernelError, KvmpcError, TrialError, describe_errno
from kvmpc.host.headroom import shortage
from kvmpc.kernel.kvm import Vcpu
from kvmpc.loops.records import ADDRESS_REGISTER, REPEAT_LIMIT, Call, ResolverRecord, Return
from kvmpc.trial.crew import Event

__all__ = ["describe_exit", "error_of", "failure_of"]


def failure_of(event: Event) -> BaseException:
    """Return what a thread's error makes of the trial: a thread that dies fails its row only."""
    error = event.error
    if isinstance(error, (KvmpcError, OSError, MemoryError)):
        return error
    failure = TrialError(f"{event.worker.name} died: {error!r}")
    failure.__cause__ = error
    return failure


def error_of(code: int, name: str, record: ResolverRecord) -> KvmpcError:
    """Return the error that a native loop's return code means."""
    page = record.page
    if code == Return.FAILED:
        call = Call(record.failed_call)
        of_page = f" of page {page}" if call in (Call.UFFDIO_COPY, Call.UFFDIO_WAKE) else ""
        return KernelError(
            f"{name}: {call.name}{of_page}",
            record.error,
            shortage(record.error) or _HINTS.get(record.error, ""),
        )
    texts = {
        Return.OUTSIDE: f"a fault at page {page:#x} of data memory, which it does not supply",
        Return.REPEATED: f"page {page} exited {REPEAT_LIMIT} times in a row though it is installed",
        Return.EVENT: f"an unexpected userfaultfd message (event or length {record.error})",
        Return.FULL: "more pages are on their way than there are vCPUs",
    }
    return TrialError(f"{name}: {texts.get(Return(code), Return(code).name)}")


_HINTS = {
    errno.ENOMEM: "the host or its cgroup is out of memory",
    errno.ENOENT: "the range is not registered (any more)",
}


def describe_exit(vcpu: Vcpu, error: int) -> str:
    """Return what KVM said when it stopped running a vCPU for a reason kvmpc has no use for."""
    run = vcpu.run
    reason = run.exit_reason
    name = next(
        (n for n in abi.__all__ if n.startswith("KVM_EXIT_") and getattr(abi, n) == reason),
        f"exit reason {reason}",
    )
    touched = getattr(run.s.regs.regs, ADDRESS_REGISTER)
    registers = f"rip {run.s.regs.regs.rip:#x}, {ADDRESS_REGISTER} {touched:#x}"
    if error:
        return f"KVM_RUN failed with {describe_errno(error)} and {name}; {registers}"
    detail = ""
    if reason == abi.KVM_EXIT_SHUTDOWN:
        detail = " (triple fault)"
    elif reason == abi.KVM_EXIT_MMIO:
        detail = f" at gpa {run.mmio.phys_addr:#x}"
    elif reason == abi.KVM_EXIT_INTERNAL_ERROR:
        detail = f", suberror {run.internal.suberror}"
    elif reason == abi.KVM_EXIT_FAIL_ENTRY:
        detail = f", hardware reason {run.fail_entry.hardware_entry_failure_reason:#x}"
    return f"{name}{detail}; {registers}"
