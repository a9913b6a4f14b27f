"""The rate of the host's TSC, by which the native loops tell time without a system call.

Relies on an invariant TSC (CPUID 0x80000007 EDX bit 8): one rate whatever the CPU's frequency, and
the same count on all CPUs.
"""

from __future__ import annotations

import time
from functools import cache

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

    Takes 20 ms, so it is asked for only where a loop has to tell time. Raises: KernelError.
    """
    # Of each span the cycles lie within the nanoseconds: a thread pre-empted between clock and TSC
    # makes the rate seem lower, never higher.
    return max(_rate() for _ in range(_SPANS))


def _rate() -> float:
    """Return the rate over one span: at most the true one."""
    record = ResolverRecord()
    _stamp("stamp_start", record)
    try:
        time.sleep(_SPAN_S)
    except OSError as error:
        raise KernelError("clock_nanosleep", error.errno or 0) from error
    _stamp("stamp_end", record)
    cycles = record.end_cycles - record.start_cycles
    return float(cycles / (record.end_ns - record.start_ns))


def _stamp(function: str, record: ResolverRecord) -> None:
    if load(Steps()).call(function, record) != Return.OK:
        raise KernelError("clock_gettime", record.error)
