"""Two results beside each other: what is the same, what differs, and each row after over before.

Results of one host are compared, whatever kernel each had, since that is the question; results of
different hosts are not. Rows are of separate runs, so no round of one belongs to a round of the
other: a ratio is that of two medians, its interval a bootstrap of both.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from kvmpc import stats
from kvmpc.htmlreport import text
from kvmpc.htmlreport.series import (
    NOT_WORK,
    Chart,
    Line,
    Panel,
    against_axis,
    metrics_by_round,
    panels_of,
    shown_pagers,
)
from kvmpc.results import Result
from kvmpc.stats import Summary

__all__ = ["Comparison", "Row", "chart_of", "compare", "host_differences", "ratio_of_medians"]

_HOST: Final = (
    ("hostname",),
    ("cpu", "model"),
    ("cpu", "vendor"),
    ("cpu", "online_count"),
    ("cpu", "allowed_count"),
    ("cpu", "hypervisor"),
    ("kvm", "vendor_module"),
    ("kvm", "second_level_paging"),
)
"""What makes a host the same host; its kernel, firmware and settings may change."""

_METRICS: Final = ("pages_per_s", "fault_p99_ns", "cpu_s_per_gib")
_RESAMPLES: Final = 2000
_SEED: Final = 2018


@dataclass(frozen=True, kw_only=True)
class Row:
    """One pager at one point in both results: medians, and after over before, by metric."""

    where: str
    spec: str
    label: str
    before: Mapping[str, float]
    after: Mapping[str, float]
    ratios: Mapping[str, Summary]

    @property
    def changed(self) -> bool:
        """Whether the rate's interval leaves 1 out."""
        rate = self.ratios.get("pages_per_s")
        return rate is not None and rate.n > 1 and not rate.lowest <= 1 <= rate.highest


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Rows found in both results; `unmatched` counts those found in one only, `notes` the rest."""

    rows: tuple[Row, ...]
    unmatched: int
    panels: tuple[tuple[Panel, Panel], ...]


def host_differences(first: Result, second: Result) -> list[str]:
    """Return what says that two results are of different hosts, each with both values."""
    found = []
    for path in _HOST:
        values = [_fact(result, path) for result in (first, second)]
        if values[0] != values[1]:
            found.append(f"{'.'.join(path)} ({values[0]} and {values[1]})")
    return found


def _fact(result: Result, path: Sequence[str]) -> object:
    found: object = result.host
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def compare(before: Result, after: Result) -> Comparison:
    """Return the rows of two results of one host, in the order of the first."""
    rows: list[Row] = []
    panels = []
    ours = {_work(point): (panel, i) for panel, i, point in _points(after)}
    count = {True: 0, False: 0}
    for panel, index, point in _points(before):
        found = ours.get(_work(point))
        for spec, label in _labels(point).items():
            if found is None:
                count[False] += 1
                continue
            other = found[0].points[found[1]]
            if _labels(other).get(spec) != label:  # a provider of exits is never mixed with another
                count[False] += 1
                continue
            count[True] += 1
            where = ", ".join(filter(None, [panel.title, panel.spell(index)]))
            rows.append(_row(where, spec, label, point, other))
        if found is not None and (panel, found[0]) not in panels:
            panels.append((panel, found[0]))
    total = sum(len(_labels(point)) for _, _, point in _points(after))
    unmatched = count[False] + total - count[True]
    return Comparison(rows=tuple(rows), unmatched=unmatched, panels=tuple(panels))


def _points(result: Result) -> list[tuple[Panel, int, Result]]:
    return [
        (panel, index, point)
        for panel in panels_of(result)
        for index, point in enumerate(panel.points)
    ]


def _work(point: Result) -> str:
    return repr(sorted((k, repr(v)) for k, v in point.options.items() if k not in NOT_WORK))


def _labels(point: Result) -> dict[str, str]:
    return dict(zip(point.pagers, point.labels, strict=False))


def _row(where: str, spec: str, label: str, before: Result, after: Result) -> Row:
    medians: tuple[dict[str, float], dict[str, float]] = ({}, {})
    ratios = {}
    for name in _METRICS:
        values = [list(metrics_by_round(p, spec, name).values()) for p in (before, after)]
        for into, known in zip(medians, values, strict=True):
            middle = stats.median(known)
            if middle is not None:
                into[name] = middle
        found = ratio_of_medians(values[1], values[0])
        if found is not None:
            ratios[name] = found
    return Row(
        where=where, spec=spec, label=label, before=medians[0], after=medians[1], ratios=ratios
    )


def ratio_of_medians(numerators: Sequence[float], denominators: Sequence[float]) -> Summary | None:
    """Return the ratio of two unpaired medians with its 95 % bootstrap interval; n is the smaller.

    None where a side has no value above 0.
    """
    above, below = stats.median(numerators), stats.median(denominators)
    if not above or not below or min(above, below) <= 0:
        return None
    middle = above / below
    n = min(len(numerators), len(denominators))
    if n < 2:
        return Summary(median=middle, lowest=middle, highest=middle, n=n)
    chance = random.Random(_SEED)
    tops, bottoms = sorted(numerators), sorted(denominators)
    drawn = sorted(
        _resampled_median(tops, chance) / _resampled_median(bottoms, chance)
        for _ in range(_RESAMPLES)
    )
    cut = round(0.025 * _RESAMPLES)
    return Summary(median=middle, lowest=drawn[cut], highest=drawn[-1 - cut], n=n)


def _resampled_median(ordered: Sequence[float], chance: random.Random) -> float:
    """Return the median of a resample of `ordered` without making it.

    The k-th smallest of n uniform numbers is Beta(k, n + 1 - k); each number picks one value. So
    the middle one or two are drawn as such: a resample of 1000 trials costs what one of 3 does.
    """
    n = len(ordered)
    low = (n + 1) // 2
    first = chance.betavariate(low, n + 1 - low)
    at = ordered[min(n - 1, int(first * n))]
    if n % 2:
        return at
    # The next above it: the smallest of n - low uniform numbers in what is left.
    second = 1 - (1 - first) * chance.random() ** (1 / (n - low))
    return (at + ordered[min(n - 1, int(second * n))]) / 2


def chart_of(before: Panel, after: Panel, key: str) -> Chart:
    """Return the rate after over the rate before, of each pager in both panels."""
    axis = before.axis
    at = dict(zip(after.xs, after.points, strict=True))

    def ratio(point: Result, spec: str) -> Summary | None:
        x = next(x for x, p in zip(before.xs, before.points, strict=True) if p is point)
        if x not in at or _labels(at[x]).get(spec) != _labels(point).get(spec):
            return None
        values = [list(metrics_by_round(p, spec, "pages_per_s").values()) for p in (at[x], point)]
        return ratio_of_medians(values[0], values[1])

    lines: tuple[Line, ...] = against_axis(before, shown_pagers(before), ratio)
    return Chart(
        key=key,
        title="Rate after over rate before",
        kind="lines" if axis else "rows",
        y_label="rate after / rate before",
        x_label=axis.label if axis else "",
        note="Above 1 is faster than before. Medians of two separate runs; bars are 95 % "
        "bootstrap intervals of both.",
        lines=lines,
        spell=text.ratio,
        spell_x=axis.spell if axis else text.short,
        x_log=bool(axis and axis.log),
        y_log=bool(lines) and _far(lines),
        one=True,
        absent="" if lines else "No pager has a rate in both.",
    )


def _far(lines: Sequence[Line]) -> bool:
    logs = [math.log10(dot.y) for line in lines for dot in line.dots]
    return max(logs) - min(logs) > 1.3
