"""Two results of one host beside each other: which panels go together, the tables, the chart.

What changed is `kvmpc.judge.change`; what is said of it in words is `kvmpc.show.page.words`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kvmpc.judge.change import Change, ChangedRow, change_of
from kvmpc.judge.summary import Summary
from kvmpc.judge.turns import in_turn
from kvmpc.result.metrics import CPU, FAULT_P99, RATE
from kvmpc.result.points import identity
from kvmpc.result.records import Result
from kvmpc.show.page import text
from kvmpc.show.page.chart import LinesChart, RowsChart, Scale, Table
from kvmpc.show.page.panels import Panel, panel_chart, panels_of, shown_pagers

__all__ = ["change_chart", "changed_table", "panels_of_both", "unmatched_table"]

_SIDES = {"baseline": "before", "new": "after"}


def changed_table(change: Change) -> Table:
    """Return the rows found in both results."""
    return Table(
        headers=(
            "pager",
            "where",
            "pages/s before",
            "after",
            "rate after/before",
            "p99 fault after/before",
            "CPU per GiB after/before",
        ),
        rows=tuple(map(_changed_cells, change.rows)),
    )


def _changed_cells(row: ChangedRow) -> tuple[str, ...]:
    return (
        row.label,
        row.where or "-",
        text.number(row.before.get(RATE.key)),
        text.number(row.after.get(RATE.key)),
        *(text.interval(row.ratios.get(name)) for name in (RATE.key, FAULT_P99.key, CPU.key)),
    )


def unmatched_table(change: Change) -> Table:
    """Return what only one of the results has, with the reason."""
    return Table(
        headers=("pager", "where", "only in", "why"),
        rows=tuple(
            (each.label or "all pagers", each.point, _SIDES[each.side], each.reason)
            for each in change.unmatched
        ),
    )


def panels_of_both(before: Result, after: Result) -> Iterator[tuple[Panel, Mapping[int, Result]]]:
    """Yield each panel of `before`, and the points of `after` by the index of theirs in it.

    Panels without a point in common are left out.
    """
    theirs = {_key(point): point for panel in panels_of(after) for point in panel.points}
    for panel in panels_of(before):
        partners = {
            index: theirs[_key(point)]
            for index, point in enumerate(panel.points)
            if _key(point) in theirs
        }
        if partners:
            yield panel, partners


def _key(point: Result) -> str:
    return repr(sorted(identity(point.options).items(), key=lambda item: item[0]))


def change_chart(before: Panel, after: Mapping[int, Result]) -> LinesChart | RowsChart:
    """Return the rate after over the rate before, of each pager in both panels."""
    partners = {id(before.points[index]): point for index, point in after.items()}

    def ratio(point: Result, spec: str) -> Summary | None:
        partner = partners.get(id(point))
        # Labels too: two providers of exits are two pagers.
        if partner is None or _label(partner, spec) != _label(point, spec):
            return None
        return change_of(RATE, spec, point, partner)

    return panel_chart(
        before,
        shown_pagers(before),
        ratio,
        key="ba",
        title="Rate after over rate before",
        y=Scale(label="rate after / rate before", spell=text.ratio, log=True),
        note=f"Above 1 is faster than before: the middle of {_of_what(before, after)}.",
        absent="No pager has a rate in both.",
        one=True,
    )


def _of_what(before: Panel, after: Mapping[int, Result]) -> str:
    both = [([before.points[index]], [point]) for index, point in after.items()]
    if any(in_turn(*sides) for sides in both):
        return "those within each pair of blocks, both measured in turn"
    return "all pairs of a round after and one before, of two separate runs"


def _label(point: Result, spec: str) -> str | None:
    return dict(zip(point.pagers, point.labels, strict=False)).get(spec)
