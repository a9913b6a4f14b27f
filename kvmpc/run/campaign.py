"""Measure a plan on this host: its result before the first trial, and trial by trial."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from kvmpc.judge.host_cautions import cautions_of_host
from kvmpc.kernel.kvm import Kvm
from kvmpc.result.records import PROFILED, Point, Result, Skip, TrialResult
from kvmpc.run.describe import pager_info
from kvmpc.run.estimate import Clock
from kvmpc.run.plan import Plan
from kvmpc.run.schedule import Schedule, Step
from kvmpc.trial.profiled import run_profiled
from kvmpc.trial.signals import Interrupt
from kvmpc.trial.trial import run_trial

__all__ = ["measure", "planned_result"]


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
    cautions = [
        cautions_of_host(
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
        pager_infos=tuple(map(pager_info, plan.pagers)),
        trials=(),
        # Said once, for the point that is hit hardest: the last of a kind has the most threads.
        warnings=tuple({caution.code: caution for found in cautions for caution in found}.values()),
        points=points if len(points) > 1 else (),
        skipped=skipped,
        spec=plan.spec,
        question=plan.question,
        **facts,
    )


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
