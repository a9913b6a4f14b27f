"""The errors kvmpc raises on purpose: one tree, facts as attributes, text made in ``__str__``.

Five families, one for each thing that the caller can do about it; ``cli`` gives each family
its exit code. Nothing here prints, and nothing here is raised for a defect of kvmpc itself:
those stay what Python makes them.
"""

from __future__ import annotations

import errno as _errno
import os

__all__ = [
    "GuestError",
    "HostError",
    "Interrupted",
    "KernelError",
    "KvmpcError",
    "MismatchError",
    "ResultFileError",
    "StuckError",
    "TrialError",
    "UsageError",
    "VerifyError",
    "WatchdogError",
    "describe_errno",
]


def describe_errno(number: int) -> str:
    """Return ``ENOENT (No such file or directory)`` for an errno value."""
    return f"{_errno.errorcode.get(number, f'errno {number}')} ({os.strerror(number)})"


class KvmpcError(Exception):
    """Anything kvmpc refuses or fails to do, told so that a person can act on it."""


class UsageError(KvmpcError):
    """An option has a value that makes no sense, found before anything was allocated."""

    def __init__(self, option: str, given: object, allowed: str) -> None:
        super().__init__(option, given, allowed)
        self.option = option
        self.given = given
        self.allowed = allowed

    def __str__(self) -> str:
        return f"{self.option}: {self.given!r} is not possible; allowed: {self.allowed}"


class ResultFileError(UsageError):
    """A result file cannot be read: damaged, cut short, or of another schema."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__("result file", path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class MismatchError(UsageError):
    """Two results may not be compared; `problems` names each reason, with both values."""

    def __init__(self, problems: list[str], remedy: str = "") -> None:
        super().__init__("comparison", problems, remedy)
        self.problems = problems
        self.remedy = remedy

    def __str__(self) -> str:
        lines = ["these results cannot be compared", *(f"  {text}" for text in self.problems)]
        return "\n".join([*lines, f"  remedy: {self.remedy}"] if self.remedy else lines)


class HostError(KvmpcError):
    """This host cannot do what was asked; `remedy` says what would change that."""

    def __init__(self, what: str, reason: str, remedy: str) -> None:
        super().__init__(what, reason, remedy)
        self.what = what
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}\n  remedy: {self.remedy}"


class KernelError(KvmpcError):
    """The kernel said no to `call` with `errno`; `hint` is the one fact that explains it here."""

    def __init__(self, call: str, number: int, hint: str = "") -> None:
        super().__init__(call, number, hint)
        self.call = call
        self.errno = number
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.call}: {describe_errno(self.errno)}"
        return f"{text}; {self.hint}" if self.hint else text


class TrialError(KvmpcError):
    """A trial failed: it has no rate."""


class GuestError(TrialError):
    """A vCPU ended as its program never asks for: an exception, a triple fault, an odd exit."""

    def __init__(self, vcpu: int, event: str) -> None:
        super().__init__(vcpu, event)
        self.vcpu = vcpu
        self.event = event

    def __str__(self) -> str:
        return f"vcpu{self.vcpu}: {self.event}"


class VerifyError(TrialError):
    """What the guest saw, or what memory holds, is not what the trial must have produced."""


class WatchdogError(TrialError):
    """No page arrived for `seconds`; `stuck` names vCPUs with the page each waits for."""

    def __init__(self, seconds: float, stuck: list[str]) -> None:
        super().__init__(seconds, stuck)
        self.seconds = seconds
        self.stuck = stuck

    def __str__(self) -> str:
        shown = ", ".join(self.stuck[:8])
        more = f" and {len(self.stuck) - 8} more" if len(self.stuck) > 8 else ""
        return f"no page arrived for {self.seconds:g} s; waiting: {shown}{more}"


class StuckError(KvmpcError):
    """Threads would not leave native code: their memory stays, and nothing more is measured."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(names)
        self.names = names

    def __str__(self) -> str:
        return f"threads would not leave: {', '.join(self.names[:8])}; the run ends here"


class Interrupted(KvmpcError):
    """A signal asked for the end; `signal_name` says which."""

    def __init__(self, signal_name: str) -> None:
        super().__init__(signal_name)
        self.signal_name = signal_name

    def __str__(self) -> str:
        return f"stopped by {self.signal_name}"
