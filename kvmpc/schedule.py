"""Which trials a run has, in which order, and how long they take.

Interleaved: each round has one trial of each pager at each point, so that whatever drifts on the
host drifts under all of them, and ratios are taken within a round. Each round begins with the next
pager, and every other one goes backwards, so that no pager always follows the same one.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from kvmpc.config import Work
from kvmpc.errors import HostError
from kvmpc.interrupt import Interrupt
from kvmpc.kvm import Kvm
from kvmpc.limits import check_run
from kvmpc.pagers import Pager
from kvmpc.plan import Plan
from kvmpc.profiled import run_profiled
from kvmpc.results import PROFILED, Point, Result, Skip, TrialResult
from kvmpc.tilts import tilts
from kvmpc.trial import run_trial

__all__ = [
    "WARMUP_DIVISOR",
    "Clock",
    "Schedule",
    "Step",
    "measure",
    "planned_result",
    "what_cannot_run",
]

WARMUP_DIVISOR = 8
"""A warm-up touches this part of the pages."""

_VCPU_S = 0.001
"""What a vCPU adds to set-up and tear-down, about: bench/tool_cost.py."""


@dataclass(frozen=True)
class Step:
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
        return len(list(self.steps()))

    def steps(self) -> Iterator[Step]:
        """Yield every trial that is still to be run."""
        skipped = {(skip.point, skip.pager) for skip in self.skipped}
        # A count and not a set: there may be several warm-ups, and all are of round 0.
        done = Counter((trial.point, trial.pager, trial.round) for trial in self.done)
        for step in self._all_steps():
            key = (step.point, step.pager.spec, step.round)
            if done[key]:
                done[key] -= 1
            elif key[:2] not in skipped:
                yield step

    def _all_steps(self) -> Iterator[Step]:
        plan = self.plan
        for turn in range(plan.warmup + plan.rounds):
            number = max(0, turn - plan.warmup + 1)
            points = list(enumerate(plan.points))
            for index, point in reversed(points) if turn % 2 else points:
                work = point.work if number else point.work.scaled_down(WARMUP_DIVISOR)
                first = turn // 2 % len(point.pagers)
                order = [*point.pagers[first:], *point.pagers[:first]]
                for pager in reversed(order) if turn % 2 else order:
                    yield Step(number, index, pager, work)
        # Last: what profiling leaves behind (other frequencies, fuller caches) meets no rate.
        for index, point in enumerate(plan.points) if plan.profile else ():
            for pager in point.pagers:
                yield Step(PROFILED, index, pager, point.work)


def what_cannot_run(kvm: Kvm, plan: Plan) -> tuple[tuple[Skip, ...], HostError | None]:
    """Return what of `plan` this host cannot run, with the reasons, and the first refusal."""
    skipped, first = [], None
    for index, point in enumerate(plan.points):
        for pager in point.pagers:
            try:
                check_run(kvm, point.work, [pager])
            except HostError as error:
                first = first or error
                skipped.append(Skip(point=index, pager=pager.spec, reason=str(error)))
    return tuple(skipped), first


def planned_result(plan: Plan, skipped: tuple[Skip, ...], **facts: Any) -> Result:
    """Return the result of `plan` before its first trial.

    `facts`: tool_version, command, started and host of the result.
    """
    options = [asdict(point.work) for point in plan.points]
    common = {
        key: value
        for key, value in options[0].items()
        if all(other[key] == value for other in options)
    }
    points = tuple(
        Point(
            options={key: value for key, value in own.items() if key not in common},
            pagers=tuple(pager.spec for pager in point.pagers),
        )
        for own, point in zip(options, plan.points, strict=True)
    )
    run: dict[str, object] = {
        "rounds": plan.rounds,
        "warmup": plan.warmup,
        "watchdog_s": plan.watchdog_s,
        "profile": plan.profile,
    }
    tilted = [
        tilts(
            facts["host"],
            vcpu_threads=point.work.vcpus,
            reader_threads=max(pager.reader_count(point.work) for pager in point.pagers),
            placement=point.work.placement,
        )
        for point in plan.points
    ]
    return Result(
        finished=False,
        options={**common, **run},
        pagers=tuple(pager.spec for pager in plan.pagers),
        labels=tuple(pager.label for pager in plan.pagers),
        trials=(),
        # Said once, for the point that is hit hardest: the last of a kind has the most threads.
        warnings=tuple({caution.code: caution for found in tilted for caution in found}.values()),
        points=points if len(points) > 1 else (),
        skipped=skipped,
        spec=plan.spec,
        question=plan.question,
        **facts,
    )


_Kind = tuple[str, int, int]
"""Trials of one kind take equally long: pager, vCPUs, pages that each touches."""


class Clock:
    """How long trials take, learned from those that were run; of each kind, from the last one."""

    def __init__(self) -> None:
        self._seen: dict[_Kind, tuple[float, float]] = {}

    def add(self, step: Step, seconds: float, running_s: float) -> None:
        """Take note that `step` took so long, from set-up to tear-down and from the gate on."""
        self._seen[_kind(step)] = seconds - running_s, running_s

    def left_s(self, steps: Iterable[Step]) -> float | None:
        """Return an estimate of what `steps` will take, None before the first trial.

        Each is taken to cost per touched page what the trial nearest in size did, of the same pager
        where there is one; set-up and tear-down do not grow with the pages, but with the vCPUs.
        """
        if not self._seen:
            return None
        # By kind: asked after every trial, of all that are left.
        kinds = Counter(map(_kind, steps))
        return sum(count * self._estimate_s(kind) for kind, count in kinds.items())

    def _estimate_s(self, kind: _Kind) -> float:
        spec, vcpus, touched = kind
        size = vcpus * touched
        of_pager = [seen for seen in self._seen if seen[0] == spec] or list(self._seen)
        nearest = min(of_pager, key=lambda seen: abs(math.log(seen[1] * seen[2] / size)))
        around_s, running_s = self._seen[nearest]
        more_vcpus = max(0, vcpus - nearest[1])
        return running_s * size / (nearest[1] * nearest[2]) + around_s + more_vcpus * _VCPU_S


def _kind(step: Step) -> _Kind:
    return step.pager.spec, step.work.vcpus, step.work.touched_per_part


def measure(
    kvm: Kvm, schedule: Schedule, *, interrupt: Interrupt, clock: Clock | None = None
) -> Iterator[tuple[Step, TrialResult]]:
    """Run every trial and yield its result, failed or not.

    Raises: Interrupted, StuckError; results that were yielded stay good.
    """
    for step in schedule.steps():
        begin = time.monotonic()
        limits: Any = {"interrupt": interrupt, "watchdog_s": schedule.plan.watchdog_s}
        if step.round == PROFILED:
            trial = run_profiled(kvm, step.work, step.pager, **limits)
        else:
            trial = run_trial(kvm, step.work, step.pager, round_number=step.round, **limits)
        if clock is not None:
            seconds = time.monotonic() - begin
            clock.add(step, seconds, (trial.elapsed_ns or seconds * 1e9) / 1e9)
        yield step, replace(trial, point=step.point)
