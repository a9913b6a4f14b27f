"""The rate of the host's TSC, by which the native loops tell time without a system call.

Relies on an invariant TSC (CPUID 0x80000007 EDX bit 8): one rate whatever the CPU's frequency, and
the same count on all CPUs.
"""

from __future__ import annotations

import statistics
import time
from functools import cache
from itertools import pairwise

from kvmpc.errors import KernelError
from kvmpc.loops.program import load
from kvmpc.loops.records import ResolverRecord, Return
from kvmpc.loops.steps import Steps

__all__ = ["host_cycles_per_ns"]

_SPANS = 3
_SPAN_S = 0.007


@cache
def host_cycles_per_ns() -> float:
    """Return the TSC cycles in a nanosecond, measured once a process against CLOCK_MONOTONIC.

    Takes 20 ms, so it is asked for only where there is a fetch delay. Raises: KernelError.
    """
    stamps = [_stamp()]
    for _ in range(_SPANS):
        time.sleep(_SPAN_S)
        stamps.append(_stamp())
    # A thread pre-empted between clock and TSC makes the span before too fast and the one behind
    # too slow by as much: the median is neither.
    rates: list[float] = [
        (end.start_cycles - begin.start_cycles) / (end.start_ns - begin.start_ns)
        for begin, end in pairwise(stamps)
    ]
    return statistics.median(rates)


def _stamp() -> ResolverRecord:
    """Return a record with the time in `start_ns` and `start_cycles`."""
    record = ResolverRecord()
    if load(Steps()).call("stamp_start", record) != Return.OK:
        raise KernelError("clock_gettime", record.error)
    return record
