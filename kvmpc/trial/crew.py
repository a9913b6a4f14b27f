"""The threads of one trial: started, counted, and got out again, whatever happens.

A `Crew` owns its threads from `start` until each has left native code. The first reason to stop
wins; `stop` then releases every thread from wherever it sleeps: in a futex, in poll, in KVM_RUN, in
a userfault. Threads are daemons and named, and say what they have to say through one queue.
"""

from __future__ import annotations

import errno
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

from kvmpc.errors import HostError, KernelError
from kvmpc.host.headroom import shortage
from kvmpc.host.scheduling import ThreadTimes
from kvmpc.kernel import syscalls
from kvmpc.kernel.threads import STACK_BYTES, small_threads
from kvmpc.loops.program import NativeProgram
from kvmpc.loops.records import ResolverRecord, SharedRecord
from kvmpc.trial.seats import Seat
from kvmpc.trial.signals import KICK_SIGNAL, block_signals

__all__ = ["Crew", "Event", "Report", "Worker"]

_KICK_S = 0.05
"""How often a thread is signalled until it has left: a signal may come just before it sleeps."""

_MAY_BE_SHORT = "raise ulimit -u, kernel.threads-max, kernel.pid_max, or pids.max of the cgroup"
"""Where no limit is seen to be exhausted any more."""

_UNREGISTER_AFTER_S = 0.1
_GIVE_UP_S = 10.0


@dataclass(frozen=True)
class Event:
    """What a thread reports: ``ready``, ``done``, or ``failed`` with the error."""

    kind: str
    worker: Worker
    error: BaseException | None = None


Report = Callable[[str], None]


def _named(function: Any, name: str) -> Callable[..., None]:
    """Return `function` under another name: so a crash says which thread it was in.

    What Python prints of a crash names functions; threads only from Python 3.14 on.
    """
    code = function.__code__.replace(co_name=name)
    return FunctionType(code, function.__globals__, name)


@dataclass(eq=False, kw_only=True)
class Worker:
    """One thread with its record. `tid` is None before it runs, `left` set when it is out.

    times: what it had of the CPUs up to its last page; None where that is not known.
    """

    name: str
    record: ResolverRecord
    seat: Seat = field(default_factory=Seat)
    tid: int | None = None
    times: ThreadTimes | None = None
    left: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None

    def run(self, report: Report) -> None:
        """Do what the thread is for; ``report(kind)`` tells the main thread how far it is."""
        raise NotImplementedError

    def interrupt(self) -> None:
        """Do what else it takes to get the thread out, once its stop flag is set."""


class Crew:
    """Threads that start together, are released by one gate, and leave before this is closed."""

    def __init__(self, shared: SharedRecord, program: NativeProgram) -> None:
        self._shared = shared
        self._program = program
        # Not SimpleQueue: before Python 3.13 its get(timeout) waits for ever once a signal's
        # handler ends after the deadline, and with it go Ctrl-C and the watchdog. Queue waits on a
        # lock, which looks at what is left of the time.
        self._events: queue.Queue[Event] = queue.Queue()
        self.workers: list[Worker] = []

    def start(self, workers: Sequence[Worker]) -> None:
        """Start a thread for each of `workers`, which runs it.

        Raises: HostError when the system has no room for another thread (those started are
        the caller's to stop).
        """
        if signal.getsignal(KICK_SIGNAL) in (signal.SIG_DFL, signal.SIG_IGN):
            raise RuntimeError("threads can only be stopped inside interruptible()")
        with block_signals(), small_threads():
            for worker in workers:
                worker.thread = threading.Thread(
                    target=_named(Crew._run, worker.name),
                    args=(self, worker),
                    name=worker.name,
                    daemon=True,
                )
                try:
                    worker.thread.start()
                except RuntimeError as error:
                    short = shortage(errno.EAGAIN, STACK_BYTES)
                    raise HostError(
                        f"thread {worker.name}",
                        f"the system starts no more threads ({error})",
                        f"{short or _MAY_BE_SHORT}; or use fewer vCPUs or readers",
                    ) from error
                self.workers.append(worker)

    def _run(self, worker: Worker) -> None:
        try:
            worker.tid = syscalls.thread_id()
            syscalls.set_thread_name(worker.name)
            worker.seat.take()
            # Simulated fetches sleep for tens of microseconds; the default slack doubles them.
            syscalls.set_timer_slack_ns(1)
            worker.run(lambda kind: self._events.put(Event(kind, worker)))
            worker.seat.leave()
        # Reported here, raised again by the main thread.
        except BaseException as error:  # noqa: BLE001
            self._events.put(Event("failed", worker, error))
        finally:
            worker.left.set()

    def events(self, poll_s: float) -> Iterator[Event | None]:
        """Yield events as they come, and None whenever `poll_s` passed without one."""
        while True:
            try:
                yield self._events.get(timeout=poll_s)
            except queue.Empty:
                yield None

    def open_gate(self) -> None:
        """Stamp `gate_ns` and let every vCPU thread run. Raises: KernelError."""
        result = self._program.call("open_gate", self._shared)
        if result:
            raise KernelError("opening the gate (clock_gettime, futex)", -result)

    def stop(self, workers: Sequence[Worker], free_sleepers: Callable[[], None]) -> list[str]:
        """Get `workers` out of native code; return the names of those that would not leave.

        Flags first, then a signal every 50 ms until each has left, since one may arrive just before
        the call that it should interrupt. `free_sleepers` unregisters the userfaultfds: it frees
        vCPUs that sleep in a userfault, which before Linux 6.2 no signal does.
        """
        for worker in workers:
            worker.record.stop = 1
            worker.interrupt()
        if not self._shared.gate:
            self.open_gate()
        begin = time.monotonic()
        waiting = [worker for worker in workers if not worker.left.is_set()]
        freed = False
        while waiting and time.monotonic() - begin < _GIVE_UP_S:
            if not freed and time.monotonic() - begin > _UNREGISTER_AFTER_S:
                freed = True
                # What it could not free shows in who is left.
                with suppress(KernelError):
                    free_sleepers()
            for worker in waiting:
                if worker.tid is not None:
                    syscalls.tgkill(worker.tid, KICK_SIGNAL)
            deadline = time.monotonic() + _KICK_S
            for worker in waiting:
                worker.left.wait(max(0.0, deadline - time.monotonic()))
            waiting = [worker for worker in waiting if not worker.left.is_set()]
        for worker in workers:
            if worker.thread is not None and worker.left.is_set():
                worker.thread.join()
        return [worker.name for worker in waiting]
