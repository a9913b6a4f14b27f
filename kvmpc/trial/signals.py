"""Signals: Ctrl-C and SIGTERM ask for the end; a real-time signal gets threads out of calls.

Handlers live in the main thread only. A second Ctrl-C leaves the process at once.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from kvmpc.errors import Interrupted

__all__ = ["KICK_SIGNAL", "NEVER", "Interrupt", "block_signals", "interruptible"]

KICK_SIGNAL = signal.SIGRTMIN + 7
"""Sent to a thread to make its system call return EINTR. Nothing else in kvmpc uses it."""

EXIT_INTERRUPTED = 130


class Interrupt:
    """Whether somebody asked for the end; `signal_name` is None until then."""

    def __init__(self) -> None:
        self.signal_name: str | None = None

    def check(self) -> None:
        """Raise Interrupted if somebody has asked."""
        if self.signal_name is not None:
            raise Interrupted(self.signal_name)


NEVER = Interrupt()


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing: that the system call was interrupted is all that is wanted."""


@contextmanager
def interruptible(told: Callable[[str], None] = lambda _: None) -> Iterator[Interrupt]:
    """Install the handlers for the block and restore what was there.

    `told` is called with the signal's name at the first request, in the main thread.

    Python installs handlers without SA_RESTART, so a kicked system call returns EINTR
    (signal(7); CPython's PyOS_setsig with siginterrupt). Must run in the main thread.
    """
    interrupt = Interrupt()

    def request(number: int, frame: FrameType | None) -> None:
        del frame
        if interrupt.signal_name is not None:
            # Not sys.exit: whatever keeps the first stop from ending could keep this one as well.
            os._exit(EXIT_INTERRUPTED)
        interrupt.signal_name = signal.Signals(number).name
        told(interrupt.signal_name)

    previous = {
        number: signal.signal(number, handler)
        for number, handler in (
            (signal.SIGINT, request),
            (signal.SIGTERM, request),
            (KICK_SIGNAL, _ignore),
        )
    }
    try:
        yield interrupt
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def block_signals() -> Iterator[None]:
    """Block every signal but the kick for the block: threads started in it inherit that.

    So a Ctrl-C is always the main thread's, which is the one that acts on it.
    """
    blocked = signal.valid_signals() - {KICK_SIGNAL}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
