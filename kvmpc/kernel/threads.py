"""What a thread of a trial takes of the address space: a small stack, and no heap of its own.

glibc gives a thread a stack as large as RLIMIT_STACK (8 MiB by default, 2 MiB where that is
unlimited) and a heap of 64 MiB: 10 GiB for 160 threads that use a few pages each, and against
RLIMIT_AS and ``vm.overcommit_memory=2`` untouched bytes count as well.
Source: pthread_create(3); mallopt(3), M_ARENA_MAX.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from kvmpc.kernel import syscalls
from kvmpc.kernel.need import Need
from kvmpc.units import KIB, PAGE_BYTES

__all__ = ["STACK_BYTES", "THREAD_SIGNALS", "small_threads"]

_STACK_BYTES = 256 * KIB
"""Ten times what a worker was seen to use: Python down to one call of a native loop, or to an
error on its way up."""

STACK_BYTES: Final = _STACK_BYTES + PAGE_BYTES
"""What one thread maps: its stack, and a guard page."""


@contextmanager
def small_threads() -> Iterator[None]:
    """Start threads in the block with a stack of `STACK_BYTES`, and with the one heap of all."""
    syscalls.share_heap()
    before = threading.stack_size(_STACK_BYTES)
    try:
        yield
    finally:
        threading.stack_size(before)


def _signal_self() -> str:
    syscalls.tgkill(syscalls.thread_id(), 0)  # 0 is sent to nobody: whether one may be is all
    return "may be sent"


THREAD_SIGNALS: Final = Need("signals to threads", _signal_self)
"""A thread that is about to end needs none: a trial may do without, and the next one not."""
