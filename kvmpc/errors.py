"""The errors kvmpc raises on purpose: one tree, facts as attributes, text made in ``__str__``.

Five families, one for each thing that the caller can do about it; ``cli`` gives each family
its exit code. Nothing here prints, and nothing here is raised for a defect of kvmpc itself:
those stay what Python makes them.
"""

from __future__ import annotations

import errno as _errno
import os
import sys
from types import ModuleType

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
    "broken_install",
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


_DISTRIBUTIONS = {"keystone": "keystone-engine", "kvmpc": "-e ."}
"""What pip installs a module by, where that is not its name."""


def broken_install(error: BaseException) -> HostError | None:
    """Return what `error`, raised by an import, says of this installation; None for anything else.

    A library is missing, or another module of its name is in the way: then that one lacks what is
    imported from it, or what is looked for in it.
    """
    if isinstance(error, ModuleNotFoundError) and error.name:
        top = error.name.partition(".")[0]
        if top == error.name and top not in sys.modules:
            reason = f"not installed for this Python ({sys.executable})"
        else:
            reason = f"{_file_of(top)} has no {error.name}: it is another module, or not whole"
    elif isinstance(error, ImportError) and error.name:
        top = error.name.partition(".")[0]
        reason = f"{error.path or _file_of(top)} is another module, or another version: {error.msg}"
    elif isinstance(error, AttributeError) and isinstance(error.obj, ModuleType):
        top = error.obj.__name__.partition(".")[0]
        reason = f"{_file_of(error.obj.__name__)} is another module, or another version: {error}"
    elif isinstance(error, SyntaxError) and error.filename:
        top = os.path.basename(error.filename).removesuffix(".py")
        reason = f"{error.filename}: {error}"
    else:
        return None
    if top == "kvmpc" and not isinstance(error, ModuleNotFoundError):
        return None  # a defect of ours
    name = _DISTRIBUTIONS.get(top, top)
    remedy = f"{sys.executable} -m pip install {name}"
    if top in sys.stdlib_module_names:
        remedy = "use a Python that was built with all of its standard library"
    elif top in sys.modules:
        remedy = f"take the other out of PYTHONPATH and of the current folder; or {remedy}"
    return HostError(name if top != "kvmpc" else top, reason, remedy)


def _file_of(module: str) -> str:
    return getattr(sys.modules.get(module), "__file__", None) or f"the module {module}"
