"""Which trials a run has, and in which order.

Interleaved: each round has one trial of each pager at each point, so that whatever drifts on the
host drifts under all of them, and ratios are taken within a round. Each round begins with the next
pager, and every other one goes backwards, so that no pager always follows the same one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from kvmpc.pagers import Pager
from kvmpc.result.records import PROFILED, Skip, TrialResult
from kvmpc.run.plan import Plan
from kvmpc.work.work import Work

__all__ = [
    "WARMUP_DIVISOR",
    "PlannedTrial",
    "Schedule",
    "in_turn",
]

_T = TypeVar("_T")

WARMUP_DIVISOR = 8
"""A warm-up touches this part of the pages."""


@dataclass(frozen=True)
class PlannedTrial:
    """One trial to be: round 0 is warm-up, `PROFILED` (-1) is profiled.

    `work` is the point's, scaled down for a warm-up.
    """

    round: int
    point: int
    pager: Pager
    work: Work


@dataclass(frozen=True)
class Schedule:
    """The trials of `plan`, in order, less those that are skipped or were measured before."""

    plan: Plan
    skipped: tuple[Skip, ...] = ()
    done: tuple[TrialResult, ...] = ()

    def __len__(self) -> int:
        return len(list(self.trials()))

    def trials(self) -> Iterator[PlannedTrial]:
        """Yield every trial that is still to be run."""
        skipped = {(skip.point, skip.pager) for skip in self.skipped}
        # A count and not a set: there may be several warm-ups, and all are of round 0.
        # A starved trial was not done: another may be better off. A warm-up only has to be run.
        done = Counter(
            (trial.point, trial.pager, trial.round) for trial in self.done if not trial.wasted
        )
        for planned in self._all_trials():
            key = (planned.point, planned.pager.spec, planned.round)
            if done[key]:
                done[key] -= 1
            elif key[:2] not in skipped:
                yield planned

    def _all_trials(self) -> Iterator[PlannedTrial]:
        plan = self.plan
        for turn in range(plan.warmup + plan.rounds):
            number = max(0, turn - plan.warmup + 1)
            points = list(enumerate(plan.points))
            for index, point in reversed(points) if turn % 2 else points:
                work = point.work if number else point.work.scaled_down(WARMUP_DIVISOR)
                for pager in in_turn(point.pagers, turn):
                    yield PlannedTrial(number, index, pager, work)
        # Last: what profiling leaves behind (other frequencies, fuller caches) meets no rate.
        for index, point in enumerate(plan.points) if plan.profile else ():
            for pager in point.pagers:
                yield PlannedTrial(PROFILED, index, pager, point.work)


def in_turn(items: Sequence[_T], turn: int) -> list[_T]:
    """Return `items` in the order of round `turn`, from 0 on.

    Each begins with the next one and every other goes backwards: in twice as many rounds as there
    are items, each is twice at every place.
    """
    first = turn // 2 % len(items)
    order = [*items[first:], *items[:first]]
    return order[::-1] if turn % 2 else order
