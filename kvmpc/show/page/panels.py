"""A result taken apart for its charts: panels, and the lines that a number has in one.

A *panel* is the points that differ in one axis only (vCPUs, if they vary), so that a line is always
one pager on one kind of work. Pure functions; what was not measured gives no dot and no line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from kvmpc.judge.rows import paired_ratios, usable_trials
from kvmpc.judge.rows import ratio_base as ratio_base
from kvmpc.judge.rows import share_base as share_base
from kvmpc.judge.summary import Summary, summarise, summarise_ratios
from kvmpc.result.metrics import CPU_READERS, CPU_VCPUS, METRICS, RATE
from kvmpc.result.points import HOW_OFTEN, points_of, shown_option
from kvmpc.result.records import Result, TrialResult
from kvmpc.show.page import text
from kvmpc.show.page.chart import ChartLine, Dot, LinesChart, RowsChart, Scale, far_apart
from kvmpc.units import format_bytes

__all__ = [
    "Panel",
    "PanelAxis",
    "SummaryOf",
    "against_axis",
    "dot_of",
    "metric",
    "metrics_by_round",
    "of_metric",
    "of_ratio",
    "panel_chart",
    "panels_of",
    "shown_pagers",
]


SummaryOf = Callable[[Result, str], Summary | None]
"""One number of a pager at a point, over its rounds; None where it was not measured."""


@dataclass(frozen=True, kw_only=True)
class PanelAxis(Scale):
    """What the points of a panel differ in; log where every value can stand on such a scale."""

    option: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Points that differ in one axis only.

    title: what sets this panel apart from the others of its result; "" where it is alone.
    axis: None where there is one point.
    xs: the value of the axis, one entry per point, ascending (0 where there is no axis).
    points: single-point results, one entry per x.
    follows: options that change with the axis, such as memory per vCPU above 32 vCPUs.
    """

    title: str
    axis: PanelAxis | None
    xs: tuple[float, ...]
    points: tuple[Result, ...]
    follows: tuple[str, ...] = ()

    def at(self, index: int) -> str:
        """Return where a point lies: ``at 160 vCPUs``, or "" where there is one point."""
        return "" if self.axis is None else f"at {self.spell(index)}"

    def titled(self, title: str, index: int = -1) -> str:
        """Return a title with where the point lies, the last one unless told otherwise."""
        return f"{title} {self.at(index)}".strip()

    def spell(self, index: int) -> str:
        """Return the point's value with its name: ``160 vCPUs``."""
        if self.axis is None:
            return ""
        value = self.axis.spell(self.xs[index])
        if self.axis.option == "vcpus":
            return f"{value} vCPU{'' if self.xs[index] == 1 else 's'}"
        return f"{self.axis.label} {value}"


_AXES: Final[Mapping[str, tuple[str, Callable[[float], str]]]] = {
    "vcpus": ("vCPUs", lambda value: f"{value:.0f}"),
    "fetch_delay_ns": ("fetch delay", lambda value: text.duration(value) if value else "0"),
    "mem_per_vcpu_bytes": ("memory per vCPU", lambda value: format_bytes(int(value))),
    "touch_pages": ("pages touched per vCPU", text.short),
}
"""Options that may be an axis, the first that varies first."""

_NOT_WORK: Final = frozenset({*HOW_OFTEN, "seed"})
"""Options that do not change what a trial is."""


def panels_of(result: Result) -> list[Panel]:
    """Return the panels of `result`, in the order in which their points come."""
    if len(result.points) < 2:
        return [Panel(title="", axis=None, xs=(0.0,), points=tuple(points_of(result)[:1]))]
    points = points_of(result)
    names = sorted({name for point in result.points for name in point.options} - _NOT_WORK)
    varying = [n for n in names if len({repr(point.options.get(n)) for point in points}) > 1]
    axis = next((n for n in _AXES if n in varying and _numeric(points, n)), None)
    follows = [n for n in varying if n != axis and axis and _follows(points, n, axis)]
    apart = [n for n in varying if n != axis and n not in follows]
    groups: dict[str, list[Result]] = {}
    for point in points:
        title = " ".join(shown_option(name, point.options.get(name)) for name in apart)
        groups.setdefault(title, []).append(point)
    return [_panel(title, axis, group, follows) for title, group in groups.items()]


def _panel(title: str, option: str | None, group: list[Result], follows: list[str]) -> Panel:
    if option is None:
        return Panel(title=title, axis=None, xs=(0.0,), points=tuple(group[:1]))
    by_x: dict[float, Result] = {}
    for point in group:
        by_x.setdefault(_value(point, option), point)
    xs = sorted(by_x)
    label, spell = _AXES[option]
    axis = PanelAxis(option=option, label=label, spell=spell, log=xs[0] > 0)
    if len(xs) == 1:
        place = spell(xs[0])
        title = ", ".join(filter(None, [title, f"{label} {place}"]))
        return Panel(title=title, axis=None, xs=(0.0,), points=(by_x[xs[0]],))
    return Panel(
        title=title,
        axis=axis,
        xs=tuple(xs),
        points=tuple(by_x[x] for x in xs),
        follows=tuple(follows),
    )


def _numeric(points: Sequence[Result], name: str) -> bool:
    return all(
        isinstance(value := point.options.get(name), int | float) and not isinstance(value, bool)
        for point in points
    )


def _value(point: Result, name: str) -> float:
    value = point.options[name]
    return float(value) if isinstance(value, int | float) else 0.0


def _follows(points: Sequence[Result], name: str, axis: str) -> bool:
    """Whether each value of `axis` comes with one value of the option `name` only."""
    seen: dict[str, str] = {}
    for point in points:
        value = repr(point.options.get(name))
        if seen.setdefault(repr(point.options.get(axis)), value) != value:
            return False
    return True


def metric(trial: TrialResult, name: str) -> float | None:
    """Return a metric of a trial, also those made of others; None where it was not measured."""
    found = trial.metrics.get(name)
    if found is not None or name != "cpus_busy":
        return found
    parts = [trial.metrics.get(part) for part in (CPU_VCPUS.key, CPU_READERS.key)]
    known = [part for part in parts if part is not None]
    return sum(known) * 1e9 / trial.elapsed_ns if known and trial.elapsed_ns else None


def metrics_by_round(point: Result, spec: str, name: str) -> dict[int, float]:
    """Return a metric of a pager's usable trials by their round."""
    found = ((trial.round, metric(trial, name)) for trial in usable_trials(point, spec))
    return {number: value for number, value in found if value is not None}


def shown_pagers(panel: Panel) -> dict[str, str]:
    """Return spec and label of each pager of a panel, in the order given."""
    found: dict[str, str] = {}
    for point in panel.points:
        labels = dict(zip(point.pagers, point.labels, strict=False))
        for spec in point.pagers:
            found.setdefault(spec, labels.get(spec, spec))
    return found


def against_axis(
    panel: Panel,
    pagers: Mapping[str, str],
    summary_of: SummaryOf,
) -> tuple[ChartLine, ...]:
    """Return a line for each pager that has a number at one point of the panel or more."""
    lines = []
    for spec, label in pagers.items():
        dots = []
        for x, point in zip(panel.xs, panel.points, strict=True):
            found = summary_of(point, spec)
            if found is not None:
                dots.append(dot_of(x, found))
        if dots:
            lines.append(ChartLine(key=spec, label=label, dots=tuple(dots)))
    return tuple(lines)


def panel_chart(
    panel: Panel,
    pagers: Mapping[str, str],
    summary_of: SummaryOf,
    *,
    key: str,
    title: str,
    y: Scale,
    note: str,
    absent: str,
    one: bool = False,
) -> LinesChart | RowsChart:
    """Return a number against the panel's axis, or where it has none, a row for each pager.

    y: its scale is log only where it may be and the values need it.
    """
    lines = against_axis(panel, pagers, summary_of)
    y = replace(y, log=y.log and far_apart(lines))
    if panel.axis is None:
        return RowsChart(key=key, title=title, y=y, lines=lines, absent=absent, note=note, one=one)
    return LinesChart(
        key=key, title=title, x=panel.axis, y=y, lines=lines, absent=absent, note=note, one=one
    )


def dot_of(x: float, summary: Summary) -> Dot:
    """Return a summary as a dot at `x`."""
    return Dot(
        x=x, y=summary.median, low=summary.low, high=summary.high, n=summary.n,
        spread=summary.spread,
    )  # fmt: skip


def of_metric(name: str) -> SummaryOf:
    """Return the function that summarises a metric over a pager's rounds."""
    blur = METRICS[name].blur if name in METRICS else 0.0

    def summary(point: Result, spec: str) -> Summary | None:
        found = summarise(metrics_by_round(point, spec, name).values())
        return None if found is None else found.blurred(blur)

    return summary


def of_ratio(fetches: bool) -> SummaryOf:
    """Return the function that summarises the rate over the baseline's, or over the reference's.

    fetches: True for the first pager that fetches (1.00), False for the first that does not.
    """

    def summary(point: Result, spec: str) -> Summary | None:
        to = ratio_base(point) if fetches else share_base(point)
        if to is None or not usable_trials(point, spec) or not usable_trials(point, to):
            return None
        return summarise_ratios(paired_ratios(point, spec, to, RATE.key))

    return summary
