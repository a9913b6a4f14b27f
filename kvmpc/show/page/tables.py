"""The tables of a panel that belong to no chart: every number of its points, and how it scales."""

from __future__ import annotations

from typing import Final

from kvmpc.judge.rows import Row, compare_rows
from kvmpc.result.metrics import RATE
from kvmpc.show.page import text
from kvmpc.show.page.chart import Table
from kvmpc.show.page.panels import Panel, of_metric, shown_pagers

__all__ = ["NUMBER_HEADERS", "number_groups", "scaling"]

NUMBER_HEADERS: Final = (
    "pager", "pages/s", "MiB/s", "ratio", "of none", "fault p50", "fault p99", "CPU s/GiB",
    "verified", "rounds",
)  # fmt: skip
"""Of what the terminal shows, and how many rounds it is of."""

_SCALING: Final = ("pager", "first", "peak", "peak at", "last", "last of peak", "last over first")


def number_groups(panel: Panel) -> list[tuple[str, list[tuple[str, ...]]]]:
    """Return rows of `NUMBER_HEADERS` by point; the name of the only point is empty."""
    return [
        (panel.spell(index), [_number_cells(row) for row in compare_rows(point)])
        for index, point in enumerate(panel.points)
    ]


def _number_cells(row: Row) -> tuple[str, ...]:
    return (
        row.label,
        text.number(row.pages_per_s),
        text.number(row.mib_per_s),
        text.interval(row.ratio).replace(" ", "\n", 1),
        text.percent(row.share_of_none),
        text.duration(row.fault_p50_ns),
        text.duration(row.fault_p99_ns),
        text.number(row.cpu_s_per_gib),
        row.outcome,
        str(row.ok_trials),
    )


def scaling(panel: Panel) -> Table:
    """Return how the rate of each pager scales; no rows where the panel has no axis."""
    pagers = shown_pagers(panel) if panel.axis is not None else {}
    cells = (_scaling_cells(panel, spec, label) for spec, label in pagers.items())
    return Table(headers=_SCALING, rows=tuple(row for row in cells if row))


def _scaling_cells(panel: Panel, spec: str, label: str) -> tuple[str, ...]:
    """Return the cells of a pager; none where it has a rate at fewer than two points."""
    rates = [
        (rate.median, index)
        for index, point in enumerate(panel.points)
        if (rate := of_metric(RATE.key)(point, spec)) is not None
    ]
    if len(rates) < 2:
        return ()
    peak, where = max(rates)
    (first, _), (last, _) = rates[0], rates[-1]
    return (
        label,
        text.number(first),
        text.number(peak),
        panel.spell(where),
        text.number(last),
        text.percent(last / peak),
        text.ratio(last / first),
    )
