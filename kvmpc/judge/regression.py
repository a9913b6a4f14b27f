"""Whether a result is worse than a baseline: matching rows, a test, a limit, a verdict for each.

**What is compared.** The same pager (and, for ``exit``, the same provider) at the same point on the
same kind of host. What the baseline has measured and the result has not is *missing*, and red: that
it can no longer be measured may be what the kernel broke. What only the result has is listed, and
nothing matching at all is an error.

**Worse** (and better, the other way round) takes two things: chance does not explain the change,
and as measured it is beyond its limit. The limit alone would be crossed by noise, the test alone by
changes too small to matter. `alpha` is the probability that the *whole* check turns red although
nothing changed (Holm-Bonferroni over all its tests, one-sided, since only "worse" turns it red): a
lab looks at the exit code, not at rows, and with a level for each row a check of fifty rows would
cry wolf every week. It is no more than that: a change just within its limit, where noise is low, is
measured beyond it every other time.

**Same** is a claim as well: the 95 % interval of the change lies inside the limit. So a row that
is worse by more passes for the same once in forty at most, and so does a check with such a row,
however many others it has, since all of them have to be the same (Berger's intersection-union test:
no adjustment for their number).

**Unsure** is everything else. Each row says what it `sees`: the smallest change for the worse that
its noise would have let turn red, four times in five where it is normal.

**Normalised**, each value is brought to one speed of the host, by a loop beside its trial that the
kernel's page faults are not in. `none` is a row like any other: divided by it, a change that hits
every fault would vanish, and one of `none` alone would be laid to all pagers.

**What is taken for alike.** With one result on each side, rounds. With several on either side,
runs: each counts as one value, the median of its rounds, because rounds of one run are more alike
than runs are, and the test would take the difference of two runs for that of two kernels. Of two
sides that were measured in turn, pairs of blocks, each block the median of its rounds; there, facts
of the host may differ, for they are what is in question.

A test that could never come out red, for it has too few rounds, does not pass: it is *unjudged*; if
that is all of them, the check is refused. Pure functions of results. Fails with MismatchError.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from kvmpc.caution import Caution
from kvmpc.errors import MismatchError, UsageError
from kvmpc.judge import host_speed
from kvmpc.judge.criteria import Criteria, Judged
from kvmpc.judge.evidence import Evidence, TwoSamples
from kvmpc.judge.intervals import CONFIDENCE, Interval
from kvmpc.judge.matching import (
    Pair,
    Unmatched,
    check_finished,
    check_hosts,
    failures,
    kernels,
    match,
)
from kvmpc.judge.paired import Pairs, pairs_needed
from kvmpc.judge.resampling import holm, sizes_needed
from kvmpc.judge.rows import measured_trials
from kvmpc.judge.same_host import HostDifference
from kvmpc.judge.starved import is_busy, why_busy
from kvmpc.judge.summary import median
from kvmpc.judge.turns import MOVED, by_block, facts_that_differ, in_turn
from kvmpc.judge.verdicts import (
    Compared,
    FailedNow,
    Missing,
    Numbers,
    Status,
    Unjudged,
    Verdict,
)
from kvmpc.result.metrics import FAULT_P99, Metric
from kvmpc.result.records import Result

__all__ = ["Check", "check"]

_LEAST_LEVEL: Final = (1 - CONFIDENCE) / 2
"""One-sided: that of the interval shown, without which nothing is judged."""

_NOISE: Final = 0.9
"""Confidence of the interval by half of which a change may be measured too small and still be
seen. Chosen by simulation (bench/check_power.py): with normal noise it is found four times in five
or more often, with heavy tails two times in three."""

_MOST: Final = 700.0
"""Above it exp() has no value: numbers that are absurd, but have to be judged."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """All verdicts, those that turned red first; `unit` is what was compared: round, run or pair.

    baseline, new: the runs of either side.
    differing: of two sides that were measured in turn, the facts in which they differ.
    """

    criteria: Criteria
    verdicts: tuple[Verdict, ...]
    unmatched: tuple[Unmatched, ...]
    cautions: tuple[Caution, ...]
    unit: str
    baseline: tuple[Result, ...]
    new: tuple[Result, ...]
    differing: tuple[HostDifference, ...] = ()

    @property
    def baseline_kernels(self) -> tuple[str, ...]:
        """The releases of the baseline, each once."""
        return kernels(self.baseline)

    @property
    def new_kernels(self) -> tuple[str, ...]:
        """The releases of the result, each once."""
        return kernels(self.new)

    def having(self, status: Status) -> list[Verdict]:
        """Return the verdicts of a status."""
        return [verdict for verdict in self.verdicts if verdict.status is status]

    @property
    def status(self) -> Status | None:
        """What it comes to: the worst that turned it red, or else `Status.UNSURE`; None: it is ok.

        A regression that is known counts for more than what else could not be told.
        """
        found = {verdict.status for verdict in self.verdicts}
        red = next((status for status in Status if status in found and status.red), None)
        return red or (Status.UNSURE if any(status.open for status in found) else None)


def check(
    baseline: Sequence[Result], new: Sequence[Result], criteria: Criteria | None = None
) -> Check:
    """Judge the results `new` against the results `baseline`, one or several runs on each side.

    Raises: MismatchError where hosts differ, a run did not finish, nothing matches, or nothing
    could ever be red; UsageError where what may be missing is nowhere.
    """
    criteria = criteria or Criteria()
    if not baseline or not new:
        raise MismatchError(["a side has no result"])
    turned = in_turn(baseline, new)
    cautions = [] if turned else check_hosts(baseline, new, criteria.allow_host)
    cautions += check_finished(baseline, new, allowed=criteria.allow_unfinished)
    cautions += [w for run in (*baseline, *new) for w in run.warnings if w.code == MOVED]
    if criteria.normalise:
        host_speed.check_known(baseline, new)
    unit = "pair" if turned else "run" if len(baseline) > 1 or len(new) > 1 else "round"
    cautions += host_speed.host_cautions(
        baseline, new, by_run=unit == "run", divided=criteria.normalise
    )
    speed = host_speed.reference(baseline) if criteria.normalise else None
    pairs, unmatched = match(baseline, new)
    _check_names(criteria.allow_missing, [*pairs, *chain(*(each.lost for each in unmatched))])
    found = [test for pair in pairs for test in _tests(pair, criteria, unit, speed)]
    measured = any(measured_trials(run, spec) for run in new for spec in run.pagers)
    if not found and not (measured and any(each.label and each.lost for each in unmatched)):
        raise MismatchError(
            [
                "nothing matches: " + ": ".join(filter(None, [each.point, each.label, each.reason]))
                for each in unmatched
            ]
            or ["nothing matches: no row has a metric in common"]
        )
    found, listed = _without_allowed(found, unmatched, criteria.allow_missing)
    verdicts = _decide(found, criteria, unit)
    order = list(Status)
    return Check(
        criteria=criteria,
        verdicts=tuple(sorted(verdicts, key=lambda verdict: order.index(verdict.status))),
        unmatched=tuple(listed),
        cautions=tuple(dict.fromkeys(cautions)),
        unit=unit,
        baseline=tuple(baseline),
        new=tuple(new),
        differing=tuple(facts_that_differ(baseline[0].host, new[0].host)) if turned else (),
    )


def _names(pair: Pair) -> set[str]:
    """Return what a row may be called where it is allowed to be missing."""
    return {pair.spec, pair.label, pair.point, f"{pair.point}: {pair.label}"} - {""}


def _check_names(allowed: Sequence[str], pairs: Sequence[Pair]) -> None:
    """Refuse a name that nothing has, which would allow nothing. Raises: UsageError."""
    known = dict.fromkeys(name for pair in pairs for name in (pair.label, pair.point) if name)
    for name in allowed:
        if not any(name in _names(pair) for pair in pairs):
            raise UsageError("--allow-missing", name, f"of the baseline: {', '.join(known)}")


def _without_allowed(
    found: Sequence[_Test | Verdict], unmatched: Sequence[Unmatched], allowed: Sequence[str]
) -> tuple[list[_Test | Verdict], list[Unmatched]]:
    """Return what to judge, with what is missing and may not be, and what is only to be listed."""
    kept: list[_Test | Verdict] = []
    listed: list[Unmatched] = []
    for each in unmatched:
        missing = [pair for pair in each.lost if not _names(pair) & {*allowed}]
        kept += [Missing(pair=pair, reason=each.reason) for pair in missing]
        if len(missing) < max(1, len(each.lost)):
            listed.append(each)
    for test in found:
        if isinstance(test, FailedNow | Missing) and _names(test.pair) & {*allowed}:
            reason = f"{test.metric} {test.reason}".strip()
            listed.append(
                Unmatched(side="new", point=test.pair.point, label=test.pair.label, reason=reason)
            )
        else:
            kept.append(test)
    return kept, listed


@dataclass(frozen=True, eq=False, kw_only=True)
class _Test:
    """A metric with values on both sides, which its family will judge.

    baseline, new: medians; evidence: of the logarithms of all values.
    """

    pair: Pair
    judged: Judged
    limit: float
    baseline: float
    new: float
    evidence: Evidence

    def can_judge(self, level: float) -> bool:
        """Return whether so many values could have a p of `level`, and an interval."""
        return self.evidence.smallest_p <= min(level, _LEAST_LEVEL)

    def numbers(self, level: float) -> Numbers:
        """Return what there is to say of it; level: that of one test of its family."""
        shown = self.evidence.interval(CONFIDENCE)
        rounding = self.judged.rounding
        old, now = self.evidence.sizes
        better = self.judged.metric.better
        return Numbers(
            baseline=self.baseline, new=self.new, change=_change(self.evidence.shift),
            change_low=_change(shown.low - rounding) if shown else None,
            change_high=_change(shown.high + rounding) if shown else None,
            sees=self._sees(level, shown), baseline_n=old, new_n=now,
            p_worse=self.evidence.p(-better), p_better=self.evidence.p(better),
        )  # fmt: skip

    def _sees(self, level: float, shown: Interval | None) -> float | None:
        """Return the smallest change for the worse that is found four times in five.

        It must be measured beyond the limit, and so far from 0 that neither the family's interval
        nor the one shown reaches it; and half of all times less is measured than there is.
        """
        of_family, noise = (
            self.evidence.interval(confidence) for confidence in (1 - 2 * level, _NOISE)
        )
        limit = -self.judged.metric.better * self.limit
        if of_family is None or shown is None or noise is None or limit <= -1:
            return None
        far = max(
            abs(math.log1p(limit)), of_family.width / 2, shown.width / 2 + self.judged.rounding
        )
        needed = far + noise.width / 2
        return _change(-self.judged.metric.better * needed)

    def decided(self, alpha: float, found: Numbers, worse: float, better: float) -> Compared:
        """Return the verdict on `found` at `alpha`; worse, better: the adjusted p of either."""
        sign, ends = self.judged.metric.better, (found.change_low, found.change_high)
        low, high = sorted(sign * end for end in ends if end is not None)
        status = Status.UNSURE
        if worse <= alpha and sign * found.change < -self.limit and high < 0:
            status = Status.WORSE
        elif better <= alpha and sign * found.change > self.limit and low > 0:
            status = Status.BETTER
        elif -self.limit <= low and high <= self.limit:
            status = Status.SAME
        return Compared(
            pair=self.pair, metric=self.judged.name, limit=self.limit, numbers=found,
            adjusted_worse=worse, adjusted_better=better, status=status,
        )  # fmt: skip

    def too_few(self, unit: str, level: float) -> Unjudged:
        """Return the verdict where no outcome could have a p of `level`."""
        old, now = self.evidence.sizes
        against = "" if unit == "pair" else f" against {old}"
        reason = (
            f"{now} {unit}{'' if now == 1 else 's'}{against} could never turn red: the "
            f"smallest p possible is {self.evidence.smallest_p:.2g}, and "
            f"{min(level, _LEAST_LEVEL):.2g} is needed"
        )
        return Unjudged(
            pair=self.pair, metric=self.judged.name, limit=self.limit, reason=reason,
            numbers=self.numbers(level),
        )  # fmt: skip


def _change(shift: float) -> float:
    """Return a shift of logarithms as a share."""
    return math.expm1(min(shift, _MOST))


def _tests(
    pair: Pair, criteria: Criteria, unit: str, speed: float | None
) -> Iterator[_Test | Verdict]:
    """Yield what is to be tested of a pair, and verdicts where there is nothing to test.

    speed: logarithm of the host's speed that values are brought to; None = they stay as they are.
    """
    failed = failures(pair.new, pair.spec)
    if failed:
        trials = sum(trial.pager == pair.spec for run in pair.new for trial in run.trials)
        yield FailedNow(pair=pair, failed=len(failed), trials=trials, error=failed[0].error)
        return
    for judged, limit in criteria.judged.items():
        old, now = (
            _values(
                [run for run in runs if _may_have(run, judged.metric)],
                pair.spec, judged.metric, unit, speed,
            )
            for runs in (pair.baseline, pair.new)
        )  # fmt: skip
        problem = _too_busy(pair)
        if unit == "pair" and old and now:
            both = old.keys() & now.keys()
            problem = problem or (None if both else "no pair has it on both sides")
            old, now = ({at: side[at] for at in side if at in both} for side in (old, now))
        if old and now:
            before, after = list(old.values()), list(now.values())
            yield _Test(
                pair=pair, judged=judged, limit=limit, baseline=_exp(median(before) or 0.0),
                new=_exp(median(after) or 0.0),
                evidence=(Pairs if unit == "pair" else TwoSamples)(before, after),
            )  # fmt: skip
        elif problem:
            yield Unjudged(pair=pair, metric=judged.name, limit=limit, reason=problem)
        elif old:
            yield Missing(pair=pair, metric=judged.name, reason="not measured in the result")


def _may_have(run: Result, metric: Metric) -> bool:
    """Return whether a run can have a metric: with overlap, most touches are no faults."""
    return not (metric is FAULT_P99 and run.overlap)


def _too_busy(pair: Pair) -> str | None:
    """Return why all runs of a side were starved of too many rounds; None where one was not."""
    for runs, what in ((pair.new, "the result"), (pair.baseline, "the baseline")):
        if all(is_busy(run, pair.spec) for run in runs):
            return f"the host of {what} was too busy: {why_busy(runs[0], pair.spec)}"
    return None


def _values(
    runs: Sequence[Result], spec: str, metric: Metric, unit: str, speed: float | None
) -> dict[int, float]:
    """Return the logarithms of a metric, one for each `unit`, in order and by its number."""
    sides = [_by_round(run, spec, metric, speed) for run in runs if not is_busy(run, spec)]
    if unit == "run":
        middles = [median(values.values()) for values in sides]
        return dict(enumerate(middle for middle in middles if middle is not None))
    if not sides:
        return {}
    return by_block(runs[0], sides[0]) if unit == "pair" else sides[0]


def _by_round(run: Result, spec: str, metric: Metric, speed: float | None) -> dict[int, float]:
    found = {
        trial.round: math.log(trial.metrics[metric.key])
        for trial in measured_trials(run, spec)
        if trial.metrics.get(metric.key, 0) > 0
    }
    # What a host has won that is faster than `speed`: more, or less time.
    known = {} if speed is None else host_speed.by_round(run)
    won = {number: metric.better * (known[number] - (speed or 0.0)) for number in known}
    return {number: found[number] - won.get(number, 0.0) for number in sorted(found)}


def _exp(logarithm: float) -> float:
    return math.exp(min(logarithm, _MOST))


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
    red = any(isinstance(each, FailedNow | Missing) for each in verdicts)
    if blind and len(blind) == len(decided) and not red:
        sizes = pairs_needed if unit == "pair" else sizes_needed
        needed = max(
            sizes(min(alphas[name] / len(family), _LEAST_LEVEL))
            for name, family in families.items()
        )
        where = "" if unit == "pair" else " on each side"
        starved = [
            why
            for run in (*blind[0].pair.baseline, *blind[0].pair.new)
            if (why := why_busy(run, blind[0].pair.spec))
        ]
        calm = ", on a host at rest" if starved else ""
        option = "" if unit == "run" else f" (--{unit}s {needed})"
        raise MismatchError(
            [blind[0].reason, *starved],
            f"measure {needed} {unit}s or more{where}{option}{calm}, judge fewer rows, or raise "
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
        if test.can_judge(level):
            seeing.append(test)
        else:
            decided[test] = test.too_few(unit, level)
    numbers = [test.numbers(level) for test in seeing]
    worse, better = (
        holm([each.p_worse for each in numbers]),
        holm([each.p_better for each in numbers]),
    )
    for test, found, bad, good in zip(seeing, numbers, worse, better, strict=True):
        decided[test] = test.decided(alpha, found, bad, good)
    return decided
