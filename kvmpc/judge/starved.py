"""Which rows of a result were starved of CPU: others had it, so that their trials measured those.

A starved trial (`TrialResult.starved`) counts for nothing. Few that are left are no sample of the
rounds, but of the moments at which the others let go: a row with less than half of its rounds is
*busy*, and has no number. Pure functions of a result of one point.
"""

from __future__ import annotations

from kvmpc.errors import HostError
from kvmpc.result.metrics import LOST
from kvmpc.result.points import named_points
from kvmpc.result.records import FAILED, Result, Role, TrialResult
from kvmpc.result.takers import taker_of

__all__ = ["host_too_busy", "is_busy", "rounds_left", "starved_trials", "why_busy"]


def starved_trials(result: Result, spec: str) -> list[TrialResult]:
    """Return the starved trials of `spec` that would have counted."""
    return [trial for trial in result.trials if trial.pager == spec and trial.wasted]


def rounds_left(result: Result, spec: str) -> tuple[int, int]:
    """Return in how many rounds a trial of `spec` was not starved, and in how many one was run."""
    trials = _measured(result, spec)
    good = {trial.round for trial in trials if not trial.starved}
    return len(good), len({trial.round for trial in trials})


def is_busy(result: Result, spec: str) -> bool:
    """Return whether so many of its rounds were starved that the others say nothing."""
    left, tried = rounds_left(result, spec)
    return 2 * left < tried and bool(starved_trials(result, spec))


def why_busy(result: Result, spec: str) -> str:
    """Return why a row has no number, or fewer rounds than were run; "" where all is well."""
    starved = starved_trials(result, spec)
    if not starved:
        return ""
    left, tried = rounds_left(result, spec)
    worst = _worst(starved)
    return (
        f"{taker_of(worst.metrics).had} up to {_lost(worst):.0%} of the CPU time that its threads "
        f"asked for in {len(starved)} of {len(_measured(result, spec))} trials, {left} of {tried} "
        "rounds are left"
    )


def host_too_busy(result: Result) -> HostError | None:
    """Return what to say of a run that has busy rows; None where it has none.

    `result` may be of several points.
    """
    busy = [
        (_worst(starved_trials(point, spec)), point.pager(spec).label, name)
        for name, point in named_points(result)
        for spec in dict.fromkeys(point.pagers)
        if is_busy(point, spec)
    ]
    if not busy:
        return None
    trial, label, name = max(busy, key=lambda row: _lost(row[0]))
    taker = taker_of(trial.metrics)
    worst = f"{label} at {name}" if name else label
    more = f" (the worst of {len(busy)} such rows)" if len(busy) > 1 else ""
    limit = result.options.get("busy_limit")
    allowed = f"; {limit * 100:g}% is allowed" if isinstance(limit, int | float) else ""
    return HostError(
        f"this host is too busy to {'compare' if len(result.pagers) > 1 else 'measure'}",
        f"{taker.had} up to {_lost(trial):.0%} of the CPU time of {worst}{more}{allowed}",
        taker.remedy,
    )


def _worst(trials: list[TrialResult]) -> TrialResult:
    return max(trials, key=_lost)


def _lost(trial: TrialResult) -> float:
    return trial.metrics.get(LOST.key, 0.0)


def _measured(result: Result, spec: str) -> list[TrialResult]:
    return [
        trial
        for trial in result.trials
        if trial.pager == spec and trial.role is Role.MEASURED and trial.status != FAILED
    ]
