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
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain

from kvmpc.caution import Caution
from kvmpc.errors import MismatchError
from kvmpc.judge.criteria import Criteria, Judged
from kvmpc.judge.intervals import differences, shift, shift_interval
from kvmpc.judge.matching import (
    Pair,
    Unmatched,
    check_finished,
    check_hosts,
    failures,
    kernels,
    match,
)
from kvmpc.judge.resampling import holm, permutation_p, sizes_needed, smallest_p
from kvmpc.judge.rows import measured_trials, share_base
from kvmpc.judge.starved import is_busy, why_busy
from kvmpc.judge.summary import median
from kvmpc.result.metrics import FAULT_P99, Metric
from kvmpc.result.records import Result

__all__ = ["Check", "Compared", "FailedNow", "Numbers", "Status", "Unjudged", "Verdict", "check"]


class Status(StrEnum):
    """What a check says of a row, in the order in which it is said."""

    WORSE = "worse"
    FAILED = "failed"
    UNJUDGED = "unjudged"
    BETTER = "better"
    SAME = "same"

    @property
    def red(self) -> bool:
        """Whether it turns the check red."""
        return self in (Status.WORSE, Status.FAILED)


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """A metric on both sides.

    baseline, new: medians, of ratios where normalised; change: new / baseline - 1, the median over
        all pairs; change_low, change_high: its 95 % interval, their range where too few have one.
    baseline_n, new_n: rounds, or runs, on each side.
    p: that it is not worse, p_better: that it is not better, each as tested alone.
    """

    baseline: float
    new: float
    change: float
    change_low: float
    change_high: float
    baseline_n: int
    new_n: int
    p: float
    p_better: float


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A metric of a pager at a point, judged; adjusted: its p for all tests of the family."""

    pair: Pair
    metric: str
    limit: float
    numbers: Numbers
    adjusted: float
    status: Status


@dataclass(frozen=True, kw_only=True)
class Unjudged:
    """A metric of a pager at a point that was not judged, and why; numbers: what there is."""

    pair: Pair
    metric: str
    limit: float
    reason: str
    numbers: Numbers | None = None

    @property
    def status(self) -> Status:
        """Always `Status.UNJUDGED`."""
        return Status.UNJUDGED


@dataclass(frozen=True, kw_only=True)
class FailedNow:
    """A pager at a point with trials that fail now: none of its metrics has a number.

    failed: how many of its `trials`; error: why the first one did.
    """

    pair: Pair
    failed: int
    trials: int
    error: str | None

    @property
    def metric(self) -> str:
        """Empty: it is said once, of all metrics."""
        return ""

    @property
    def status(self) -> Status:
        """Always `Status.FAILED`."""
        return Status.FAILED

    @property
    def reason(self) -> str:
        """How many failed, and why."""
        return f"{self.failed} of {self.trials} trials failed: {self.error}"


Verdict = Compared | Unjudged | FailedNow


@dataclass(frozen=True, kw_only=True)
class Check:
    """All verdicts, those that turned red first; `unit` is what was permuted: round or run."""

    criteria: Criteria
    verdicts: tuple[Verdict, ...]
    unmatched: tuple[Unmatched, ...]
    cautions: tuple[Caution, ...]
    unit: str
    baseline_kernels: tuple[str, ...]
    new_kernels: tuple[str, ...]

    def having(self, status: Status) -> list[Verdict]:
        """Return the verdicts of a status."""
        return [verdict for verdict in self.verdicts if verdict.status is status]

    @property
    def red(self) -> Status | None:
        """The worst status that turned it red; None where nothing did."""
        return next((verdict.status for verdict in self.verdicts if verdict.status.red), None)


def check(
    baseline: Sequence[Result], new: Sequence[Result], criteria: Criteria | None = None
) -> Check:
    """Judge the results `new` against the results `baseline`, one or several runs on each side.

    Raises: MismatchError where hosts differ, a run did not finish, nothing matches, or nothing
    could ever be red.
    """
    criteria = criteria or Criteria()
    if not baseline or not new:
        raise MismatchError(["a side has no result"])
    cautions = check_hosts(baseline, new, criteria.allow_host)
    cautions += check_finished(baseline, new, allowed=criteria.allow_unfinished)
    unit = "run" if len(baseline) > 1 or len(new) > 1 else "round"
    pairs, unmatched = match(baseline, new)
    found = [test for pair in pairs for test in _tests(pair, criteria, by_run=unit == "run")]
    if not found:
        raise MismatchError(
            [
                "nothing matches: " + ": ".join(filter(None, [each.point, each.label, each.reason]))
                for each in unmatched
            ]
            or ["nothing matches: no row has a metric in common"]
        )
    order = list(Status)
    return Check(
        criteria=criteria,
        verdicts=tuple(
            sorted(_decide(found, criteria, unit), key=lambda verdict: order.index(verdict.status))
        ),
        unmatched=tuple(unmatched),
        cautions=tuple(dict.fromkeys(cautions)),
        unit=unit,
        baseline_kernels=kernels(baseline),
        new_kernels=kernels(new),
    )


@dataclass(frozen=True, eq=False)
class _Test:
    """A metric with numbers on both sides, which its family will judge."""

    pair: Pair
    judged: Judged
    limit: float
    numbers: Numbers

    def decided(self, alpha: float, worse: float, better: float) -> Compared:
        """Return the verdict at `alpha`; worse, better: the adjusted p of either."""
        change = -self.numbers.change * self.judged.metric.better
        status = Status.SAME
        if worse <= alpha and change > self.limit:
            status = Status.WORSE
        elif better <= alpha and -change > self.limit:
            status = Status.BETTER
        return Compared(
            pair=self.pair, metric=self.judged.name, limit=self.limit, numbers=self.numbers,
            adjusted=worse, status=status,
        )  # fmt: skip

    def too_few(self, unit: str, level: float) -> Unjudged:
        """Return the verdict where no outcome could have a p of `level`."""
        old, now = self.numbers.baseline_n, self.numbers.new_n
        reason = (
            f"{now} {unit}{'' if now == 1 else 's'} against {old} could never turn red: the "
            f"smallest p possible is {smallest_p(old, now):.2g}, and {level:.2g} is needed"
        )
        return Unjudged(
            pair=self.pair, metric=self.judged.name, limit=self.limit, reason=reason,
            numbers=self.numbers,
        )  # fmt: skip


def _tests(pair: Pair, criteria: Criteria, *, by_run: bool) -> Iterator[_Test | Verdict]:
    """Yield what is to be tested of a pair, and verdicts where there is nothing to test."""
    failed = failures(pair.new, pair.spec)
    if failed:
        trials = sum(trial.pager == pair.spec for run in pair.new for trial in run.trials)
        yield FailedNow(pair=pair, failed=len(failed), trials=trials, error=failed[0].error)
        return
    if criteria.normalise and share_base(pair.new[0]) == pair.spec:
        return  # it is the measure: always 1
    for judged, limit in criteria.judged.items():
        sides = [
            [run for run in runs if _may_have(run, judged.metric)]
            for runs in (pair.baseline, pair.new)
        ]
        problem = _not_normalised(sides, criteria)
        old, now = (
            _values(runs, pair.spec, judged.metric.key, criteria.normalise, by_run)
            for runs in sides
        )
        if not problem and old and now:
            yield _Test(pair, judged, limit, _numbers(old, now, judged.metric.better))
        elif problem or old or now or _too_busy(pair):
            reason = (
                _too_busy(pair)
                or problem
                or f"not measured in {'the result' if old else 'the baseline'}"
            )
            yield Unjudged(pair=pair, metric=judged.name, limit=limit, reason=reason)


def _may_have(run: Result, metric: Metric) -> bool:
    """Return whether a run can have a metric: with overlap, most touches are no faults."""
    return not (metric is FAULT_P99 and run.overlap)


def _too_busy(pair: Pair) -> str | None:
    """Return why all runs of a side were starved of too many rounds; None where one was not."""
    for runs, what in ((pair.new, "the result"), (pair.baseline, "the baseline")):
        if all(is_busy(run, pair.spec) for run in runs):
            return f"the host of {what} was too busy: {why_busy(runs[0], pair.spec)}"
    return None


def _not_normalised(sides: Sequence[Sequence[Result]], criteria: Criteria) -> str | None:
    """Return why a run of any side has nothing to normalise by; None where all have."""
    for run in chain(*sides) if criteria.normalise else ():
        to = share_base(run)
        if to is None:
            return "cannot be normalised: no pager in the run that does not fetch"
        if failures([run], to):
            return f"cannot be normalised: {to} failed"
        if is_busy(run, to):
            return f"cannot be normalised: {to} was starved"
    return None


def _values(
    runs: Sequence[Result], spec: str, key: str, normalise: bool, by_run: bool
) -> list[float]:
    """Return the logarithms of a metric: one a round, in order, or one a run."""
    found: list[float] = []
    for run in runs:
        if is_busy(run, spec):
            continue
        values = _by_round(run, spec, key)
        if normalise:
            whole = _by_round(run, share_base(run), key)
            values = {n: value - whole[n] for n, value in values.items() if n in whole}
        rounds = [values[number] for number in sorted(values)]
        middle = median(rounds)
        if middle is not None:
            found += [middle] if by_run else rounds
    return found


def _by_round(run: Result, spec: str | None, key: str) -> dict[int, float]:
    return {
        trial.round: math.log(trial.metrics[key])
        for trial in (measured_trials(run, spec) if spec else ())
        if trial.metrics.get(key, 0) > 0
    }


def _numbers(old: list[float], now: list[float], better: int) -> Numbers:
    """Return what logarithms of both sides say; better: +1 where more is better, else -1."""
    before, after = median(old) or 0.0, median(now) or 0.0
    found, every = shift_interval(old, now), differences(old, now)
    low, high = (found.low, found.high) if found else (every[0], every[-1])
    worse_p, better_p = (
        permutation_p([v * sign for v in old], [v * sign for v in now])
        for sign in (-better, better)
    )
    return Numbers(
        baseline=math.exp(before), new=math.exp(after),
        change=math.expm1(shift(old, now)), change_low=math.expm1(low),
        change_high=math.expm1(high), baseline_n=len(old), new_n=len(now),
        p=worse_p, p_better=better_p,
    )  # fmt: skip


def _decide(found: Sequence[_Test | Verdict], criteria: Criteria, unit: str) -> list[Verdict]:
    """Return a verdict for all that was found, in its order.

    Raises: MismatchError where all tests have too few rounds.
    """
    families: dict[str, list[_Test]] = {}
    for test in found:
        if isinstance(test, _Test):
            name = test.judged.name
            families.setdefault(name if name in criteria.alphas else "", []).append(test)
    alphas = {name: criteria.alphas.get(name, criteria.alpha) for name in families}
    decided: dict[_Test, Compared | Unjudged] = {}
    for name, family in families.items():
        decided |= _decide_family(family, alphas[name], unit)
    verdicts = [decided[test] if isinstance(test, _Test) else test for test in found]
    without = [each for each in verdicts if isinstance(each, Unjudged) and not each.numbers]
    if len(without) == len(verdicts):
        reasons = dict.fromkeys(f"{each.pair.label}: {each.reason}" for each in without)
        raise MismatchError(list(reasons), "measure again what is missing, on a host at rest")
    blind = [each for each in verdicts if isinstance(each, Unjudged) and each.numbers]
    failed = any(isinstance(each, FailedNow) for each in verdicts)
    if blind and len(blind) == len(decided) and not failed:
        needed = max(sizes_needed(alphas[name] / len(family)) for name, family in families.items())
        option = "" if unit == "run" else f" (--rounds {needed})"
        raise MismatchError(
            [blind[0].reason],
            f"measure {needed} {unit}s or more on each side{option}, judge fewer rows, or raise "
            "--alpha",
        )
    return verdicts


def _decide_family(
    family: Sequence[_Test], alpha: float, unit: str
) -> dict[_Test, Compared | Unjudged]:
    """Return the verdict of each test of a family, whose p are adjusted for each other."""
    level = alpha / len(family)
    decided: dict[_Test, Compared | Unjudged] = {}
    seeing: list[_Test] = []
    for test in family:
        if smallest_p(test.numbers.baseline_n, test.numbers.new_n) <= level:
            seeing.append(test)
        else:
            decided[test] = test.too_few(unit, level)
    worse = holm([test.numbers.p for test in seeing])
    better = holm([test.numbers.p_better for test in seeing])
    for test, bad, good in zip(seeing, worse, better, strict=True):
        decided[test] = test.decided(alpha, bad, good)
    return decided
