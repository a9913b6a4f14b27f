"""The text that says where a fault's time goes, for a result that was split. It prints nothing."""

from __future__ import annotations

from collections.abc import Iterator

from kvmpc.judge.reading import Reading
from kvmpc.judge.rows import Row, usable_trials, values_of
from kvmpc.judge.summary import median
from kvmpc.result.metrics import FAULT_P50, FAULT_P99, PART_QUANTILES, PARTS, part_metric
from kvmpc.result.records import Result
from kvmpc.show.cells import (
    ABSENT,
    MAX_COLUMNS,
    MIN_LABEL_COLUMNS,
    columns,
    label_room,
    paragraph,
    wrap_label,
)
from kvmpc.units import format_ns

__all__ = ["format_split"]

_WIDTH = 80
_FAULT = {"p50": FAULT_P50, "p99": FAULT_P99}
_HEADERS = ("pager", "", "fault", "noticed", "fetch", "install", "back", "install+back")

_NOTE = """\
medians over rounds. noticed: from the guest's touch until the resolver has the page; fetch: the \
simulated network; install: UFFDIO_COPY; back: from its return until the guest goes on (uffd has \
none of its own: its vCPU is woken before the install returns). Each page's parts add up to its \
fault; their medians need not."""


def format_split(reading: Reading, room: int = MAX_COLUMNS) -> str:
    """Return the table of the latency split of a result; "" where it has none."""
    rows: list[list[str]] = []
    for at in reading.points:
        found = [cells for row in at.rows for cells in _rows(at.result, row)]
        rows += ([[""], [at.name]] if at.name and found else []) + found
    if not rows:
        return ""
    others = [row[1:] for row in (_HEADERS, *rows) if len(row) == len(_HEADERS)]
    of_label = max(MIN_LABEL_COLUMNS, label_room(others, room))
    body = [[wrap_label(row[0], of_label) if len(row) > 1 else row[0], *row[1:]] for row in rows]
    table = columns([_HEADERS, *body], "ll" + "r" * (len(_HEADERS) - 2), room=room, lead=2)
    note = paragraph(_NOTE, min(room, _WIDTH))
    return "\n".join(["where a fault's time goes", "", *table, "", note])


def _rows(point: Result, row: Row) -> Iterator[list[str]]:
    """Yield a pager's cells, a line for each quantile; nothing where it was not split."""
    trials = usable_trials(point, row.spec)
    if not any(part_metric("noticed", "p50").key in trial.metrics for trial in trials):
        return
    for quantile in PART_QUANTILES:
        metrics = (_FAULT[quantile], *(part_metric(part, quantile) for part in PARTS))
        medians = (median(values_of(trials, metric.key)) for metric in metrics)
        cells = [ABSENT if ns is None else format_ns(ns) for ns in medians]
        yield [row.label if quantile == "p50" else "", quantile, *cells]
