"""What two sides say of the host itself: how fast it ran a loop that the kernel has no part in.

Each trial has it (`kvmpc.result.metrics.HOST_SPEED`). Divided out of a trial's own values it takes
with it what the whole host lost or won between two runs: its frequency, a neighbour in its caches.
The kernel's page faults are not in it, so that no change of theirs can hide there, and no pager is
measured by another. What is in it: a kernel that slows the CPU itself slows this loop as well.

Pure functions of results. Fails with MismatchError.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from kvmpc.caution import Caution
from kvmpc.errors import MismatchError
from kvmpc.judge.evidence import TwoSamples
from kvmpc.judge.intervals import CONFIDENCE
from kvmpc.judge.summary import median
from kvmpc.result.metrics import HOST_SPEED
from kvmpc.result.records import OK, Result, Role, TrialResult

__all__ = ["by_round", "check_known", "host_cautions", "reference"]

_MUCH: Final = 0.02
"""The loop repeats to less than this on a host that does not change."""


def by_round(run: Result) -> dict[int, float]:
    """Return the logarithm of the host's speed in each round of a run, where anybody measured it.

    The middle of all trials of the round and of those before and after it: what lasts for two
    milliseconds of one trial, as the loop does, is no speed of the host.
    """
    known: dict[int, list[float]] = {}
    for trial in _measured(run):
        speed = _log_speed(trial)
        if speed is not None:
            known.setdefault(trial.round, []).append(speed)
    return {
        number: median(
            [speed for at in range(number - 1, number + 2) for speed in known.get(at, ())]
        )
        or 0.0
        for number in known
    }


def _log_speed(trial: TrialResult) -> float | None:
    speed = trial.metrics.get(HOST_SPEED.key, 0.0)
    return math.log(speed) if speed > 0 else None


def check_known(baseline: Sequence[Result], new: Sequence[Result]) -> None:
    """Refuse to normalise by what was not measured. Raises: MismatchError."""
    lacking = [
        f"cannot be normalised: {count} of {len(trials)} trials of {side} do not have the host's "
        f"own speed ({HOST_SPEED.key}), as those of an older kvmpc"
        for side, runs in (("the baseline", baseline), ("the result", new))
        if (trials := [trial for run in runs for trial in _measured(run)])
        and (count := sum(_log_speed(trial) is None for trial in trials))
    ]
    if lacking:
        raise MismatchError(
            lacking, "measure that side again with this kvmpc, or check without --normalise"
        )


def reference(runs: Sequence[Result]) -> float:
    """Return the middle of the logarithms of the host's speed, to which values are brought."""
    return median(_speeds(runs)) or 0.0


def host_cautions(
    baseline: Sequence[Result], new: Sequence[Result], *, by_run: bool, divided: bool
) -> Iterator[Caution]:
    """Yield what to know where the host itself is not as fast as it was; divided: it is taken out.

    by_run: whether runs are compared, each as one value, or rounds.
    """
    sides = [
        [middle for run in runs for middle in _middles(run, by_run=by_run)]
        for runs in (baseline, new)
    ]
    if not all(sides):
        return
    evidence = TwoSamples(*sides)
    interval = evidence.interval(CONFIDENCE)
    change = math.expm1(min(evidence.shift, 700.0))
    if interval is None or abs(change) < _MUCH or interval.low <= 0 <= interval.high:
        return
    text = (
        f"the host itself is {abs(change):.1%} {'faster' if change > 0 else 'slower'} than in the "
        "baseline, by a loop that the kernel has no part in"
    )
    if divided:
        yield Caution(
            "host-speed",
            f"{text}: that is divided out",
            "make sure that it is not the kernel that sets the CPUs' speed otherwise",
        )
    else:
        yield Caution(
            "host-speed",
            text,
            "find out why (frequency, heat, a neighbour), or divide it out (--normalise)",
        )


def _measured(run: Result) -> list[TrialResult]:
    """Return the trials that count, of whatever pager."""
    return [
        trial
        for trial in run.trials
        if trial.role is Role.MEASURED and trial.status == OK and not trial.starved
    ]


def _speeds(runs: Sequence[Result]) -> list[float]:
    found = (_log_speed(trial) for run in runs for trial in _measured(run))
    return [speed for speed in found if speed is not None]


def _middles(run: Result, *, by_run: bool) -> list[float]:
    """Return the speed of each round, or of the run."""
    by_round: dict[int, list[float]] = {}
    for trial in _measured(run):
        speed = _log_speed(trial)
        if speed is not None:
            by_round.setdefault(0 if by_run else trial.round, []).append(speed)
    return [median(speeds) or 0.0 for _, speeds in sorted(by_round.items())]
