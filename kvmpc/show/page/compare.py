"""Two results beside each other: what is the same, what differs, and each row after over before.

Results of one host are compared, whatever kernel each had, since that is the question; results of
different hosts are not. Rows are of separate runs, so no round of one belongs to a round of the
other: a ratio is that of two medians, its interval a bootstrap of both. Nothing is judged here:
that is `kvmpc.judge.regression`, with a test and a limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from kvmpc.caution import Caution
from kvmpc.judge import same_host
from kvmpc.judge.matching import match
from kvmpc.judge.matching import pair_cautions as row_cautions
from kvmpc.judge.resampling import change_interval
from kvmpc.judge.summary import Summary, median
from kvmpc.result.points import identity
from kvmpc.result.records import Result
from kvmpc.show.page import text
from kvmpc.show.page.panels import (
    Chart,
    Line,
    Panel,
    against_axis,
    metrics_by_round,
    panels_of,
    shown_pagers,
)

__all__ = ["Comparison", "Row", "chart_of", "compare", "host_differences", "ratio_of_medians"]

_METRICS: Final = ("pages_per_s", "fault_p99_ns", "cpu_s_per_gib")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One pager at one point in both results: medians, and after over before, by metric."""

    where: str
    label: str
    before: Mapping[str, float]
    after: Mapping[str, float]
    ratios: Mapping[str, Summary]

    @property
    def changed(self) -> bool:
        """Whether the rate's interval leaves 1 out."""
        rate = self.ratios.get("pages_per_s")
        return rate is not None and rate.n > 1 and not rate.low <= 1 <= rate.high


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Rows found in both results, and (pager, where, which result, why) of those in one only.

    cautions: what to know of rows before a change is called the kernel's. panels: points of the
    first result that have partners, each panel with the points of the second by their place in it.
    """

    rows: tuple[Row, ...]
    unmatched: tuple[tuple[str, str, str, str], ...]
    cautions: tuple[Caution, ...]
    panels: tuple[tuple[Panel, Mapping[int, Result]], ...]


def host_differences(first: Result, second: Result) -> list[str]:
    """Return what says that two results are of different hosts, each with both values."""
    names = [result.host.get("hostname") for result in (first, second)]
    found = [f"hostname ({names[0]} and {names[1]})"] if names[0] != names[1] else []
    return found + [
        f"{each.field} ({each.baseline} and {each.new})"
        for each in same_host.differences(first.host, second.host)
    ]


def compare(before: Result, after: Result) -> Comparison:
    """Return the rows of two results of one host, in the order of the first."""
    matched, alone = match([before], [after])
    sides = {"baseline": "before", "new": "after"}
    cautions = [caution for row in matched for caution in row_cautions(row)]
    return Comparison(
        rows=tuple(
            _row(row.point, row.spec, row.label, row.baseline[0], row.new[0]) for row in matched
        ),
        unmatched=tuple(
            (each.label or "all pagers", each.point, sides[each.side], each.reason)
            for each in alone
        ),
        cautions=tuple(dict.fromkeys([*same_host.remarks(before, after), *cautions])),
        panels=tuple(_panels(before, after)),
    )


def _panels(before: Result, after: Result) -> Iterator[tuple[Panel, Mapping[int, Result]]]:
    theirs = {_key(point): point for panel in panels_of(after) for point in panel.points}
    for panel in panels_of(before):
        found = {
            index: theirs[_key(point)]
            for index, point in enumerate(panel.points)
            if _key(point) in theirs
        }
        if found:
            yield panel, found


def _key(point: Result) -> str:
    return repr(sorted(identity(point.options).items(), key=lambda item: item[0]))


def _row(where: str, spec: str, label: str, before: Result, after: Result) -> Row:
    medians: tuple[dict[str, float], dict[str, float]] = ({}, {})
    ratios = {}
    for name in _METRICS:
        values = [list(metrics_by_round(p, spec, name).values()) for p in (before, after)]
        for into, known in zip(medians, values, strict=True):
            middle = median(known)
            if middle is not None:
                into[name] = middle
        found = ratio_of_medians(values[1], values[0])
        if found is not None:
            ratios[name] = found
    return Row(where=where, label=label, before=medians[0], after=medians[1], ratios=ratios)


def ratio_of_medians(numerators: Sequence[float], denominators: Sequence[float]) -> Summary | None:
    """Return the ratio of two unpaired medians with its interval; n is that of the smaller side.

    None where a side has no value, or one that is not above 0.
    """
    if not numerators or not denominators or min(*numerators, *denominators, 1) <= 0:
        return None
    middle = (median(numerators) or 0) / (median(denominators) or 1)
    above, below = ([math.log(value) for value in side] for side in (numerators, denominators))
    n = min(len(above), len(below))
    low, high = map(math.exp, change_interval(below, above)) if n > 1 else (middle, middle)
    return Summary(median=middle, lowest=low, highest=high, low=low, high=high, n=n)


def chart_of(before: Panel, after: Mapping[int, Result], key: str) -> Chart:
    """Return the rate after over the rate before, of each pager in both panels."""
    axis = before.axis
    found = {id(before.points[index]): point for index, point in after.items()}

    def ratio(point: Result, spec: str) -> Summary | None:
        other = found.get(id(point))
        if other is None or _label(other, spec) != _label(point, spec):
            return None
        values = [
            list(metrics_by_round(each, spec, "pages_per_s").values()) for each in (other, point)
        ]
        return ratio_of_medians(values[0], values[1])

    lines: tuple[Line, ...] = against_axis(before, shown_pagers(before), ratio)
    return Chart(
        key=key,
        title="Rate after over rate before",
        kind="lines" if axis else "rows",
        y_label="rate after / rate before",
        x_label=axis.label if axis else "",
        note="Above 1 is faster than before. Medians of two separate runs; bars are 95 % "
        "bootstrap intervals of the two together.",
        lines=lines,
        spell=text.ratio,
        spell_x=axis.spell if axis else text.short,
        x_log=bool(axis and axis.log),
        y_log=bool(lines) and _far(lines),
        one=True,
        absent="" if lines else "No pager has a rate in both.",
    )


def _label(point: Result, spec: str) -> str | None:
    return dict(zip(point.pagers, point.labels, strict=False)).get(spec)


def _far(lines: Sequence[Line]) -> bool:
    logs = [math.log10(dot.y) for line in lines for dot in line.dots]
    return max(logs) - min(logs) > 1.3
