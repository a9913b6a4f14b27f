"""What a trial needs of this host, each as one record: `probe` tells it, a run checks it.

Nothing else says what is needed, so nothing can be told and not checked. What a need has no record
for, a system call that somebody refuses, the smallest of trials finds (`kvmpc.run.rehearsal`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kvmpc.errors import HostError, KernelError, describe_errno
from kvmpc.host.confinement import REFUSALS, Confinement, either

__all__ = ["Need", "cannot"]


@dataclass(frozen=True)
class Need:
    """Something that a trial needs of this host.

    find: looks for it, changes nothing, and says what is there. Raises: HostError, KernelError.
    within: what it is a part of, and cannot be looked for without.
    """

    name: str
    find: Callable[[], str]
    within: Need | None = None

    def check(self) -> str:
        """Return what is there. Raises: HostError."""
        try:
            return self.find()
        except KernelError as error:
            raise cannot(error, self.name) from error


def cannot(error: KernelError, what: str = "") -> HostError:
    """Return what `error` says of this host, where anybody's smallest trial would meet it.

    what: what could not be had; the call itself unless given.
    """
    reason = describe_errno(error.errno)
    if what:
        reason = f"{error.call}: {reason}"
    if error.errno in REFUSALS:
        remedies = Confinement.read().remedies(error.call, error.errno)
    else:
        remedies = [error.hint or "see dmesg"]
    return HostError(what or error.call, reason, either(remedies))
