"""What tests ask of the charts of a result."""

from __future__ import annotations

from kvmpc.result.records import Result
from kvmpc.show.page.chart import Chart
from kvmpc.show.page.panels import panels_of
from kvmpc.show.page.rate_charts import charts_of

__all__ = ["by_label", "chart_of"]


def chart_of(result: Result, key: str, panel: int = 0) -> Chart:
    """Return a chart of one of the panels of a result."""
    return next(chart for chart in charts_of(panels_of(result)[panel]) if chart.key == key)


def by_label(chart: Chart) -> dict[str, dict[float, float]]:
    """Return y by x of each line."""
    return {line.label: {dot.x: dot.y for dot in line.dots} for line in chart.lines}
