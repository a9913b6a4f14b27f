"""What changed between two results of one host: each row's medians, and after over before.

Rows are of separate runs, so no round of one belongs to a round of the other: a ratio is the median
of those of all pairs. Rows are called slower or faster where chance explains that in at most one
comparison of twenty, all its rows together (Holm over Mann-Whitney tests, which are of one mind
with the intervals), if rounds of both runs are alike. What one run differs by from the next of the
same kernel is in neither: that is for `kvmpc.judge.regression`, which also has limits, and several
runs on each side. Sides that were measured in turn are another matter: a ratio is taken within each
of their pairs of blocks, so that nothing of what the host did in between is in it, and the tests
are signed-rank tests of pairs. Pure functions of results.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from kvmpc.caution import Caution
from kvmpc.judge import same_host
from kvmpc.judge.answer import FALSE_HEADLINES
from kvmpc.judge.evidence import TwoSamples
from kvmpc.judge.matching import Unmatched, match, pair_cautions
from kvmpc.judge.paired import Pairs, pairs_needed
from kvmpc.judge.resampling import holm, sizes_needed
from kvmpc.judge.rows import usable_trials, values_of
from kvmpc.judge.summary import Summary, median, summarise_pairs, summarise_shift
from kvmpc.judge.turns import by_block, in_turn
from kvmpc.result.metrics import CPU, FAULT_P99, RATE, Metric
from kvmpc.result.records import Result

__all__ = [
    "Change",
    "ChangedRow",
    "change_between",
    "change_of",
    "host_differences",
]

_METRICS: Final = (RATE, FAULT_P99, CPU)


@dataclass(frozen=True, kw_only=True)
class ChangedRow:
    """One pager at one point in both results.

    where: the point's name, "" where there is only one.
    before, after: medians by metric; ratios: after over before, the median over all pairs. What a
        side lacks is absent.
    p: how likely the rate's change is by chance, for this row alone; least_p: how likely at least,
        of so many rounds; None where it has no such change.
    adjusted: p, adjusted for all rows of the comparison.
    """

    where: str
    label: str
    before: Mapping[str, float]
    after: Mapping[str, float]
    ratios: Mapping[str, Summary]
    p: float | None
    least_p: float | None
    adjusted: float | None = None

    @property
    def rate(self) -> Summary | None:
        """The rate after over the rate before."""
        return self.ratios.get(RATE.key)


@dataclass(frozen=True, kw_only=True)
class Change:
    """Rows found in both results, in the order of the first, and what only one has.

    unmatched: ``baseline`` is the result before, ``new`` the one after.
    paired: whether both were measured in turn, and ratios are those of pairs.
    cautions: what to know of rows before a change is called the kernel's.
    """

    rows: tuple[ChangedRow, ...]
    unmatched: tuple[Unmatched, ...]
    cautions: tuple[Caution, ...]
    paired: bool = False

    @property
    def rates(self) -> tuple[Summary, ...]:
        """The ratios of rates, of each row that has one."""
        return tuple(row.rate for row in self.rows if row.rate is not None)

    @property
    def needed(self) -> int:
        """The fewest rounds, or pairs, on each side that can show a change of one row at all."""
        sizes = pairs_needed if self.paired else sizes_needed
        return sizes(FALSE_HEADLINES / 2 / max(1, len(self.rates)))

    @property
    def can_show(self) -> bool:
        """Whether rounds are enough that the change of any row could be shown."""
        least = [row.least_p for row in self.rows if row.least_p is not None]
        return min(least, default=1.0) * len(least) <= FALSE_HEADLINES

    @property
    def slower(self) -> tuple[ChangedRow, ...]:
        """Rows whose rate is shown to be lower, the worst first."""
        return tuple(row for ratio, row in self._shown() if ratio.median < 1)

    @property
    def faster(self) -> tuple[ChangedRow, ...]:
        """Rows whose rate is shown to be higher, the best first."""
        return tuple(row for ratio, row in reversed(self._shown()) if ratio.median > 1)

    def _shown(self) -> list[tuple[Summary, ChangedRow]]:
        """Return the rows whose rate is shown to have changed."""
        known = [
            (row.rate, row)
            for row in self.rows
            if row.rate is not None and row.adjusted is not None and row.adjusted <= FALSE_HEADLINES
        ]
        return sorted(known, key=lambda pair: pair[0].median)


def host_differences(first: Result, second: Result) -> list[str]:
    """Return what says that two results are of different hosts, each with both values.

    Nothing does where they were measured in turn: what differs then is what is in question.
    """
    if in_turn([first], [second]):
        return []
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
    rows = [_row(row.point, row.spec, row.label, row.baseline[0], row.new[0]) for row in matched]
    return Change(
        rows=tuple(_adjusted(rows)),
        unmatched=tuple(alone),
        cautions=tuple(dict.fromkeys([*same_host.remarks(before, after), *cautions])),
        paired=in_turn([before], [after]),
    )


def _adjusted(rows: Sequence[ChangedRow]) -> Iterator[ChangedRow]:
    adjusted = iter(holm([row.p for row in rows if row.p is not None]))
    for row in rows:
        yield row if row.p is None else replace(row, adjusted=next(adjusted))


def _row(where: str, spec: str, label: str, before: Result, after: Result) -> ChangedRow:
    ratios = {
        metric.key: ratio
        for metric in _METRICS
        if (ratio := change_of(metric, spec, before, after)) is not None
    }
    p, least_p = (
        _chance(*_both(before, after, spec, RATE.key)) if RATE.key in ratios else (None,) * 2
    )
    return ChangedRow(
        where=where,
        label=label,
        before=_medians(before, spec),
        after=_medians(after, spec),
        ratios=ratios,
        p=p,
        least_p=least_p,
    )


def _chance(old: Sequence[float], new: Sequence[float], paired: bool) -> tuple[float, float]:
    """Return how likely so large a shift is by chance, either way, and how likely at least."""
    evidence = (Pairs if paired else TwoSamples)(old, new)
    return min(1.0, 2 * min(evidence.p(1), evidence.p(-1))), 2 * evidence.smallest_p


def _medians(point: Result, spec: str) -> dict[str, float]:
    trials = usable_trials(point, spec)
    return {
        metric.key: middle
        for metric in _METRICS
        if (middle := median(values_of(trials, metric.key))) is not None
    }


def change_of(metric: Metric, spec: str, before: Result, after: Result) -> Summary | None:
    """Return a pager's `metric` after over that before; both results are of one point.

    It is the middle of all pairs, or within those that were measured in turn, and n is that of the
    smaller side; both sides may be blurred. None where a side has none.
    """
    old, new, paired = _both(before, after, spec, metric.key)
    found = summarise_pairs(old, new) if paired else summarise_shift(old, new)
    return None if found is None else found.exp().blurred(2 * metric.blur)


def _both(
    before: Result, after: Result, spec: str, metric: str
) -> tuple[list[float], list[float], bool]:
    """Return the logarithms of a metric on both sides, and whether they are pairs."""
    old, new = (_logarithms(point, spec, metric) for point in (before, after))
    if not (old and new and in_turn([before], [after])):
        return old, new, False
    blocks = [
        by_block(point, {trial.round: math.log(trial.metrics[metric])
                         for trial in usable_trials(point, spec) if metric in trial.metrics})
        for point in (before, after)
    ]  # fmt: skip
    both = [block for block in blocks[0] if block in blocks[1]]
    old, new = ([side[block] for block in both] for side in blocks)
    return old, new, bool(both)


def _logarithms(point: Result, spec: str, metric: str) -> list[float]:
    """Return those of a metric, in the order measured; none where one value is not above 0."""
    values = values_of(usable_trials(point, spec), metric)
    return [math.log(value) for value in values] if min(values, default=0) > 0 else []
