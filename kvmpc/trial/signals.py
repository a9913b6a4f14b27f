"""Signals: what asks for the end, what gets threads out of calls, and what a thread never blocks.

Handlers live in the main thread only. What was inherited through exec is not taken for the default:
a signal that is ignored and would ask for the end stays ignored (``nohup kvmpc``, ``kvmpc &`` in a
script), as every other program has it; nothing is left blocked, and SIGCHLD is not left ignored.
Source: glibc's manual, Basic Signal Handling; sigaction(2), SA_NOCLDWAIT.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from kvmpc.errors import Interrupted
from kvmpc.exit_codes import EXIT_INTERRUPTED, in_convention
from kvmpc.kernel import syscalls
from kvmpc.loops.program import load
from kvmpc.loops.steps import Steps
from kvmpc.result.streams import STDERR

__all__ = ["KICK_SIGNAL", "NEVER", "Interrupt", "block_signals", "hold_crashes", "interruptible"]

KICK_SIGNAL = signal.SIGURG
"""Sent to a thread to make its system call return EINTR. Nothing else in kvmpc uses it.

Not a real-time signal: tgkill(2) of one fails with EAGAIN for as long as the user's queue is full
or has no room at all (RLIMIT_SIGPENDING); a standard signal is pending without an entry in it. Of
those, one that does nothing by default, should it come late, and that debuggers pass on.
Source: __send_signal_locked in kernel/signal.c; Go's sigPreempt chose it for the same reasons.
"""

_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU)
_IMPATIENT = (signal.SIGINT, signal.SIGTERM)
"""Of those: whose second leaves at once. A hangup comes from the kernel and from the shell, and
SIGXCPU with every further second of CPU time."""

_SYNCHRONOUS = frozenset(
    getattr(signal, f"SIG{name}") for name in ("SEGV", "BUS", "FPE", "ILL", "TRAP", "SYS", "ABRT")
)
"""What a thread does to itself. Blocked, it ends the process without its handler being run, and so
without a word (force_sig_info_to_task in kernel/signal.c)."""

_ECHO_S = 0.2
"""A second one so soon is no second wish: timeout(1), and what forwards a terminal's Ctrl-C, signal
the process and its group."""


class Interrupt:
    """Whether somebody asked for the end; `signal_name` is None until then.

    insisted: how often it was asked for again, of somebody who is patient.
    continued: how often SIGCONT has come, which is all that is seen of having been stopped.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self.insisted = 0
        self.continued = 0

    def check(self) -> None:
        """Raise Interrupted if somebody has asked."""
        if self.signal_name is not None:
            raise Interrupted(self.signal_name)


NEVER = Interrupt()


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing: that the system call was interrupted is all that is wanted."""


@contextmanager
def interruptible(
    told: Callable[[str], None] = lambda _: None, *, patient: bool = False
) -> Iterator[Interrupt]:
    """Install the handlers for the block, block no signal, and restore what was there.

    `told` is called with the signal's name at the first request, in the main thread. patient:
    whether a second one is only counted, where something has to be done before the end; otherwise
    it leaves at once.

    Python installs handlers without SA_RESTART, so a kicked system call returns EINTR
    (signal(7); CPython's PyOS_setsig with siginterrupt). Must run in the main thread.
    """
    interrupt = Interrupt()
    asked = 0.0

    def request(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        del frame
        if interrupt.signal_name is not None:
            if number not in _IMPATIENT or time.monotonic() - asked <= _ECHO_S:
                return
            interrupt.insisted += 1
            if not patient:
                # Not sys.exit: whatever keeps the first stop from ending could keep this one too.
                os._exit(in_convention(EXIT_INTERRUPTED))
            return
        asked = time.monotonic()
        interrupt.signal_name = signal.Signals(number).name
        told(interrupt.signal_name)

    def count(number: int, frame: FrameType | None) -> None:
        del number, frame
        interrupt.continued += 1

    handlers: dict[int, Any] = {KICK_SIGNAL: _ignore, signal.SIGCONT: count}
    handlers |= {end: request for end in _ENDS if signal.getsignal(end) != signal.SIG_IGN}
    if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
        # Otherwise nobody can be told how a child ended: every exit code would be 0.
        handlers[signal.SIGCHLD] = signal.SIG_DFL
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    blocked = signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        yield interrupt
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in previous.items():
            signal.signal(number, handler)


def hold_crashes() -> None:
    """Let the first thread that crashes say so to its end, where `faulthandler` is on.

    A loop that is wrong is so for all its vCPUs: many threads crash at once. Raises: HostError.
    """
    if not faulthandler.is_enabled():
        return
    faulthandler.disable()
    address = load(Steps()).address("hold_crash")
    for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL):
        syscalls.set_native_handler(number, address)
    faulthandler.enable(STDERR, all_threads=False)  # it goes before those, and hands over to them


@contextmanager
def block_signals() -> Iterator[None]:
    """Block every signal but the kick and what a thread does to itself: threads inherit that.

    So a Ctrl-C is always the main thread's, which is the one that acts on it.
    """
    blocked = signal.valid_signals() - {KICK_SIGNAL} - _SYNCHRONOUS
    before = signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
