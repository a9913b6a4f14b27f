"""The handler behind Python's: it waits, and then lets the signal do what it does by default."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import time

import pytest

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


@pytest.mark.parametrize("slept", [0, -errno.EINTR])
def test_it_sleeps_a_second_and_then_takes_itself_away(kernel: ScriptedKernel, slept: int) -> None:
    record = ResolverRecord()
    number = ctypes.addressof(record) & 0xFFFFFFFF  # what is called is handed its record there
    seen: list[tuple[int, ...]] = []

    def words(argument: int, count: int) -> None:
        seen.append(tuple((ctypes.c_uint64 * count).from_address(kernel.arguments[argument])))

    sleep = ("clock_nanosleep", clock.CLOCK_MONOTONIC, 0, ..., 0)
    kernel.expect(*sleep, reply=slept, do=lambda: words(2, 2))
    kernel.expect("rt_sigaction", number, ..., ..., 8, do=lambda: words(1, 2))
    assert kernel.run("probe_crash", record) == 0x5A5A5A5A, "a register of the caller's"
    # struct timespec; the kernel's struct sigaction: SIG_DFL, no flags.
    assert seen == [(1, 0), (0, 0)]
