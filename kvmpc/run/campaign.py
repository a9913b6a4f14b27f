"""All trials of a plan on this host: prepared, run one by one, and gathered in one result.

Shows and writes nothing: whoever runs a campaign is told after each trial, and gets a result
however it ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from typing import Self

from kvmpc.errors import KvmpcError, UsageError
from kvmpc.host.during import HostWatch
from kvmpc.judge.host_cautions import cautions_of_host
from kvmpc.result.metrics import LOST
from kvmpc.result.records import OK, PROFILED, Point, Result, Role, Skip, TrialResult
from kvmpc.run.describe import pager_info
from kvmpc.run.estimate import Estimate
from kvmpc.run.needs import what_cannot_run
from kvmpc.run.plan import Plan
from kvmpc.run.resume import resume
from kvmpc.run.schedule import PlannedTrial, Schedule
from kvmpc.run.session import RunFacts, Session
from kvmpc.trial.profiled import run_profiled
from kvmpc.trial.trial import run_trial
from kvmpc.trial.watchdog import WATCHDOG_S
from kvmpc.units import format_wait

__all__ = ["Campaign", "Measure", "OnTrial", "measure", "planned_result"]

_LONG_S = 3600.0
"""What takes longer than this has to be confirmed."""

_MOST_REPETITIONS = 2
"""How often a starved trial is measured again, at once: so it keeps its place in the round, and
follows the same pager. Not more often: what stays busy would never let it end."""

OnTrial = Callable[[Result, float | None], None]
"""Told after each trial: the result, which ends with that trial, and the seconds that are left."""

Measure = Callable[[Session, PlannedTrial, float], TrialResult]
"""What `measure` does: a test may put something else in its place."""


def measure(session: Session, planned: PlannedTrial, watchdog_s: float = WATCHDOG_S) -> TrialResult:
    """Run one trial and return its result, failed or not. Raises: Interrupted, StuckError."""
    kvm, work, pager, interrupt = session.kvm, planned.work, planned.pager, session.interrupt
    if planned.round == PROFILED:
        trial = run_profiled(kvm, work, pager, watchdog_s=watchdog_s, interrupt=interrupt)
    else:
        trial = run_trial(
            kvm,
            work,
            pager,
            round_number=planned.round,
            watchdog_s=watchdog_s,
            interrupt=interrupt,
        )
    return replace(trial, point=planned.point)


@dataclass(frozen=True)
class Campaign:
    """The trials of a plan that are still to be run here, and its result as far as it is known."""

    session: Session
    schedule: Schedule
    result: Result

    @classmethod
    def prepare(cls, session: Session, plan: Plan, resume_path: str | None = None) -> Self:
        """Return the campaign of `plan` on this host, less what it cannot run.

        resume_path: a file whose trials are not to be measured again.
        Raises: HostError where nothing can run, or not all of a single point; UsageError for CPUs
        and NUMA nodes that are not to be had, and for a file of another plan or host;
        ResultFileError where it is no result.
        """
        skipped, refusal = what_cannot_run(session.kvm, plan, session.interrupt)
        # One point is a question that has no answer then; a sweep has others to answer.
        if refusal is not None and (
            len(plan.points) == 1 or len(skipped) == sum(len(p.pagers) for p in plan.points)
        ):
            raise refusal
        result = planned_result(plan, skipped, session.facts)
        if resume_path is not None:
            result = resume(resume_path, result)
        return cls(session, Schedule(plan, skipped, result.trials), result)

    def run(
        self, on_trial: OnTrial, *, confirmed: bool = False, measure: Measure = measure
    ) -> tuple[Result, KvmpcError | None]:
        """Run all trials; return what was measured, and what ended it early, if anything did.

        on_trial: what it raises ends the campaign, if it is a `KvmpcError`.
        confirmed: whether it may take as long as it takes. Otherwise, what takes more than an hour
        ends with a `UsageError` once every pager of the first point was run and can tell.
        """
        watch, result, stopped = HostWatch(), self.result, None
        trials = list(self.schedule.trials())
        of_first_point = takewhile(lambda planned: planned.point == trials[0].point, trials)
        ask_at = None if confirmed else len(list(of_first_point))
        try:
            for number, result, left_s in self._results(trials, measure):
                on_trial(result, left_s)
                watch.look()
                if number == ask_at and left_s is not None and left_s > _LONG_S:
                    raise UsageError(
                        "--yes", "not given", f"--yes: the rest takes {format_wait(left_s)}"
                    )
            result = replace(result, finished=True)
        except KvmpcError as error:
            stopped = error  # what was measured is shown all the same
        return replace(result, during=watch.facts()), stopped

    def _results(
        self, trials: Sequence[PlannedTrial], measure: Measure
    ) -> Iterator[tuple[int, Result, float | None]]:
        """Run `trials`; after each yield its number, the result, and the seconds the rest takes.

        A starved one is run again, and so has its number more than once.
        """
        estimate, result = Estimate(), self.result
        plan = self.schedule.plan
        for number, planned in enumerate(trials, start=1):
            for _ in range(1 + _MOST_REPETITIONS):
                begin = time.monotonic()
                trial = _judged(measure(self.session, planned, plan.watchdog_s), plan.busy_limit)
                seconds = time.monotonic() - begin
                estimate.add(planned, seconds, (trial.elapsed_ns or seconds * 1e9) / 1e9)
                result = replace(result, trials=(*result.trials, trial))
                yield number, result, estimate.left_s(trials[number:])
                if not trial.wasted:
                    break


def _judged(trial: TrialResult, busy_limit: float | None) -> TrialResult:
    """Return `trial`, marked if others had more of its CPU time than they may.

    Not of a profiled one: beside it runs perf, whose CPU time is not what it measures.
    """
    lost = trial.metrics.get(LOST.key)
    if busy_limit is None or lost is None or trial.status != OK or trial.role is Role.PROFILED:
        return trial
    return replace(trial, starved=lost > busy_limit)


def planned_result(plan: Plan, skipped: tuple[Skip, ...], facts: RunFacts) -> Result:
    """Return the result of `plan` before its first trial, with what is `skipped` on this host."""
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
        "busy_limit": plan.busy_limit,
    }
    cautions = [
        cautions_of_host(
            facts.host,
            vcpu_threads=point.work.vcpus,
            reader_threads=max(pager.reader_count(point.work) for pager in point.pagers),
            placement=point.work.placement,
        )
        for point in plan.points
    ]
    return Result(
        tool_version=facts.tool_version,
        command=facts.command,
        started=facts.started,
        host=facts.host,
        finished=False,
        options={**common, **run},
        pagers=tuple(pager.spec for pager in plan.pagers),
        labels=tuple(pager.label for pager in plan.pagers),
        pager_infos=tuple(map(pager_info, plan.pagers)),
        trials=(),
        # Said once, for the point that is hit hardest: the last of a kind has the most threads.
        warnings=tuple({caution.code: caution for each in cautions for caution in each}.values()),
        points=points if len(points) > 1 else (),
        skipped=skipped,
        spec=plan.spec,
        question=plan.question,
    )
