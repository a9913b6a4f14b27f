"""Whether a result is worse than a baseline: matching rows, a test, a limit, a verdict for each.

**What is compared.** The same pager (and, for ``exit``, the same provider) at the same point on the
same kind of host; what has no partner is listed, and nothing matching at all is an error.

**When a row is red.** Both must hold: the change is worse than its limit, and a permutation test
says that chance does not explain it. The limit alone would be crossed by noise, the test alone by
changes too small to matter. The test is one-sided, since only "worse" turns a check red, and a
two-sided one would need more rounds to see it. `alpha` is the probability that the *whole* check
turns red although nothing changed (Holm-Bonferroni over all its tests): a lab looks at the exit
code, not at rows, and with a level for each row a check of fifty rows would cry wolf every week.

**What is permuted.** With one result on each side, rounds. With several on either side, runs: each
counts as one value, the median of its rounds, because rounds of one run are more alike than runs
are, and the test would take the difference of two runs for that of two kernels.

A test that could never come out red, for it has too few rounds, does not pass: it is *unjudged*; if
that is all of them, the check is refused. Pure functions of results. Fails with MismatchError.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from kvmpc.caution import Caution
from kvmpc.errors import MismatchError
from kvmpc.judge.criteria import JUDGED, Criteria, Judged
from kvmpc.judge.matching import Row, Unmatched, check_hosts, failures, kernels, match, row_cautions
from kvmpc.judge.resampling import change_interval, holm, permutation_p, sizes_needed, smallest_p
from kvmpc.judge.rows import measured_trials, share_base
from kvmpc.judge.summary import median
from kvmpc.result.metrics import FAULT_P99
from kvmpc.result.records import Result

__all__ = ["BETTER", "FAILED_NOW", "SAME", "UNJUDGED", "WORSE", "Check", "Verdict", "check"]

WORSE: Final = "worse"
FAILED_NOW: Final = "failed"
BETTER: Final = "better"
SAME: Final = "same"
UNJUDGED: Final = "unjudged"

_ORDER: Final = (WORSE, FAILED_NOW, UNJUDGED, BETTER, SAME)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One test: a metric of a pager at a point.

    point: what it is called, empty where there is only one. metric: empty where the pager failed.
    status: ``worse``, ``failed`` (the pager has failed trials now), ``unjudged``, ``better``,
        ``same``.
    baseline, new: medians, of ratios where normalised; change: new / baseline - 1, of the medians
        of logarithms; change_low, change_high: its 95 % interval.
    p: as tested; adjusted: for all tests of the family, to be compared with alpha.
    baseline_n, new_n: rounds, or runs, on each side.
    reason: why there is no number, or why it is unjudged.
    cautions: what to know of this row.
    """

    point: str
    pager: str
    label: str
    metric: str
    status: str
    limit: float
    baseline: float | None = None
    new: float | None = None
    change: float | None = None
    change_low: float | None = None
    change_high: float | None = None
    p: float | None = None
    adjusted: float | None = None
    baseline_n: int = 0
    new_n: int = 0
    reason: str | None = None
    cautions: tuple[Caution, ...] = ()

    @property
    def red(self) -> bool:
        """Whether it turns the check red."""
        return self.status in (WORSE, FAILED_NOW)


@dataclass(frozen=True, kw_only=True)
class Check:
    """All verdicts, those that turned red first; `unit` is what was permuted."""

    criteria: Criteria
    verdicts: tuple[Verdict, ...]
    unmatched: tuple[Unmatched, ...]
    cautions: tuple[Caution, ...]
    unit: str
    baseline_kernels: tuple[str, ...]
    new_kernels: tuple[str, ...]

    def having(self, status: str) -> list[Verdict]:
        """Return the verdicts of a status."""
        return [verdict for verdict in self.verdicts if verdict.status == status]


def check(
    baseline: Sequence[Result], new: Sequence[Result], criteria: Criteria | None = None
) -> Check:
    """Judge the results `new` against the results `baseline`, one or several runs on each side.

    Raises: MismatchError where hosts differ, nothing matches, or nothing could ever be red.
    """
    criteria = criteria or Criteria()
    if not baseline or not new:
        raise MismatchError(["a side has no result"])
    cautions = check_hosts(baseline, new, criteria.allow_host)
    unit = "run" if len(baseline) > 1 or len(new) > 1 else "round"
    rows, unmatched = match(baseline, new)
    tests = [test for row in rows for test in _tests(row, criteria, by_run=unit == "run")]
    if not tests:
        raise MismatchError(
            [
                "nothing matches: " + ": ".join(filter(None, [each.point, each.label, each.reason]))
                for each in unmatched
            ]
            or ["nothing matches: no row has a metric in common"]
        )
    verdicts = _decide(tests, criteria, unit)
    return Check(
        criteria=criteria,
        verdicts=tuple(sorted(verdicts, key=lambda verdict: _ORDER.index(verdict.status))),
        unmatched=tuple(unmatched),
        cautions=tuple(dict.fromkeys(cautions)),
        unit=unit,
        baseline_kernels=kernels(baseline),
        new_kernels=kernels(new),
    )


@dataclass(frozen=True)
class _Test:
    """A verdict to be; p_worse and p_better are None where there was nothing to test."""

    verdict: Verdict
    p_worse: float | None = None
    p_better: float | None = None


def _tests(row: Row, criteria: Criteria, *, by_run: bool) -> Iterator[_Test]:
    """Yield the tests of a row, not yet decided."""
    failed = failures(row.new, row.spec)
    cautions = tuple(row_cautions(row))
    for metric, limit in criteria.judged.items():
        verdict = Verdict(
            point=row.point, pager=row.spec, label=row.label, metric=metric.name, status=UNJUDGED,
            limit=limit, cautions=cautions,
        )  # fmt: skip
        if failed:
            total = sum(t.pager == row.spec for run in row.new for t in run.trials)
            reason = f"{len(failed)} of {total} trials failed: {failed[0].error}"
            yield _Test(replace(verdict, status=FAILED_NOW, metric="", reason=reason))
            return  # once a row: none of its metrics has a number
        if criteria.normalise and share_base(row.new[0]) == row.spec:
            continue  # it is the measure: always 1
        try:
            old, now = (
                _values(side, row.spec, metric, normalise=criteria.normalise, by_run=by_run)
                for side in (row.baseline, row.new)
            )
        except _NoMeasure as error:
            yield _Test(replace(verdict, reason=f"cannot be normalised: {error}"))
            continue
        if old and now:
            yield _compared(verdict, metric, old, now)
        elif old or now:
            where = "the result" if old else "the baseline"
            yield _Test(replace(verdict, reason=f"not measured in {where}"))


class _NoMeasure(Exception):
    """A run has nothing to normalise by."""


def _values(
    runs: Sequence[Result], spec: str, metric: Judged, *, normalise: bool, by_run: bool
) -> list[float]:
    """Return the logarithms of a metric: one a round, in order, or one a run."""
    found: list[float] = []
    for run in runs:
        if metric.metric is FAULT_P99 and run.options.get("overlap"):
            continue  # most touches are no faults
        values = _by_round(run, spec, metric.metric.key)
        if normalise:
            to = share_base(run)
            if to is None:
                raise _NoMeasure("no pager in the run that does not fetch")
            if failures([run], to):
                raise _NoMeasure(f"{to} failed")
            whole = _by_round(run, to, metric.metric.key)
            values = {n: value - whole[n] for n, value in values.items() if n in whole}
        rounds = [values[number] for number in sorted(values)]
        middle = median(rounds)
        if middle is not None:
            found += [middle] if by_run else rounds
    return found


def _by_round(run: Result, spec: str, key: str) -> dict[int, float]:
    return {
        trial.round: math.log(trial.metrics[key])
        for trial in measured_trials(run, spec)
        if trial.metrics.get(key, 0) > 0
    }


def _compared(verdict: Verdict, metric: Judged, old: list[float], now: list[float]) -> _Test:
    before, after = median(old), median(now)
    if before is None or after is None:
        raise ValueError("a side without values cannot be compared")
    low, high = change_interval(old, now)
    measured = replace(
        verdict,
        status=SAME,
        baseline=math.exp(before),
        new=math.exp(after),
        change=math.expm1(after - before),
        change_low=math.expm1(low),
        change_high=math.expm1(high),
        baseline_n=len(old),
        new_n=len(now),
    )
    worse, better = (
        permutation_p([v * sign for v in old], [v * sign for v in now])
        for sign in (-metric.metric.better, metric.metric.better)
    )
    return _Test(replace(measured, p=worse), worse, better)


def _decide(tests: Sequence[_Test], criteria: Criteria, unit: str) -> list[Verdict]:
    """Adjust every p for its family, and say what each row is.

    Raises: MismatchError where all tests have too few rounds.
    """
    families: dict[str, list[int]] = {}
    for index, test in enumerate(tests):
        if test.p_worse is not None:
            own = test.verdict.metric if test.verdict.metric in criteria.alphas else ""
            families.setdefault(own, []).append(index)
    decided = [test.verdict for test in tests]
    needed = 0
    for family, members in families.items():
        alpha = criteria.alphas.get(family, criteria.alpha)
        level = alpha / len(members)
        seeing = []
        for index in members:
            verdict = decided[index]
            if smallest_p(verdict.baseline_n, verdict.new_n) <= level:
                seeing.append(index)
                continue
            needed = max(needed, sizes_needed(level))
            decided[index] = replace(
                verdict, status=UNJUDGED, reason=_too_few(verdict, unit, level)
            )
        worse = holm([tests[index].p_worse or 0.0 for index in seeing])
        better = holm([tests[index].p_better or 0.0 for index in seeing])
        for index, bad, good in zip(seeing, worse, better, strict=True):
            decided[index] = _judge(decided[index], alpha, bad, good)
    blind = [verdict for verdict in decided if verdict.status == UNJUDGED and verdict.p is not None]
    if blind and len(blind) == sum(map(len, families.values())):
        if any(verdict.status == FAILED_NOW for verdict in decided):
            return decided
        option = "" if unit == "run" else f" (--rounds {needed})"
        raise MismatchError(
            [str(blind[0].reason)],
            f"measure {needed} {unit}s or more on each side{option}, judge fewer rows, or raise "
            "--alpha",
        )
    return decided


def _judge(verdict: Verdict, alpha: float, bad: float, good: float) -> Verdict:
    change = (verdict.change or 0) * -JUDGED[verdict.metric].metric.better
    status = SAME
    if bad <= alpha and change > verdict.limit:
        status = WORSE
    elif good <= alpha and -change > verdict.limit:
        status = BETTER
    return replace(verdict, status=status, adjusted=bad)


def _too_few(verdict: Verdict, unit: str, level: float) -> str:
    old, now = verdict.baseline_n, verdict.new_n
    return (
        f"{now} {unit}{'' if now == 1 else 's'} against {old} could never turn red: the smallest "
        f"p possible is {smallest_p(old, now):.2g}, and {level:.2g} is needed"
    )
