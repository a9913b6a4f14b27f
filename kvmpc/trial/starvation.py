"""Whether a trial had the CPUs that it asked for, or others took them: a starved one is no
measurement.

**The rule.** A trial is starved if the share that was *lost* is more than a limit. Lost is the CPU
time that its threads were ready to use and did not get because others had it; the share is of that
and of what they had. Threads that wait for each other, more threads than CPUs, have lost nothing.

**How much was lost** is not counted by any kernel; it follows from what is. For threads that share
n CPUs, all times from the gate to the last page: R is what they ran, W what they waited while they
could have run, both exact (schedstat). With k of them running and q waiting, others took
min(q, n - k) CPUs of them at any moment. Of its integral is known:

- *at least* W less what may be own crowding. No more wait for each other than there are threads in
  the trial beyond n; and, as k + q <= N, (nW - (N-n)R) / N. Of threads that never sleep (``exit``,
  ``none``) the first is not a bound but the loss itself, whatever the number of threads and CPUs.
- *at most* what those CPUs did for others, X: the time that was neither idle nor ours.

In between, where threads sleep and crowd (``uffd``), the part of W counts that X is of all the time
which was not ours: where CPUs idled, nobody had to wait for them. Off W goes what each switch costs
anyway, off X the tick or so for each CPU to which it is known (`kvmpc.host.scheduling`), so that a
short trial of ``uffd`` must lose more to be seen than one of a second.

To that comes what a hypervisor took while they ran, what a quota took (both as far as seen), and
time in which all stood still. Without schedstat a thread that never slept waited when it did not
run, and of the others nothing is known.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from kvmpc.host.scheduling import TICK_S

__all__ = ["Group", "Thread", "lost_share", "together"]

_WAKE_S: Final = 50e-6
"""What a thread may wait for a CPU that is idle until that is awake. Some states take longer to
leave (C6: 130 us); then what others did, X, says that nobody took it."""


_SWITCH_S: Final = 6e-6
"""What it waits each time until it is switched to, and for its own kind. Measured under a real-time
policy, whose threads others cannot keep from a CPU: 0.4 to 4 us, beside load up to 7."""


@dataclass(frozen=True, kw_only=True)
class Thread:
    """What one thread had from the gate on, in seconds.

    span_s: until it had its last page, for a reader until the trial had; ran_s: CPU time in it.
    waited_s: as `ThreadTimes.waited_ns`, None where the kernel does not say.
    times_run: how often it was put on a CPU; slept: how often it left one because it slept.
    """

    span_s: float
    ran_s: float
    waited_s: float | None
    times_run: int = 0
    slept: int = 0

    @property
    def known(self) -> bool:
        """Whether anything is known of its waiting."""
        return self.waited_s is not None or not self.slept

    @property
    def wait_s(self) -> float:
        """What it waited for a CPU; the least it can be where that is not known."""
        most = max(0.0, self.span_s - self.ran_s)
        if self.waited_s is not None:
            return min(self.waited_s, most)
        return 0.0 if self.slept else most

    def wait_beyond_s(self, wake_s: float) -> float:
        """Return what it waited more than `wake_s` for each time that it was put on a CPU."""
        return max(0.0, self.wait_s - wake_s * self.times_run) if self.slept else self.wait_s


@dataclass(frozen=True, kw_only=True)
class Group:
    """Threads that may run on the same CPUs, and what else these CPUs did meanwhile, in seconds.

    window_s: over which that was looked at, a little more than the trial; idle_s: CPU time in it
        for nobody, None where that is not known; stolen_s: for other guests of a hypervisor;
        throttled_s: in which a quota kept our threads away.
    besides_s: what other threads of this process ran in it.
    """

    cpus: int
    threads: Sequence[Thread]
    window_s: float = 0.0
    idle_s: float | None = None
    stolen_s: float = 0.0
    throttled_s: float = 0.0
    besides_s: float = 0.0

    @property
    def ran_s(self) -> float:
        """CPU time of its threads."""
        return sum(thread.ran_s for thread in self.threads)

    @property
    def others_s(self) -> float | None:
        """What its CPUs did for others, stolen time apart; None where that is not known."""
        if self.idle_s is None:
            return None
        ours_s = self.ran_s + self.besides_s + self.idle_s + self.stolen_s
        return max(0.0, self.cpus * self.window_s - ours_s)

    @property
    def lost_s(self) -> float:
        """CPU time that its threads could have used and others had; the module says how."""
        taken_s = max(min(self._least_s(), self._most_s()), self._likely_s())
        elapsed_s = max(thread.span_s for thread in self.threads)
        return min(taken_s, max(0.0, self.cpus * elapsed_s - self.ran_s)) + self._stolen_s()

    def _least_s(self) -> float:
        """Return what is left of all waiting when all is taken off that others need not be in."""
        count, cpus = len(self.threads), self.cpus
        waited_s = sum(thread.wait_beyond_s(_WAKE_S) for thread in self.threads)
        crowded_s = sum(thread.span_s for thread in self.threads) - _capacity_s(self.threads, cpus)
        least_s = waited_s - crowded_s
        if count > cpus:
            least_s = max(least_s, (cpus * waited_s - (count - cpus) * self.ran_s) / count)
        return max(0.0, least_s)

    def _most_s(self) -> float:
        if self.others_s is None:
            return math.inf
        return self.others_s + self.stolen_s + self.throttled_s + self._resolution_s()

    def _likely_s(self) -> float:
        """Return the part of all waiting that others' part of the time not ours is."""
        if self.others_s is None or self.idle_s is None:
            return 0.0
        theirs_s = max(0.0, self.others_s - self._resolution_s()) + self.throttled_s
        idle_s = max(0.0, self.idle_s - self.throttled_s)
        if theirs_s <= 0:
            return 0.0
        waited_s = sum(thread.wait_beyond_s(_SWITCH_S) for thread in self.threads)
        return min(waited_s * theirs_s / (theirs_s + idle_s), theirs_s)

    def _stolen_s(self) -> float:
        """Return what a hypervisor took of our threads: their part of what it certainly took."""
        stolen_s = max(0.0, self.stolen_s - self._resolution_s())
        busy_s = self.ran_s + (self.others_s or 0.0)
        return stolen_s * self.ran_s / busy_s if busy_s else 0.0

    def _resolution_s(self) -> float:
        """Return how far a sum of rounded counts may be off: a tick a CPU, but not all one way."""
        return TICK_S * math.sqrt(self.cpus)


def _capacity_s(threads: Sequence[Thread], cpus: int) -> float:
    """Return the CPU time that `threads` could have had on `cpus`, of which each runs on one."""
    found, before, left = 0.0, 0.0, len(threads)
    for end in sorted(thread.span_s for thread in threads):
        found += min(left, cpus) * (end - before)
        before, left = end, left - 1
    return found


def lost_share(groups: Iterable[Group], *, elapsed_s: float, still_s: float = 0.0) -> float:
    """Return the share lost of the CPU time that the threads of a trial asked for.

    still_s: how long all of them stood still in `elapsed_s`, the length of the trial.
    """
    known = list(groups)
    lost_s, ran_s = sum(group.lost_s for group in known), sum(group.ran_s for group in known)
    kept = ran_s / (ran_s + lost_s) if lost_s else 1.0
    return 1.0 - kept * (1.0 - min(1.0, still_s / elapsed_s))


def together(sets: Sequence[frozenset[int]]) -> list[tuple[frozenset[int], list[int]]]:
    """Return (CPUs, indices into `sets`) of those that compete: whose CPUs overlap, in steps."""
    found: list[tuple[frozenset[int], list[int]]] = []
    for index, cpus in enumerate(sets):
        apart = [group for group in found if not group[0] & cpus]
        joined = [group for group in found if group[0] & cpus]
        whole = cpus.union(*(group[0] for group in joined))
        found = [*apart, (whole, [*(each for group in joined for each in group[1]), index])]
    return found
