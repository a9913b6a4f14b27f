"""Whether this host lets trials run at all: asked need by need, then tried on the smallest guest.

It asks the kernel, and believes what it sees it do rather than a version. A system call that
somebody refuses is refused to the smallest of trials as well: so whatever a trial calls is checked
before the first that is measured, and nothing has to list the calls. It takes milliseconds.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Final

from kvmpc.assembler.assemble import assembler_version
from kvmpc.errors import HostError, KernelError
from kvmpc.host.headroom import shortage
from kvmpc.kernel.code import EXECUTABLE_MEMORY
from kvmpc.kernel.kvm import IMMEDIATE_EXIT, KVM_DEVICE, USER_MEMORY, Kvm
from kvmpc.kernel.need import Need, cannot
from kvmpc.kernel.threads import THREAD_SIGNALS
from kvmpc.pagers import Pager
from kvmpc.result.records import TrialResult
from kvmpc.trial.rig import TrialHooks
from kvmpc.trial.signals import NEVER, Interrupt
from kvmpc.trial.trial import run_trial
from kvmpc.work.work import Work

__all__ = ["NEEDS", "PAGES", "check_needs", "of_pager", "rehearse"]

PAGES: Final = 23
"""Of the smallest guest."""


def _machine() -> str:
    machine, release = platform.machine(), platform.release()
    if platform.system() != "Linux" or machine != "x86_64":
        raise HostError(
            "machine",
            f"{platform.system()} on {machine}",
            "kvmpc's loops and guest are x86-64 code: use an x86-64 Linux host",
        )
    return f"{machine}, Linux {release}"


NEEDS: Final = (
    Need("machine", _machine),
    Need("assembler", assembler_version),
    EXECUTABLE_MEMORY,
    KVM_DEVICE,
    USER_MEMORY,
    IMMEDIATE_EXIT,
    THREAD_SIGNALS,
)
"""What every pager needs; a later one may depend on an earlier."""


def check_needs(pagers: Sequence[Pager]) -> None:
    """Check that this host has what `pagers` need. Raises: HostError, naming the pager."""
    for need in NEEDS:
        need.check()
    for pager in pagers:
        for need in pager.needs:
            try:
                need.check()
            except HostError as error:
                raise of_pager(pager, error) from error


def of_pager(pager: Pager, error: HostError) -> HostError:
    """Return `error` as one of `pager`, where others may do without."""
    return HostError(f"{pager.label} needs {error.what}", error.reason, error.remedy)


def rehearse(kvm: Kvm, work: Work, pager: Pager, interrupt: Interrupt = NEVER) -> TrialResult:
    """Run the smallest trial that makes the calls which `pager` makes on `work`.

    One that fails otherwise than by a call, in its guest or in what it verifies, is returned: that
    is no lack of this host, and the trials that are measured tell of it.
    Raises: HostError, Interrupted, StuckError.
    """

    def refuse(error: Exception) -> None:
        if isinstance(error, HostError):
            raise error
        if isinstance(error, OSError):
            number = error.errno or 0
            error = KernelError(error.filename or "a call of Python", number, shortage(number))
        if isinstance(error, KernelError):
            raise cannot(error) from error

    hooks = TrialHooks(on_failure=refuse)
    return run_trial(kvm, work.smallest(PAGES), pager.smallest, interrupt=interrupt, hooks=hooks)
