"""The handler behind Python's: it waits, and then lets the signal do what it does by default."""

from __future__ import annotations

import os
import signal
import time

from kvmpc.kernel import syscalls
from kvmpc.loops.program import NativeProgram, build
from kvmpc.loops.steps import Steps

_HELD, _NOT_HELD = 1, 2


def _crash_twice(address: int) -> None:
    """Be signalled twice, in a process of its own: the second one ends it."""
    signal.alarm(20)
    syscalls.set_native_handler(signal.SIGUSR1, address)
    begin = time.monotonic()
    os.kill(os.getpid(), signal.SIGUSR1)
    if not time.monotonic() - begin >= 1:
        os._exit(_NOT_HELD)
    os.kill(os.getpid(), signal.SIGUSR1)
    os._exit(_HELD)


def test_a_signal_is_held_once_and_then_has_its_default_action() -> None:
    program = NativeProgram(build(Steps()))
    child = os.fork()
    if child == 0:
        _crash_twice(program.address("hold_crash"))
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"exit code {os.waitstatus_to_exitcode(status)}"
    assert os.WTERMSIG(status) == signal.SIGUSR1
    program.close()
