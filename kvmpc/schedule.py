"""Which trials a run has, and in which order: warm-up, then rounds with every pager in each.

Interleaved, so that what drifts (temperature, frequency, other load) meets every pager; rotated
and, every other round, reversed, so that none is always the first nor always follows the same one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kvmpc.config import Work
from kvmpc.errors import UsageError
from kvmpc.interrupt import Interrupt
from kvmpc.kvm import Kvm
from kvmpc.pagers import Pager
from kvmpc.results import TrialResult
from kvmpc.trial import run_trial

__all__ = ["WARMUP_DIVISOR", "Schedule", "Step", "measure"]

WARMUP_DIVISOR = 8
"""A warm-up touches this part of the pages."""

_MAX_ROUNDS = 1000


@dataclass(frozen=True)
class Step:
    """One trial to be: round 0 is warm-up."""

    round: int
    pager: Pager
    work: Work


@dataclass(frozen=True)
class Schedule:
    """The trials of one run.

    pagers: in the order given; the first that fetches is what ratios refer to.
    rounds: measured rounds. warmup: rounds before them, each at an eighth of the work.
    """

    work: Work
    pagers: Sequence[Pager]
    rounds: int
    warmup: int

    def __post_init__(self) -> None:
        if not 1 <= self.rounds <= _MAX_ROUNDS:
            raise UsageError("--rounds", self.rounds, f"1 to {_MAX_ROUNDS}")
        if not 0 <= self.warmup <= _MAX_ROUNDS:
            raise UsageError("--warmup", self.warmup, f"0 to {_MAX_ROUNDS}")
        specs = [pager.spec for pager in self.pagers]
        for pager in self.pagers:
            if specs.count(pager.spec) > 1:
                raise UsageError("PAGER", pager.spec, "each pager once; for more trials, --rounds")
            pager.check(self.work)

    def __len__(self) -> int:
        return (self.warmup + self.rounds) * len(self.pagers)

    def steps(self) -> Iterator[Step]:
        """Yield every trial in order."""
        for turn in range(self.warmup + self.rounds):
            number = max(0, turn - self.warmup + 1)
            work = self.work if number else self.work.scaled_down(WARMUP_DIVISOR)
            first = turn // 2 % len(self.pagers)
            order = [*self.pagers[first:], *self.pagers[:first]]
            for pager in reversed(order) if turn % 2 else order:
                yield Step(number, pager, work)


def measure(
    kvm: Kvm, schedule: Schedule, *, interrupt: Interrupt, watchdog_s: float
) -> Iterator[TrialResult]:
    """Run every trial and yield its result, failed or not.

    Raises: Interrupted, StuckError; results that were yielded stay good.
    """
    for step in schedule.steps():
        yield run_trial(
            kvm,
            step.work,
            step.pager,
            round_number=step.round,
            interrupt=interrupt,
            watchdog_s=watchdog_s,
        )
