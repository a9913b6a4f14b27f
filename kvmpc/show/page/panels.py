"""From results to what charts draw: panels, lines, dots, with no drawing and no HTML.

A result taken apart gives *panels*: the points that differ in one axis only (vCPUs, if they vary),
so that a line is always one pager on one kind of work. Pure functions; what was not measured gives
a chart without lines, whose `absent` says what would give them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from kvmpc.judge.rows import paired_ratios, usable_trials
from kvmpc.judge.rows import ratio_base as baseline_pager
from kvmpc.judge.rows import share_base as reference_pager
from kvmpc.judge.summary import Summary, summarise, summarise_ratios
from kvmpc.result.points import HOW_OFTEN, points_of, shown_option
from kvmpc.result.records import Result, TrialResult
from kvmpc.show.page import text
from kvmpc.units import format_bytes

__all__ = [
    "NOT_WORK",
    "Axis",
    "Chart",
    "Dot",
    "Line",
    "Panel",
    "against_axis",
    "metric",
    "metrics_by_round",
    "panels_of",
    "shown_pagers",
]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What the points of a panel differ in. log: whether every value can stand on a log scale."""

    option: str
    label: str
    spell: Callable[[float], str] = text.short
    log: bool = True


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
    axis: Axis | None
    xs: tuple[float, ...]
    points: tuple[Result, ...]
    follows: tuple[str, ...] = ()

    def at(self, index: int) -> str:
        """Return where a point lies: ``at 160 vCPUs``, or "" where there is one point."""
        return "" if self.axis is None else f"at {self.spell(index)}"

    def spell(self, index: int) -> str:
        """Return the point's value with its name: ``160 vCPUs``."""
        if self.axis is None:
            return ""
        value = self.axis.spell(self.xs[index])
        if self.axis.option == "vcpus":
            return f"{value} vCPU{'' if self.xs[index] == 1 else 's'}"
        return f"{self.axis.label} {value}"


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A median at `x` with its interval (low = high = y where one value is all there is)."""

    x: float
    y: float
    low: float
    high: float
    n: int = 1


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart. key: what decides its colour and marker, the same in every chart."""

    key: str
    label: str
    dots: tuple[Dot, ...]
    published: bool = False


@dataclass(frozen=True, kw_only=True)
class Chart:
    """What one chart shows, and the table below it.

    kind: ``lines`` (against an axis), ``rows`` (one dot a pager), ``curves`` (dense x and y),
        ``spans`` (a spread per pager), ``parts`` (several dots a pager), ``stack`` (shares end to
        end, x is the row).
    note: how to read it. spell: writes a y value; spell_x: an x value.
    absent: instead of lines, why there are none and what would give them.
    table: headers and rows, where the lines themselves would make no table.
    """

    key: str
    title: str
    kind: str
    y_label: str
    note: str = ""
    x_label: str = ""
    lines: tuple[Line, ...] = ()
    spell: Callable[[float], str] = text.short
    spell_x: Callable[[float], str] = text.short
    x_log: bool = False
    y_log: bool = False
    one: bool = False
    absent: str = ""
    table: tuple[tuple[str, ...], ...] = field(default=())


_AXES: Final[Mapping[str, tuple[str, Callable[[float], str]]]] = {
    "vcpus": ("vCPUs", lambda value: f"{value:.0f}"),
    "fetch_delay_ns": ("fetch delay", lambda value: text.duration(value) if value else "0"),
    "mem_per_vcpu_bytes": ("memory per vCPU", lambda value: format_bytes(int(value))),
    "touch_pages": ("pages touched per vCPU", text.short),
}
"""Options that may be an axis, the first that varies first."""

NOT_WORK: Final = frozenset({*HOW_OFTEN, "seed"})
"""Options that do not change what a trial is."""


def panels_of(result: Result) -> list[Panel]:
    """Return the panels of `result`, in the order in which their points come."""
    if len(result.points) < 2:
        return [Panel(title="", axis=None, xs=(0.0,), points=tuple(points_of(result)[:1]))]
    points = points_of(result)
    names = sorted({name for point in result.points for name in point.options} - NOT_WORK)
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
    axis = Axis(option=option, label=label, spell=spell, log=xs[0] > 0)
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
    parts = [trial.metrics.get(part) for part in ("cpu_vcpus_s", "cpu_readers_s")]
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
    summary_of: Callable[[Result, str], Summary | None],
) -> tuple[Line, ...]:
    """Return a line for each pager that has a number at one point of the panel or more."""
    lines = []
    for spec, label in pagers.items():
        dots = []
        for x, point in zip(panel.xs, panel.points, strict=True):
            found = summary_of(point, spec)
            if found is not None:
                dots.append(dot(x, found))
        if dots:
            lines.append(Line(key=spec, label=label, dots=tuple(dots)))
    return tuple(lines)


def dot(x: float, summary: Summary) -> Dot:
    """Return a summary as a dot at `x`."""
    return Dot(x=x, y=summary.median, low=summary.low, high=summary.high, n=summary.n)


def of_metric(name: str) -> Callable[[Result, str], Summary | None]:
    """Return the function that summarises a metric over a pager's rounds."""
    return lambda point, spec: summarise(metrics_by_round(point, spec, name).values())


def of_ratio(fetches: bool) -> Callable[[Result, str], Summary | None]:
    """Return the function that summarises the rate over the baseline's, or over the reference's.

    fetches: True for the first pager that fetches (1.00), False for the first that does not.
    """

    def summary(point: Result, spec: str) -> Summary | None:
        to = baseline_pager(point) if fetches else reference_pager(point)
        if to is None or not usable_trials(point, spec) or not usable_trials(point, to):
            return None
        return summarise_ratios(paired_ratios(point, spec, to, "pages_per_s"))

    return summary
