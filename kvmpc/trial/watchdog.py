"""Waiting for a trial's threads: as long as pages come, and nobody asks for the end."""

from __future__ import annotations

import time

from kvmpc.errors import WatchdogError
from kvmpc.kernel import syscalls
from kvmpc.loops.records import SharedRecord
from kvmpc.trial.failures import failure_of
from kvmpc.trial.rig import Rig
from kvmpc.trial.signals import Interrupt
from kvmpc.trial.stops import Stops
from kvmpc.trial.timeline import Timeline

__all__ = ["WATCHDOG_S", "Watchdog"]

WATCHDOG_S = 10.0
"""No page for this long means that none will come."""

_POLL_S = 0.1
_PARKED_POLL_S = 0.0001
_SLACK_NS = 50_000
"""The kernel's own default: how late a poll may end."""

_LONGEST_GAP_S = 2 * _POLL_S
"""What counts at most of the time between two polls: while this thread could not watch, because it
was stopped or waited for a CPU, the others may have been no better off."""


class Watchdog:
    """Waits for the threads of `rig`; goes by progress, not by length.

    limit_s: without a page for so long, it names who is stuck. stops: when nobody could run.
    """

    def __init__(self, rig: Rig, interrupt: Interrupt, limit_s: float) -> None:
        self._rig, self._interrupt, self._limit_s = rig, interrupt, limit_s
        # Slack is inherited through exec, and may be seconds (systemd's TimerSlackNSec).
        syscalls.set_timer_slack_ns(_SLACK_NS)
        self.stops = Stops(interrupt)

    def wait(self, kind: str, threads: int, timeline: Timeline | None = None) -> None:
        """Wait until `threads` threads have reported `kind`; sample `timeline` meanwhile.

        Raises: WatchdogError, Interrupted, what made a thread fail.
        """
        last_progress, quiet_s, polled = -1, 0.0, time.monotonic()
        if not threads:
            return
        for event in self._rig.crew.events(timeline.interval_s if timeline else _POLL_S):
            self._interrupt.check()
            before, polled = polled, time.monotonic()
            quiet_s += min(polled - before, _LONGEST_GAP_S)
            if timeline:
                timeline.sample()
            if event is not None:
                if event.error is not None:
                    raise failure_of(event)
                if event.kind == kind:
                    threads -= 1
                quiet_s = 0.0
                if not threads:
                    self.stops.look()
                    return
                continue
            self.stops.look()
            if quiet_s > min(1.0, self._limit_s / 4):
                progress = self._progress()
                if progress != last_progress:
                    last_progress, quiet_s = progress, 0.0
                elif quiet_s > self._limit_s:
                    raise WatchdogError(self._limit_s, self._stuck())

    def wait_parked(self, gate: SharedRecord) -> None:
        """Wait until all sleep at `gate`: a thread that said ready may yet wait for the GIL.

        Raises: WatchdogError, Interrupted, what made a thread fail.
        """
        waited_s, polled = 0.0, time.monotonic()
        while gate.parked < self._rig.work.vcpus:
            self._interrupt.check()
            before, polled = polled, time.monotonic()
            waited_s += min(polled - before, _LONGEST_GAP_S)
            if waited_s > self._limit_s:
                raise WatchdogError(self._limit_s, self._stuck())
            # All have reported: who has more to say before the gate opens has failed.
            event = next(self._rig.crew.events(_PARKED_POLL_S))
            if event is not None:
                raise failure_of(event)

    def _progress(self) -> int:
        """Return a number that grows as long as the guest or the pager gets on."""
        rig = self._rig
        records = [rig.guest.record(worker.index) for worker in rig.vcpus]
        return sum(int(r.touched + r.again) for r in records) + rig.supply.progress()

    def _stuck(self) -> list[str]:
        """Name each vCPU that has not left, with what it waits for."""
        rig, found = self._rig, []
        for worker in rig.vcpus:
            if worker.left.is_set():
                continue
            record = rig.guest.record(worker.index)
            if record.touched < record.touches and rig.gate.gate:
                page = rig.layout.touched_page(worker.index, record.touched)
                found.append(f"{worker.name} for page {page}")
            elif rig.passes.shared.gate:
                page = rig.layout.touched_page(worker.index, record.again % record.touches)
                found.append(f"{worker.name} for page {page} in a further pass")
            else:
                found.append(f"{worker.name} before the gate")
        return found
