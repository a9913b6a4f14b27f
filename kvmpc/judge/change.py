"""What changed between two results of one host: each row's medians, and after over before.

Rows are of separate runs, so no round of one belongs to a round of the other: a ratio is the median
of those of all pairs. Nothing is judged here: that is `kvmpc.judge.regression`, with a test and a
limit. Pure functions of results.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from kvmpc.caution import Caution
from kvmpc.judge import same_host
from kvmpc.judge.matching import Unmatched, match, pair_cautions
from kvmpc.judge.rows import usable_trials, values_of
from kvmpc.judge.summary import Summary, median, summarise_shift
from kvmpc.result.metrics import CPU, FAULT_P99, RATE
from kvmpc.result.records import Result

__all__ = [
    "Change",
    "ChangedRow",
    "change_between",
    "change_of",
    "host_differences",
    "ratio_of_sides",
]

_METRICS: Final = (RATE.key, FAULT_P99.key, CPU.key)


@dataclass(frozen=True, kw_only=True)
class ChangedRow:
    """One pager at one point in both results.

    where: the point's name, "" where there is only one.
    before, after: medians by metric; ratios: after over before, the median over all pairs. What a
        side lacks is absent.
    """

    where: str
    label: str
    before: Mapping[str, float]
    after: Mapping[str, float]
    ratios: Mapping[str, Summary]

    @property
    def rate(self) -> Summary | None:
        """The rate after over the rate before."""
        return self.ratios.get(RATE.key)


@dataclass(frozen=True, kw_only=True)
class Change:
    """Rows found in both results, in the order of the first, and what only one has.

    unmatched: ``baseline`` is the result before, ``new`` the one after.
    cautions: what to know of rows before a change is called the kernel's.
    """

    rows: tuple[ChangedRow, ...]
    unmatched: tuple[Unmatched, ...]
    cautions: tuple[Caution, ...]

    @property
    def rates(self) -> tuple[Summary, ...]:
        """The ratios of rates, of each row that has one."""
        return tuple(row.rate for row in self.rows if row.rate is not None)

    @property
    def slower(self) -> tuple[ChangedRow, ...]:
        """Rows whose rate's interval lies below 1, the worst first."""
        return tuple(row for ratio, row in self._by_ratio() if ratio.high < 1)

    @property
    def faster(self) -> tuple[ChangedRow, ...]:
        """Rows whose rate's interval lies above 1, the best first."""
        return tuple(row for ratio, row in reversed(self._by_ratio()) if ratio.low > 1)

    def _by_ratio(self) -> list[tuple[Summary, ChangedRow]]:
        """Return rows that have an interval, for which it takes two rounds on a side."""
        known = [(row.rate, row) for row in self.rows if row.rate is not None and row.rate.n > 1]
        return sorted(known, key=lambda pair: pair[0].median)


def host_differences(first: Result, second: Result) -> list[str]:
    """Return what says that two results are of different hosts, each with both values."""
    names = [result.host.get("hostname") for result in (first, second)]
    renamed = [f"hostname ({names[0]} and {names[1]})"] if names[0] != names[1] else []
    return renamed + [
        f"{each.field} ({each.baseline} and {each.new})"
        for each in same_host.differences(first.host, second.host)
    ]


def change_between(before: Result, after: Result) -> Change:
    """Return what changed between two results of one host, whatever kernel each had."""
    matched, alone = match([before], [after])
    cautions = [caution for row in matched for caution in pair_cautions(row)]
    return Change(
        rows=tuple(
            _row(row.point, row.spec, row.label, row.baseline[0], row.new[0]) for row in matched
        ),
        unmatched=tuple(alone),
        cautions=tuple(dict.fromkeys([*same_host.remarks(before, after), *cautions])),
    )


def _row(where: str, spec: str, label: str, before: Result, after: Result) -> ChangedRow:
    return ChangedRow(
        where=where,
        label=label,
        before=_medians(before, spec),
        after=_medians(after, spec),
        ratios={
            name: ratio
            for name in _METRICS
            if (ratio := change_of(name, spec, before, after)) is not None
        },
    )


def _medians(point: Result, spec: str) -> dict[str, float]:
    trials = usable_trials(point, spec)
    return {
        name: middle for name in _METRICS if (middle := median(values_of(trials, name))) is not None
    }


def change_of(metric: str, spec: str, before: Result, after: Result) -> Summary | None:
    """Return a pager's `metric` after over that before; both results are of one point."""
    old, new = (values_of(usable_trials(point, spec), metric) for point in (before, after))
    return ratio_of_sides(new, old)


def ratio_of_sides(numerators: Sequence[float], denominators: Sequence[float]) -> Summary | None:
    """Return by what factor one side is above another, not paired; n is that of the smaller side.

    None where a side has no value, or one that is not above 0.
    """
    if min([*numerators, *denominators], default=0) <= 0:
        return None
    above, below = ([math.log(value) for value in side] for side in (numerators, denominators))
    found = summarise_shift(below, above)
    return None if found is None else found.exp()
