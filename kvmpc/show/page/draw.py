"""A chart in, its SVG out: the only module that knows matplotlib (the extra ``kvmpc[report]``).

The SVG stands inside a page: no prolog, no metadata, text as text in the page's fonts, no
identifier but those it refers to itself, which begin with the chart's own key. Lines differ in
colour, in marker and in dash (`kvmpc.show.page.looks`).
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any, Final, assert_never

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from kvmpc.show.page import text
from kvmpc.show.page.chart import (
    Chart,
    ChartLine,
    CurvesChart,
    Dot,
    LinesChart,
    PartsChart,
    RowsChart,
    Scale,
    SpansChart,
    StackChart,
)
from kvmpc.show.page.looks import Look, looks_in_turn

__all__ = ["draw"]

_HATCHES: Final = ("", "///", "...", "xx", "\\\\\\")
_PUBLISHED: Final = "#555555"

_WIDTH: Final = 7.8  # inches of 72 points; the page scales it
_LABEL_LETTERS: Final = 44

_SETTINGS: Final[dict[str, Any]] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10.0,
    "text.parse_math": False,  # a pager's label is no formula
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.markersize": 5.5,
    "lines.linewidth": 1.6,
}


def draw(chart: Chart, looks: Mapping[str, Look], name: str) -> str:
    """Return `chart` as an SVG element; `name` is unique in the page, of letters and hyphens."""
    others = looks_in_turn(line.key for line in chart.lines if line.key not in looks)
    looks = {**looks, **others}
    with _settings(name):
        figure = _drawn(chart, looks)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return _embedded(stream.getvalue(), name, text.clean(chart.spoken()))


@contextmanager
def _settings(name: str) -> Iterator[None]:
    with warnings.catch_warnings(), matplotlib.rc_context():
        # What a user's matplotlibrc says is for his own plots.
        matplotlib.rcdefaults()
        settings: dict[Any, Any] = {**_SETTINGS, "svg.hashsalt": name}
        matplotlib.rcParams.update(settings)
        # The browser has the font that this machine lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def _drawn(chart: Chart, looks: Mapping[str, Look]) -> Figure:
    match chart:
        case LinesChart():
            return _lines(chart, looks)
        case RowsChart():
            return _rows(chart, looks)
        case CurvesChart():
            return _curves(chart, looks)
        case SpansChart():
            return _spans(chart, looks)
        case PartsChart():
            return _parts(chart, looks)
        case StackChart():
            return _stack(chart, looks)
        case _:
            assert_never(chart)


def _lines(chart: LinesChart, looks: Mapping[str, Look]) -> Figure:
    figure, axes = _figure(3.4, chart.lines)
    _scale(axes, chart.x, chart.y, base=2)
    handles = []
    for line in chart.lines:
        colour, marker, dash = looks[line.key]
        xs, ys = [dot.x for dot in line.dots], [dot.y for dot in line.dots]
        if line.published:
            style: dict[str, Any] = {"color": _PUBLISHED, "linewidth": 1.1, "markersize": 4.5}
            style |= {"markerfacecolor": "white"}
        else:
            style = {"color": colour}
            axes.errorbar(
                xs, ys, yerr=_bars(line.dots), fmt="none", ecolor=colour, elinewidth=1, capsize=2
            )
        if line.published and len(line.dots) == 2:
            dash = "none"  # two ends: what lies between them is not known
        handles += axes.plot(xs, ys, marker=marker, linestyle=dash, **style)
    if chart.one:
        axes.axhline(1, color="#555555", linewidth=0.8)
    _x_ticks(axes, chart)
    _y_ticks(axes, chart.y)
    for x, said in chart.marks:
        axes.axvline(x, color=_PUBLISHED, linewidth=1.1, linestyle=(0, (2, 2)))
        axes.annotate(
            said, (x, 1), (4, -2), xycoords=("data", "axes fraction"), textcoords="offset points",
            va="top", color=_PUBLISHED, fontsize=9,
        )  # fmt: skip
    _legend(figure, handles, chart.lines)
    return figure


def _rows(chart: RowsChart, looks: Mapping[str, Look]) -> Figure:
    """Draw one dot a line, its value written beside it."""
    figure, axes = _empty_figure(0.75 + 0.3 * len(chart.lines))
    furthest = max(dot.high for line in chart.lines for dot in line.dots)
    for row, line in enumerate(chart.lines):
        colour, marker, _ = looks[line.key]
        dot = line.dots[0]
        axes.plot([0, dot.y], [row, row], color=colour, linewidth=1, alpha=0.4)
        axes.plot([dot.low, dot.high], [row, row], color=colour, linewidth=3, alpha=0.6)
        axes.plot([dot.y], [row], marker=marker, color=colour, markersize=7)
        axes.annotate(
            chart.y.spell(dot.y), (dot.high, row), (8, 0), textcoords="offset points", va="center"
        )
    axes.set_xlim(0, furthest * 1.14 or 1)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    _values(axes.xaxis, chart.y)
    if chart.one:
        axes.axvline(1, color="#555555", linewidth=0.8)
    _row_names(axes, [line.label for line in chart.lines])
    return figure


def _spans(chart: SpansChart, looks: Mapping[str, Look]) -> Figure:
    """Draw lowest to highest thin, the inner dots thick, the middle one as a marker."""
    figure, axes = _empty_figure(0.75 + 0.3 * len(chart.lines))
    for row, line in enumerate(chart.lines):
        colour, marker, _ = looks[line.key]
        lowest, low, middle, high, highest = (dot.y for dot in line.dots)
        axes.plot([lowest, highest], [row, row], color=colour, linewidth=1.2)
        axes.plot([low, high], [row, row], color=colour, linewidth=5, alpha=0.55)
        axes.plot([middle], [row], marker=marker, color=colour, markersize=7)
    axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.axvline(1, color="#555555", linewidth=0.8)
    _values(axes.xaxis, chart.y)
    _row_names(axes, [line.label for line in chart.lines])
    return figure


def _parts(chart: PartsChart, looks: Mapping[str, Look]) -> Figure:
    """Draw the lines' dots beside each other on the same rows."""
    labels = [row[0] for row in chart.table.rows]
    figure, axes = _empty_figure(1.1 + 0.22 * len(chart.lines) * len(labels))
    handles = []
    for turn, line in enumerate(chart.lines):
        colour, marker, _ = looks[line.key]
        shift = 0.7 * ((turn + 0.5) / len(chart.lines) - 0.5)
        rows_at = [dot.x + shift for dot in line.dots]
        for at, dot in zip(rows_at, line.dots, strict=True):
            axes.plot([dot.low, dot.high], [at, at], color=colour, linewidth=1.5, alpha=0.6)
        handles += axes.plot(
            [dot.y for dot in line.dots],
            rows_at,
            marker=marker,
            color=colour,
            linestyle="none",
            markersize=6,
        )
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(_log_ticks(low, high))
    axes.xaxis.set_minor_locator(NullLocator())
    _values(axes.xaxis, chart.y)
    _row_names(axes, labels)
    _legend(figure, handles, chart.lines)
    return figure


def _stack(chart: StackChart, looks: Mapping[str, Look]) -> Figure:
    """Draw lines' dots end to end on each row, told apart by hatching too."""
    labels = [row[0] for row in chart.table.rows]
    figure, axes = _figure(0.75 + 0.34 * len(labels), chart.lines)
    ends = [0.0] * len(labels)
    handles = []
    for turn, line in enumerate(chart.lines):
        rows = [int(dot.x) for dot in line.dots]
        bars = axes.barh(
            rows,
            [dot.y for dot in line.dots],
            left=[ends[row] for row in rows],
            height=0.62,
            color=looks[line.key][0],
            edgecolor="white",
            hatch=_HATCHES[turn % len(_HATCHES)],
        )
        for row, dot in zip(rows, line.dots, strict=True):
            ends[row] += dot.y
        handles.append(bars)
    for row, (end, said) in enumerate(zip(chart.ends, chart.said, strict=True)):
        reach = 0.0
        if end is not None:
            reach = end.high
            axes.plot([end.low, end.high], [row, row], color="#222222", linewidth=1.2)
        told = said if end is None else chart.y.spell(end.y)
        axes.annotate(told, (reach, row), (6, 0), textcoords="offset points", va="center")
    axes.set_xlim(0, max(end.high for end in chart.ends if end is not None) * 1.14)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    _values(axes.xaxis, chart.y)
    _row_names(axes, labels)
    _legend(figure, handles, chart.lines)
    return figure


def _curves(chart: CurvesChart, looks: Mapping[str, Look]) -> Figure:
    figure, axes = _figure(3.6, chart.lines)
    _scale(axes, chart.x, chart.y, base=10)
    handles = []
    for line in chart.lines:
        colour, marker, dash = looks[line.key]
        xs, ys = [dot.x for dot in line.dots], [dot.y for dot in line.dots]
        every = max(1, len(xs) // 8)
        handles += axes.plot(
            xs,
            ys,
            color=colour,
            linestyle=dash,
            marker=marker,
            markevery=every,
        )
    if chart.x.log:
        low, high = axes.get_xlim()
        axes.xaxis.set_major_locator(_log_ticks(low, high))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(8))
    _values(axes.xaxis, chart.x)
    _y_ticks(axes, chart.y)
    _legend(figure, handles, chart.lines)
    return figure


def _figure(height: float, lines: Sequence[ChartLine]) -> tuple[Figure, Axes]:
    """Return axes so high, and room for the legend of `lines` below them."""
    return _empty_figure(height + 0.2 * -(-len(lines) // _columns(lines)))


def _empty_figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _columns(lines: Sequence[ChartLine]) -> int:
    longest = min(_LABEL_LETTERS, max(len(line.label) for line in lines))
    return max(1, min(4, 92 // (longest + 9)))


def _legend(figure: Figure, handles: Sequence[Any], lines: Sequence[ChartLine]) -> None:
    figure.legend(
        handles,
        [_label(line.label) for line in lines],
        loc="outside lower left",
        ncols=_columns(lines),
        handlelength=3.5,
    )


def _label(label: str) -> str:
    # Matplotlib takes a leading underscore for "not in the legend".
    shown = text.shortened(text.clean(label), _LABEL_LETTERS)
    return f" {shown}" if shown.startswith("_") else shown


def _row_names(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), [_label(label) for label in labels])
    axes.set_ylim(len(labels) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)


def _bars(dots: Sequence[Dot]) -> list[list[float]]:
    return [[dot.y - dot.low for dot in dots], [dot.high - dot.y for dot in dots]]


def _scale(axes: Axes, x: Scale, y: Scale, base: int) -> None:
    if x.log:
        axes.set_xscale("log", base=base)
    if y.log:
        axes.set_yscale("log")


def _log_ticks(low: float, high: float) -> LogLocator:
    return LogLocator(10, subs=(1.0,) if high / low > 1000 else (1.0, 2.0, 5.0), numticks=12)


def _x_ticks(axes: Axes, chart: LinesChart) -> None:
    """Put ticks at the values that were measured, as many as have room."""
    values = sorted({dot.x for line in chart.lines for dot in line.dots})
    low, high = axes.transData.transform([(values[0], 1), (values[-1], 1)])[:, 0]
    room = 0.06 * abs(high - low)
    kept = [values[-1]]
    for value in values[-2::-1]:
        at, after = axes.transData.transform([(value, 1), (kept[-1], 1)])[:, 0]
        if after - at >= room:
            kept.append(value)
    axes.xaxis.set_major_locator(FixedLocator(kept))
    axes.xaxis.set_minor_locator(NullLocator())
    _values(axes.xaxis, chart.x)


def _y_ticks(axes: Axes, y: Scale) -> None:
    if y.log:
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(_log_ticks(low, high))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(6))
    _values(axes.yaxis, y)


def _values(axis: Axis, scale: Scale) -> None:
    """Write an axis's values and its label."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: scale.spell(value)))
    axis.set_label_text(scale.label)


def _embedded(document: str, name: str, spoken: str) -> str:
    """Return matplotlib's SVG document as an element that can stand in a page beside others."""
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{name}-", svg)
    svg = svg.replace("xlink:href", "href")
    box = re.search(r'viewBox="[^"]*"', svg)
    opening = f'<svg {box[0] if box else ""} role="img"'
    opening += f' aria-label="{escape(spoken)}">'
    return re.sub(r"^<svg[^>]*>", lambda _: opening, svg, count=1)
