"""How fast the host was right before a trial, where the trial's first vCPU was to run."""

from __future__ import annotations

import os

from kvmpc.kernel import syscalls
from kvmpc.loops.speed import steps_per_s
from kvmpc.result.metrics import HOST_SPEED
from kvmpc.trial.outcome import Finding
from kvmpc.trial.seats import Seat

__all__ = ["host_speed"]


def host_speed(seat: Seat) -> Finding:
    """Return the speed of a fixed loop, on the CPUs of `seat` if it has any.

    Runs in the calling thread, which is where it was afterwards. Raises: HostError, KernelError.
    """
    allowed = os.sched_getaffinity(0)
    seat.take()
    try:
        speed = steps_per_s()
    finally:
        if seat.cpus is not None:
            syscalls.set_affinity(allowed)
    return Finding(metrics={HOST_SPEED.key: speed})
