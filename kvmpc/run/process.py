"""Another program, run to its end: what it said, how it ended, and that it ends.

In a session of its own: what a terminal sends to whoever is in the foreground is not for it, and
where it would ask somebody, it is told that there is nobody. Fails with HostError.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Final

from kvmpc.errors import HostError, describe_errno
from kvmpc.trial.signals import Interrupt

__all__ = ["Ended", "run_process"]

_LOOK_S: Final = 0.2
_KILL_S: Final = 5.0
"""How long a process that was killed may take to be gone; one within a driver may never be."""


@dataclass(frozen=True)
class Ended:
    """How a program ended.

    code: its exit code; of one that a signal ended, minus that; None where it would not end.
    in_time: whether it ended by itself, neither stopped by us nor for longer than it may take.
    stdout, stderr: what it wrote.
    """

    code: int | None
    in_time: bool
    stdout: str
    stderr: str

    @property
    def how(self) -> str:
        """How it ended, in words."""
        if self.code is None:
            return "could not be killed"
        if self.code < 0:
            return f"was ended by {_signal_name(-self.code)}"
        return f"ended with exit code {self.code}"


def run_process(
    command: Sequence[str],
    interrupt: Interrupt,
    *,
    within_s: float | None = None,
    grace_s: float = 2.0,
    env: Mapping[str, str] | None = None,
) -> Ended:
    """Run `command` until it ends; what it leaves in the background is left there.

    within_s: how long it may take, None for ever. Then, or when somebody asks for the end, it and
    what it has started get SIGTERM, and after grace_s, or when asked again, SIGKILL.

    Raises: HostError where it cannot be started.
    """
    with ExitStack() as stack:
        # Not pipes: what the program leaves in the background holds them open.
        out, err = (os.memfd_create(f"kvmpc-{name}") for name in ("stdout", "stderr"))
        for fd in (out, err):
            stack.callback(os.close, fd)
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                start_new_session=True, env=env,
            )  # fmt: skip
        except OSError as error:
            raise HostError(
                command[0], f"cannot be started: {describe_errno(error.errno or 0)}",
                "mend what is named",
            ) from error  # fmt: skip
        in_time = True
        try:
            in_time = _wait(process, interrupt, within_s)
        finally:
            if process.returncode is None:
                _stop(process, interrupt, grace_s)
        return Ended(process.returncode, in_time, _text(out), _text(err))


def _wait(process: subprocess.Popen[bytes], interrupt: Interrupt, within_s: float | None) -> bool:
    """Wait for the end of a process; return whether it came before its time and ours were over."""
    deadline = None if within_s is None else time.monotonic() + within_s
    while interrupt.signal_name is None:
        left_s = _LOOK_S if deadline is None else min(_LOOK_S, deadline - time.monotonic())
        if left_s <= 0:
            return False
        with suppress(subprocess.TimeoutExpired):
            process.wait(left_s)
            return True
    return False


def _stop(process: subprocess.Popen[bytes], interrupt: Interrupt, grace_s: float) -> None:
    """End a process and its group: first asked, then not asked."""
    insisted, deadline = interrupt.insisted, time.monotonic() + grace_s
    _signal_group(process, signal.SIGTERM)
    while time.monotonic() < deadline and interrupt.insisted == insisted:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_LOOK_S)
            break
    _signal_group(process, signal.SIGKILL)  # what the process itself has left of its group, too
    with suppress(subprocess.TimeoutExpired):
        process.wait(_KILL_S)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _text(fd: int) -> str:
    size = os.fstat(fd).st_size
    return os.pread(fd, size, 0).decode("utf-8", "backslashreplace")


def _signal_name(number: int) -> str:
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"
