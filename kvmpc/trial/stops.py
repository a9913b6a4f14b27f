"""Time in which this process stood still: stopped, frozen, or on a machine that was.

A SIGSTOP, a debugger, a frozen cgroup (a paused container) or a paused VM below counts as measured
time, and no counter of the loops knows of it; a suspended host may not count, and disturbs as much.
The thread that watches a trial sees it in its own clocks.
"""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from typing import Self

from kvmpc.caution import Caution
from kvmpc.errors import KernelError
from kvmpc.host.scheduling import thread_times
from kvmpc.trial.outcome import Finding
from kvmpc.trial.signals import Interrupt

__all__ = ["Stops"]

_LEAST_NS = 100_000_000
"""Shorter ones are an interrupt, or a hypervisor that had others to run, on this CPU alone."""

_LONGEST_SLEEP_NS = 100_000_000
"""The watching thread never sleeps longer in one go, whether for a poll or for the GIL."""


@dataclass(frozen=True)
class _Moment:
    """The calling thread's clocks in ns, how often it slept, how often the process was continued.

    waited_ns: for a CPU, though it could have run; None where the kernel does not say.
    """

    now_ns: int
    suspended_ns: int
    ran_ns: int
    waited_ns: int | None
    sleeps: int
    continued: int

    @classmethod
    def now(cls, interrupt: Interrupt) -> Self:
        """Return that of now. Raises: KernelError."""
        times = thread_times()
        try:
            now_ns = time.monotonic_ns()
            return cls(
                now_ns=now_ns,
                # CLOCK_BOOTTIME goes on while the machine is suspended, CLOCK_MONOTONIC does not.
                suspended_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME) - now_ns,
                ran_ns=time.thread_time_ns(),
                waited_ns=None if times is None else times.waited_ns,
                sleeps=resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw,
                continued=interrupt.continued,
            )
        except OSError as error:
            call = "reading a thread's clocks (clock_gettime, getrusage)"
            raise KernelError(call, error.errno or 0) from error


class Stops:
    """How long this process stood still since `begin`, if `look` is called after every poll.

    What is left of the time between two looks when all is taken off in which the thread ran, waited
    for a CPU, or slept, is none of its own doing. With a SIGCONT in it, all that it did not run or
    wait is: so a short stop is seen as well. In one thread only, the one that watches.
    """

    def __init__(self, interrupt: Interrupt) -> None:
        self._interrupt = interrupt
        self.begin()

    def begin(self) -> None:
        """Forget what was so far."""
        self.still_ns = 0
        self._then = _Moment.now(self._interrupt)

    def look(self) -> None:
        """Add what has been since the last look."""
        then, now = self._then, _Moment.now(self._interrupt)
        self._then = now
        suspended_ns = now.suspended_ns - then.suspended_ns
        if suspended_ns > _LEAST_NS:
            self.still_ns += suspended_ns
        idle_ns = (now.now_ns - then.now_ns) - (now.ran_ns - then.ran_ns)
        if now.waited_ns is not None and then.waited_ns is not None:
            idle_ns -= now.waited_ns - then.waited_ns
            slept_ns = (now.sleeps - then.sleeps) * _LONGEST_SLEEP_NS
            stopped = idle_ns - slept_ns > _LEAST_NS
        else:
            stopped = False
        if stopped or now.continued != then.continued:
            self.still_ns += max(idle_ns, 1)

    def finding(self) -> Finding:
        """Return the caution about it, if there was any."""
        if not self.still_ns:
            return Finding()
        return Finding(
            cautions=(
                Caution(
                    "stood-still",
                    f"kvmpc stood still for up to {self.still_ns / 1e9:.2f} s of the trial: it was "
                    "stopped (Ctrl-Z, a debugger, a frozen cgroup), or the machine was suspended",
                    "measure again, and let it run; that time is in the trial's",
                    size=self.still_ns,
                ),
            )
        )
