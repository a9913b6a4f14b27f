"""The text that says where a fault's time goes, for a result that was split. It prints nothing."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from tabulate import tabulate

from kvmpc.judge.rows import usable_trials
from kvmpc.judge.summary import median
from kvmpc.result.points import point_names, points_of
from kvmpc.result.records import Result
from kvmpc.units import format_ns

__all__ = ["format_split"]

_WIDTH = 98
_PARTS = ("fault", "noticed", "fetch", "install", "back", "install_back")
_HEADERS = ("pager", "", "fault", "noticed", "fetch", "install", "back", "install+back")

_NOTE = """\
medians over rounds. noticed: from the guest's touch until the resolver has the page; fetch: the \
simulated network; install: UFFDIO_COPY; back: from its return until the guest goes on (uffd has \
none of its own: its vCPU is woken before the install returns). Each page's parts add up to its \
fault; their medians need not."""


def format_split(result: Result) -> str:
    """Return the table of the latency split of `result`; "" where it has none."""
    points = points_of(result)
    rows: list[list[str]] = []
    for name, point in zip(point_names([p.options for p in points]), points, strict=True):
        found = [
            [label if quantile == "p50" else "", quantile, *cells]
            for spec in point.pagers
            for label, quantile, cells in _rows(point, spec, point.pager(spec).label)
        ]
        rows += ([[""], [name]] if name and found else []) + found
    if not rows:
        return ""
    whole = [row for row in rows if len(row) == len(_HEADERS)]
    widths = [max(map(len, column)) for column in zip(_HEADERS, *whole, strict=True)]
    table = tabulate(
        [_HEADERS, ["-" * width for width in widths], *rows],
        tablefmt="plain",
        disable_numparse=True,
        colalign=["left", "left", *["right"] * len(_PARTS)],
    )
    note = textwrap.wrap(_NOTE, _WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(["where a fault's time goes", "", table, "", *note])


def _rows(point: Result, spec: str, label: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield label, quantile and cells of a pager's rows; nothing where it was not split."""
    trials = usable_trials(point, spec)
    if not any("noticed_p50_ns" in trial.metrics for trial in trials):
        return
    for quantile in ("p50", "p99"):
        cells = []
        for part in _PARTS:
            key = f"{part}_{quantile}_ns"
            value = median(trial.metrics[key] for trial in trials if key in trial.metrics)
            cells.append("-" if value is None else format_ns(value))
        yield label, quantile, cells
