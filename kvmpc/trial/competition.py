"""What the threads of a trial had of the CPUs, and what others had: counted around each trial.

Exact for threads: the main thread reads what each waited before the gate, at which all sleep; a
vCPU's own thread after its last page, of readers the main thread again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from kvmpc.caution import Caution
from kvmpc.host.headroom import allowed_cpus
from kvmpc.host.scheduling import CpuTimes, ThreadTimes, cpu_times, thread_times, throttled_s
from kvmpc.result.metrics import (
    CPU_VCPUS,
    LOST,
    OTHERS,
    STOLEN,
    THROTTLED,
    WAIT_READERS,
    WAIT_VCPUS,
)
from kvmpc.result.records import BUSY_LIMIT
from kvmpc.result.takers import Taker, taker_of
from kvmpc.trial.crew import Worker
from kvmpc.trial.outcome import Finding
from kvmpc.trial.rig import Rig
from kvmpc.trial.starvation import Group, Thread, lost_share, together
from kvmpc.trial.tally import switches
from kvmpc.units import format_cpu_list

__all__ = ["Competition"]


@dataclass(frozen=True, kw_only=True)
class _Moment:
    """The counters of this process and of some CPUs, and which CPUs it may use, at one time."""

    now_ns: int
    process_ns: int
    cpus: Mapping[int, CpuTimes]
    throttled_s: float | None
    allowed: frozenset[int]

    @classmethod
    def now(cls, cpus: frozenset[int]) -> Self:
        return cls(
            now_ns=time.monotonic_ns(),
            process_ns=time.process_time_ns(),
            cpus=cpu_times(cpus),
            throttled_s=throttled_s(),
            allowed=frozenset(allowed_cpus()),
        )


class Competition:
    """Counts from `begin`, before the gate, to `end`, after the last page; then ask `finding`."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._workers: list[Worker] = [*rig.vcpus, *rig.readers]

    def begin(self) -> None:
        """Take note of what was before the gate, at which all vCPUs sleep."""
        anywhere = frozenset(allowed_cpus())
        self._sets = [worker.seat.cpus or anywhere for worker in self._workers]
        self._cpus = anywhere.union(*self._sets)
        self._before = [thread_times(worker.tid) for worker in self._workers]
        self._then = _Moment.now(self._cpus)

    def end(self) -> None:
        """Take note of what was after the last page; readers are there still."""
        self._now = _Moment.now(self._cpus)
        for reader in self._rig.readers:
            reader.times = thread_times(reader.tid)

    def finding(self, *, still_s: float) -> Finding:
        """Return what was waited for and lost, and what is to be said of it.

        Call it when all threads have left. still_s: how long all of them stood still.
        """
        gate_ns = self._rig.gate.gate_ns
        last_ns = max(record.end_ns for record in self._rig.vcpu_records)
        times = [
            None if before is None or worker.times is None else worker.times.since(before)
            for worker, before in zip(self._workers, self._before, strict=True)
        ]
        threads = [
            _thread(worker, had, gate_ns, last_ns)
            for worker, had in zip(self._workers, times, strict=True)
        ]
        groups = list(self._groups(threads))
        elapsed_s = (last_ns - gate_ns) / 1e9
        share = lost_share(groups, elapsed_s=elapsed_s, still_s=still_s)
        vcpus = len(self._rig.vcpus)
        of_vcpus, of_readers = _waited_ns(times[:vcpus]), _waited_ns(times[vcpus:])
        found = {
            LOST.key: share if all(thread.known for thread in threads) else None,
            WAIT_VCPUS.key: None if of_vcpus is None else sum(of_vcpus) / 1e9,
            WAIT_READERS.key: None if of_readers is None else sum(of_readers) / 1e9,
            OTHERS.key: _sum(group.others_s for group in groups),
            STOLEN.key: _sum(None if g.idle_s is None else g.stolen_s for g in groups),
            THROTTLED.key: self._throttled_s(),
        }
        metrics = {key: value for key, value in found.items() if value is not None}
        ran_s = sum(thread.ran_s for thread in threads)
        taker = taker_of({**metrics, CPU_VCPUS.key: ran_s})
        return Finding(
            metrics=metrics,
            per_vcpu={"waited_ns": of_vcpus} if of_vcpus else {},
            per_reader={"waited_ns": of_readers} if of_readers else {},
            cautions=tuple(self._cautions(share, taker, threads, elapsed_s)),
        )

    def _throttled_s(self) -> float | None:
        then, now = self._then.throttled_s, self._now.throttled_s
        return None if then is None or now is None else max(0.0, now - then)

    def _groups(self, threads: Sequence[Thread]) -> Iterator[Group]:
        """Yield the threads that compete with each other, with what their CPUs did."""
        then, now = self._then, self._now
        process_s = (now.process_ns - then.process_ns) / 1e9
        besides_s = max(0.0, process_s - sum(thread.ran_s for thread in threads))
        for cpus, members in together(self._sets):
            idle_s = stolen_s = None
            if then.cpus.keys() >= cpus <= now.cpus.keys():
                idle_s = sum(now.cpus[cpu].idle_s - then.cpus[cpu].idle_s for cpu in cpus)
                stolen_s = sum(now.cpus[cpu].stolen_s - then.cpus[cpu].stolen_s for cpu in cpus)
            yield Group(
                cpus=len(cpus),
                threads=[threads[index] for index in members],
                window_s=(now.now_ns - then.now_ns) / 1e9,
                # Neither counter may go backwards, and both have (bugs, live migration).
                idle_s=None if idle_s is None else max(0.0, idle_s),
                stolen_s=max(0.0, stolen_s or 0.0),
                throttled_s=self._throttled_s() or 0.0,
                besides_s=besides_s,
            )

    def _cautions(
        self, share: float, taker: Taker, threads: Sequence[Thread], elapsed_s: float
    ) -> Iterator[Caution]:
        if share > BUSY_LIMIT:
            waits = [thread.wait_s for thread in threads]
            worst = self._workers[waits.index(max(waits))]
            yield Caution(
                "starved",
                f"{taker.had} {share:.0%} of the CPU time that its threads asked for: "
                f"{worst.name} waited for {max(waits):.2g} of {elapsed_s:.2g} s",
                taker.remedy,
            )
        then, now = self._then, self._now
        there, here = (
            moment.allowed & (moment.cpus.keys() or moment.allowed) for moment in (then, now)
        )
        if there != here:
            yield Caution(
                "cpus-changed",
                f"its CPUs went from {format_cpu_list(there) or 'none'} to "
                f"{format_cpu_list(here) or 'none'} during the trial",
                "keep CPUs online and the cpuset as it is, and measure again",
            )


def _thread(worker: Worker, had: ThreadTimes | None, gate_ns: int, last_ns: int) -> Thread:
    record = worker.record
    return Thread(
        # A reader goes on until it is told to stop.
        span_s=max(0, min(record.end_ns, last_ns) - gate_ns) / 1e9,
        ran_s=max(0, record.cpu_end_ns - record.cpu_start_ns) / 1e9,
        waited_s=None if had is None else had.waited_ns / 1e9,
        times_run=0 if had is None else had.times_run,
        slept=switches(record)[0],
    )


def _waited_ns(times: Sequence[ThreadTimes | None]) -> tuple[int, ...] | None:
    """Return what each waited, none of no thread; None where that is not known of each."""
    known = [each.waited_ns for each in times if each is not None]
    return tuple(known) if len(known) == len(times) else None


def _sum(values: Iterator[float | None]) -> float | None:
    """Return the sum, None where one is not known."""
    found = list(values)
    known = [value for value in found if value is not None]
    return sum(known) if len(known) == len(found) else None
