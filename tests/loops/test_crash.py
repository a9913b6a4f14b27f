"""The handler behind Python's: it waits, and then lets the signal do what it does by default."""

from __future__ import annotations

import ctypes
import os
import signal
import time

from kvmpc.abi import clock
from kvmpc.kernel import syscalls
from kvmpc.loops.program import NativeProgram, build
from kvmpc.loops.records import ResolverRecord
from kvmpc.loops.steps import Steps
from tests.fakes.scripted import ScriptedKernel

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


def test_it_sleeps_and_then_takes_itself_away(kernel: ScriptedKernel) -> None:
    record = ResolverRecord()
    number = ctypes.addressof(record) & 0xFFFFFFFF  # what is called is handed its record there
    kernel.expect("clock_nanosleep", clock.CLOCK_MONOTONIC, 0, ..., 0)
    kernel.expect("rt_sigaction", number, ..., ..., 8)
    kernel.run("hold_crash", record)
