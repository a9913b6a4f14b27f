"""A result as text for a terminal: the table, and below it what is needed to judge the table.

As wide as a terminal, at most 80 columns, whatever the result holds, and safe to print: text from a
file of another host may not move the cursor. Computes nothing but roundings; the numbers are those
of `kvmpc.judge`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Final

from kvmpc.judge.reading import PointReading, Reading
from kvmpc.judge.rows import Row
from kvmpc.show.cells import (
    MAX_COLUMNS,
    MIN_LABEL_COLUMNS,
    clean,
    columns,
    duration,
    label_room,
    number,
    paragraph,
    percent,
    ratio,
    stacked,
    wrap_label,
)
from kvmpc.show.sentences import notes_of

__all__ = ["MAX_COLUMNS", "format_markdown", "format_table", "markdown_table"]

_HEADERS: Final = (
    "pager",
    "pages/s",
    "MiB/s",
    "ratio",
    "of\nnone",
    "fault\np50",
    "fault\np99",
    "CPU s\n/GiB",
    "verified",
)


def format_table(reading: Reading, room: int = MAX_COLUMNS) -> str:
    """Return the table of a result and the notes below it, ending in a newline.

    Each point of a sweep has a line that names the options by which it differs, and then its rows;
    each note is given once. Where `room` is too narrow for all columns, they stand in blocks.
    """
    notes = (paragraph(note, room) for note in notes_of(reading))
    return "\n".join([*_table(reading.points, room), "", *notes]) + "\n"


def format_markdown(reading: Reading) -> str:
    """Return the same table for a page or a report, ending in a newline."""
    parts = []
    for at in reading.points:
        if at.name:
            parts.append(f"**{clean(at.name)}**")
        parts.append(
            markdown_table(
                _HEADERS,
                [[clean(row.label), *_cells(row, with_spread=True)] for row in at.rows],
            )
        )
    return "\n\n".join([*parts, *notes_of(reading)]) + "\n"


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of GitHub's kind; cells in one line each."""
    lines = [
        [" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in (headers, *rows)
    ]
    lines.insert(1, ["---"] * len(headers))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _table(points: Sequence[PointReading], room: int) -> list[str]:
    headers, cells = (
        list(_HEADERS),
        [_cells(row, with_spread=True) for at in points for row in at.rows],
    )
    if label_room([headers[1:], *cells], room) < MIN_LABEL_COLUMNS:
        headers = [headers[0], *_merged(headers[1:])]
        cells = [stacked(_merged(row)) for row in cells]
    of_label = max(MIN_LABEL_COLUMNS, label_room([headers[1:], *cells], room))
    numbers = iter(cells)
    # One table, so that the columns of all points stand below each other; headings between.
    rows: list[Sequence[str]] = [headers]
    for at in points:
        if at.name:
            wrapped = textwrap.wrap(clean(at.name), room, subsequent_indent="  ")
            rows += [[""], ["\n".join(wrapped)]]
        rows += [[wrap_label(row.label, of_label), *next(numbers)] for row in at.rows]
    return columns(rows, "l" + "r" * (len(headers) - 2) + "l", room=room)


def _merged(cells: list[str]) -> list[str]:
    """Return the cells right of a label, the same rate in its two units in one of them."""
    rate, mib_rate, *others = cells
    return [rate if rate == mib_rate else f"{rate}\n{mib_rate}", *others]


def _cells(row: Row, *, with_spread: bool) -> list[str]:
    """Return what stands right of the pager's name."""
    return [
        number(row.pages_per_s),
        number(row.mib_per_s),
        ratio(row.ratio, with_spread=with_spread),
        percent(row.share_of_none),
        duration(row.fault_p50_ns),
        duration(row.fault_p99_ns),
        number(row.cpu_s_per_gib),
        row.outcome,
    ]
