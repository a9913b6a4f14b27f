"""A result as text for a terminal: the table, and below it what is needed to judge the table.

Under 100 columns whatever the result holds, and safe to print: text from a file of another host
may not move the cursor. Computes nothing but roundings; the numbers are those of `kvmpc.judge`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import islice
from typing import Final

from kvmpc.judge.reading import PointReading, Reading
from kvmpc.judge.rows import Row
from kvmpc.show.cells import (
    clean,
    columns,
    duration,
    number,
    percent,
    ratio,
    widths,
    wrap_label,
)
from kvmpc.show.sentences import notes_of

__all__ = [
    "MAX_COLUMNS",
    "format_markdown",
    "format_table",
    "markdown_table",
]

MAX_COLUMNS: Final = 99

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
_MIN_PAGER_COLUMNS: Final = 16  # holds fetch=pipelined


def format_table(reading: Reading) -> str:
    """Return the table of a result and the notes below it, ending in a newline.

    Each point of a sweep has a line that names the options by which it differs, and then its rows;
    each note is given once.
    """
    notes = (textwrap.fill(note, MAX_COLUMNS, subsequent_indent="  ") for note in notes_of(reading))
    return "\n".join([_table(reading.points), "", *notes]) + "\n"


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


def _table(points: Sequence[PointReading]) -> str:
    def cells_of(*, with_spread: bool) -> list[list[str]]:
        return [_cells(row, with_spread=with_spread) for at in points for row in at.rows]

    cells = cells_of(with_spread=True)
    if _room_for_pager(cells) < _MIN_PAGER_COLUMNS:
        cells = cells_of(with_spread=False)
    room = max(_MIN_PAGER_COLUMNS, _room_for_pager(cells))
    labels = [wrap_label(row.label, room) for at in points for row in at.rows]
    body = [[label, *numbers] for label, numbers in zip(labels, cells, strict=True)]
    lines = iter(columns([_HEADERS, *body], "l" + "r" * (len(_HEADERS) - 2) + "l"))
    # One table, so that the columns of all points stand below each other; headings between.
    said = list(islice(lines, 2))
    for at in points:
        if at.name:
            said += ["", *textwrap.wrap(clean(at.name), MAX_COLUMNS, subsequent_indent="  ")]
        said += islice(lines, len(at.rows))
    return "\n".join(said)


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


def _room_for_pager(cells: Sequence[Sequence[str]]) -> int:
    separators = 2 * (len(_HEADERS) - 1)
    return MAX_COLUMNS - separators - sum(widths([_HEADERS[1:], *cells]))
