"""What the numbers of a result say, as numbers: which trials count, paired ratios, table rows.

Pure functions of records; rounds nothing, formats nothing, and says None where there is no
number. A comparison is always paired: a ratio is taken inside one round, where both pagers met the
same state of the host, and only then summarised over rounds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from kvmpc.judge.starved import is_busy, starved_trials, why_busy
from kvmpc.judge.summary import Summary, median, summarise, summarise_ratios
from kvmpc.result.metrics import CPU, FAULT_P50, FAULT_P99, MIB_RATE, RATE, Metric
from kvmpc.result.pager_info import PagerInfo
from kvmpc.result.records import FAILED, OK, Profile, Result, Role, TrialResult

__all__ = [
    "Outcome",
    "Row",
    "compare_rows",
    "measured_trials",
    "paired_ratios",
    "ratio_base",
    "share_base",
    "summarise_metric",
    "usable_profiles",
    "usable_trials",
    "values_of",
]


class Outcome(StrEnum):
    """What became of a pager; measured, it is how far its pages were verified."""

    YES = "yes"
    WHOLE = "whole"
    ZEROS = "zeros"
    NO = "no"
    FAILED = "FAILED"
    BUSY = "busy"
    SKIPPED = "skipped"
    ABSENT = "-"


_VERIFIED = (Outcome.YES, Outcome.WHOLE, Outcome.ZEROS)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One pager in the table; None where there is no number.

    A row with a failed trial, warm-ups included, has no number at all: what one trial got wrong,
    the others may have got wrong unseen. Nor has a row that is busy (`kvmpc.judge.starved`).

    ok_trials: verified, measured trials; failed_trials: failed ones, warm-ups included.
    starved_trials: measured ones that do not count, since others had their CPU time.
    busy: whether too few are left for that; starved: why, or why there are fewer; else "".
    errors: why they failed, without repetitions. skips: why the host could not run it.
    pages_per_s, mib_per_s, cpu_s_per_gib: medians over rounds; rate: pages_per_s with its interval.
    ratio: rate over the rate of the first pager that fetches, per round.
    share_of_none: median of the rate over the rate of the first pager that does not fetch.
    fault_p50, fault_p99: a guest touch's time in ns, over rounds; no interval is narrower than the
        bucket of the histogram that it comes from.
    verified: what was verified in every trial; None if anything was not.
    """

    pager: PagerInfo
    ok_trials: int
    failed_trials: int
    starved_trials: int
    busy: bool
    starved: str
    errors: tuple[str, ...]
    skips: tuple[str, ...]
    rate: Summary | None
    mib_per_s: float | None
    ratio: Summary | None
    share_of_none: float | None
    fault_p50: Summary | None
    fault_p99: Summary | None
    cpu_s_per_gib: float | None
    verified: str | None

    @property
    def spec(self) -> str:
        """The pager's canonical spec."""
        return self.pager.spec

    @property
    def label(self) -> str:
        """What the pager is called."""
        return self.pager.label

    @property
    def failed(self) -> bool:
        """Whether any trial of this pager failed."""
        return self.failed_trials > 0

    @property
    def outcome(self) -> Outcome:
        """What became of it: the least that holds for all its trials."""
        if self.failed:
            return Outcome.FAILED
        if self.busy:
            return Outcome.BUSY
        if not self.ok_trials:
            return Outcome.SKIPPED if self.skips else Outcome.ABSENT
        return Outcome(self.verified) if self.verified in _VERIFIED else Outcome.NO

    @property
    def pages_per_s(self) -> float | None:
        """The median rate."""
        return None if self.rate is None else self.rate.median

    @property
    def fault_p50_ns(self) -> float | None:
        """The median over rounds of the median touch."""
        return None if self.fault_p50 is None else self.fault_p50.median

    @property
    def fault_p99_ns(self) -> float | None:
        """The median over rounds of the touch that one in a hundred took longer than."""
        return None if self.fault_p99 is None else self.fault_p99.median


def measured_trials(result: Result, spec: str) -> list[TrialResult]:
    """Return the trials of `spec` that count: neither warm-up nor failed nor starved."""
    return [
        trial
        for trial in result.trials
        if trial.pager == spec
        and trial.role is Role.MEASURED
        and trial.status == OK
        and not trial.starved
    ]


def usable_trials(result: Result, spec: str) -> list[TrialResult]:
    """Return the trials of `spec` whose numbers may be shown: measured, and none where any failed.

    Warm-ups and profiled trials count as well: what one trial got wrong, the others may have got
    wrong unseen. None either where too many were starved. `result` is of one point.
    """
    if _failed(result, spec) or is_busy(result, spec):
        return []
    return measured_trials(result, spec)


def usable_profiles(result: Result, spec: str) -> list[Profile]:
    """Return the profiles of `spec` that may be shown, by the same rule."""
    if _failed(result, spec):
        return []
    return [t.profile for t in result.trials if t.pager == spec and t.profile is not None]


def _failed(result: Result, spec: str) -> list[TrialResult]:
    return [trial for trial in result.trials if trial.pager == spec and trial.status == FAILED]


def paired_ratios(
    result: Result, numerator_spec: str, denominator_spec: str, key: str
) -> list[float]:
    """Return the metric `key` of one pager over another's, for each round that measured both."""
    numerators = _by_round(result, numerator_spec, key)
    denominators = _by_round(result, denominator_spec, key)
    return [
        numerators[number] / denominators[number]
        for number in sorted(numerators.keys() & denominators.keys())
        if denominators[number] > 0 and numerators[number] > 0
    ]


def ratio_base(result: Result) -> str | None:
    """Return the first pager in the order given that fetches: the 1.00 of every ratio."""
    return _first(result, fetches=True)


def share_base(result: Result) -> str | None:
    """Return the first pager in the order given that does not fetch: the whole of every share."""
    return _first(result, fetches=False)


def compare_rows(result: Result) -> list[Row]:
    """Return a row for each pager, in the order given, also for one that has no trial yet."""
    without = {spec for spec in result.pagers if _failed(result, spec) or is_busy(result, spec)}
    ratio_to, share_of = ratio_base(result), share_base(result)
    return [
        _row(
            result,
            spec,
            ratio_to=None if ratio_to in without else ratio_to,
            share_of=None if share_of in without else share_of,
        )
        for spec in dict.fromkeys(result.pagers)
    ]


def _row(result: Result, spec: str, *, ratio_to: str | None, share_of: str | None) -> Row:
    failed = _failed(result, spec)
    usable = usable_trials(result, spec)
    # All vCPUs race for the same pages: most touches are no faults, their times no fault times.
    faults = [] if result.overlap else usable

    def ratios(to: str | None) -> list[float]:
        return paired_ratios(result, spec, to, RATE.key) if usable and to else []

    share = summarise_ratios(ratios(share_of))
    verified = {trial.verified for trial in usable}
    return Row(
        pager=result.pager(spec),
        ok_trials=len(measured_trials(result, spec)),
        failed_trials=len(failed),
        starved_trials=len(starved_trials(result, spec)),
        busy=is_busy(result, spec),
        starved=why_busy(result, spec),
        errors=tuple(dict.fromkeys(trial.error or "" for trial in failed)),
        skips=tuple(skip.reason for skip in result.skipped if skip.pager == spec),
        rate=summarise_metric(usable, RATE),
        mib_per_s=median(values_of(usable, MIB_RATE.key)),
        ratio=summarise_ratios(ratios(ratio_to)),
        share_of_none=share.median if share else None,
        fault_p50=summarise_metric(faults, FAULT_P50),
        fault_p99=summarise_metric(faults, FAULT_P99),
        cpu_s_per_gib=median(values_of(usable, CPU.key)),
        verified=verified.pop() if len(verified) == 1 else None,
    )


def _first(result: Result, *, fetches: bool) -> str | None:
    tried = {trial.pager for trial in result.trials if trial.fetches == fetches}
    return next((spec for spec in result.pagers if spec in tried), None)


def _by_round(result: Result, spec: str, key: str) -> dict[int, float]:
    return {
        trial.round: trial.metrics[key]
        for trial in measured_trials(result, spec)
        if key in trial.metrics
    }


def values_of(trials: Iterable[TrialResult], key: str) -> list[float]:
    """Return the metric `key` of each trial that has it, in their order."""
    return [trial.metrics[key] for trial in trials if key in trial.metrics]


def summarise_metric(trials: Iterable[TrialResult], metric: Metric) -> Summary | None:
    """Return middle and spread of a metric; None where no trial has it."""
    found = summarise(values_of(trials, metric.key))
    return None if found is None else found.blurred(metric.blur)
