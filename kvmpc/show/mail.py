"""A result as a block to paste into a mail: plain ASCII of at most 72 columns, and not long.

What a list asks of every number stands in it: kernel, CPU, version, date, the command, the worst
that can be said against it. It is cut where it would get long, and says so; the whole is in the
table and in the file.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from kvmpc.judge.reading import PointReading, Reading
from kvmpc.judge.regression import Check
from kvmpc.judge.rows import Outcome, Row
from kvmpc.judge.told import of_run, worst
from kvmpc.show.cells import (
    MIN_LABEL_COLUMNS,
    clean,
    columns,
    duration,
    label_room,
    number,
    percent,
    ratio,
    wrap_label,
)
from kvmpc.show.check_table import format_check_table
from kvmpc.show.sentences import failures_of, fastest_of, host_of, references_of, work_of
from kvmpc.show.shell import shell_word

__all__ = ["MAIL_COLUMNS", "format_check_mail", "format_mail"]

MAIL_COLUMNS: Final = 72
"""What a list wraps at, with room to be quoted twice."""

_MOST_POINTS, _MOST_ROWS, _MOST_FAILURES, _MOST_DOUBTS = 4, 24, 3, 2
_LINES_OF_NOTE, _LINES_OF_COMMAND, _LINES_OF_LABEL = 4, 6, 4

_HEADERS: Final = ("pager", "pages/s", "ratio", "of\nnone", "fault\np99", "CPU s\n/GiB")


def format_mail(reading: Reading) -> str:
    """Return the block of a result, ending in a newline."""
    result = reading.result
    points = _some_points(reading.points)
    left_out = len(reading.points) - len(points)
    parts = [
        _wrapped([f"kvmpc {result.tool_version}, {result.started[:10]}", host_of(result)]),
        _wrapped([work_of(result, reading.points)]),
        _command(result.command),
        [""],
        _table(points),
        _wrapped([f"{left_out} more points are left out"] * (left_out > 0)),
        [""],
        _wrapped(_notes(reading, points)),
        _wrapped(_doubts(reading)),
    ]
    return "".join(f"{line}\n" for part in parts for line in part)


def format_check_mail(check: Check) -> str:
    """Return the block of a check, ending in a newline: of which runs, its table, what to doubt."""
    old, new = (
        ", ".join(dict.fromkeys(run.started[:10] for run in runs))
        for runs in (check.baseline, check.new)
    )
    doubts = [told.text for told in worst(check.new, _MOST_DOUBTS)]
    parts = [
        _wrapped([f"kvmpc {check.new[0].tool_version} check: {new} against {old}"]),
        _wrapped([host_of(check.new[0])]),
        _command(check.new[0].command),
        [""],
        _plain_lines(format_check_table(check, MAIL_COLUMNS)),
        _wrapped(f"doubt: {text}" for text in doubts),
    ]
    return "".join(f"{line}\n" for part in parts for line in part)


def _plain_lines(text: str) -> list[str]:
    return [line.encode("ascii", "replace").decode() for line in text.splitlines()]


def _some_points(points: Sequence[PointReading]) -> list[PointReading]:
    """Return as many points as have room, evenly spaced, the first and the last with a rate."""
    rows = max((len(at.rows) for at in points), default=1)
    most = max(1, min(_MOST_POINTS, _MOST_ROWS // max(1, rows)))
    if len(points) <= most:
        return list(points)
    # Where there is too little room for all, none for those that only failed or were skipped.
    points = [at for at in points if any(row.rate is not None for row in at.rows)] or points
    if len(points) <= most:
        return list(points)
    if most == 1:
        return [points[-1]]
    return [points[round(n * (len(points) - 1) / (most - 1))] for n in range(most)]


def _some_rows(at: PointReading) -> list[Row]:
    """Return as many rows as have room: what ratios refer to and whoever is best, then in order."""
    if len(at.rows) <= _MOST_ROWS:
        return list(at.rows)
    fetching = [row for row in at.rows if row.pager.fetches and row.pages_per_s is not None]
    best = max(fetching, key=lambda row: row.pages_per_s or 0.0, default=None)
    wanted = [row.spec for row in (at.ratio_base, at.share_base, best) if row is not None]
    others = [row.spec for row in at.rows if row.spec not in wanted]
    kept = {*wanted, *others[: _MOST_ROWS - len(wanted)]}
    return [row for row in at.rows if row.spec in kept]


def _table(points: Sequence[PointReading]) -> list[str]:
    shown = [(at, _some_rows(at)) for at in points]

    def cells_of(*, with_spread: bool) -> list[list[str]]:
        return [_cells(row, with_spread=with_spread) for _, rows in shown for row in rows]

    cells = cells_of(with_spread=True)
    if label_room([_HEADERS[1:], *cells], MAIL_COLUMNS) < MIN_LABEL_COLUMNS:
        cells = cells_of(with_spread=False)
    of_label = max(MIN_LABEL_COLUMNS, label_room([_HEADERS[1:], *cells], MAIL_COLUMNS))
    numbers = iter(cells)
    rows: list[Sequence[str]] = [_HEADERS]
    for at, some in shown:
        if at.name:
            rows += [[""], ["\n".join(_wrapped([at.name]))]]
        rows += [[_label(row.label, of_label), *next(numbers)] for row in some]
        if len(some) < len(at.rows):
            rows.append([f"{len(at.rows) - len(some)} more pagers are left out"])
    said = columns(rows, "l" + "r" * (len(_HEADERS) - 1), room=MAIL_COLUMNS)
    return [line for row in said for line in row.split("\n")]


def _label(label: str, room: int) -> str:
    lines = wrap_label(_plain(label), room).split("\n")
    return "\n".join(
        lines if len(lines) <= _LINES_OF_LABEL else [*lines[: _LINES_OF_LABEL - 1], " ..."]
    )


def _cells(row: Row, *, with_spread: bool) -> list[str]:
    """Return what stands right of the pager's name; what became of it where it has no rate."""
    return [
        str(row.outcome) if row.pages_per_s is None else number(row.pages_per_s),
        ratio(row.ratio, with_spread=with_spread),
        percent(row.share_of_none),
        duration(row.fault_p99_ns),
        number(row.cpu_s_per_gib),
    ]


def _notes(reading: Reading, points: Sequence[PointReading]) -> Iterator[str]:
    """Yield what is needed to judge the table, most needed first."""
    if not reading.result.finished:
        yield "UNFINISHED: this run was stopped or is still going."
    if not reading.result.trials:
        yield "No trial was run."
    failures = list(failures_of(reading.points))
    yield from failures[:_MOST_FAILURES]
    if len(failures) > _MOST_FAILURES:
        yield f"{len(failures) - _MOST_FAILURES} more reasons are left out"
    unverified = [row.label for at in points for row in at.rows if row.outcome is Outcome.NO]
    if unverified:
        yield f"not verified: {', '.join(dict.fromkeys(unverified))}"
    yield from fastest_of(reading.points)
    yield from references_of(points)


def _doubts(reading: Reading) -> Iterator[str]:
    """Yield the worst cautions about this run, and how many there are beside them."""
    told = [each.text for each in of_run(reading.cautions)][:_MOST_DOUBTS]
    yield from (f"doubt: {text}" for text in told)
    more = len(reading.cautions) - len(told)
    if more > 0:
        yield f"{more} more caution{'s are' if more > 1 else ' is'} in the result"


def _command(words: Iterable[str]) -> list[str]:
    """Return a command that a shell reads back, as far as it has room."""
    lines = ["command:"]
    for word in (shell_word(word, ascii_only=True) for word in words):
        shown = word if len(word) <= MAIL_COLUMNS - 4 else f"{word[: MAIL_COLUMNS - 7]}..."
        if len(lines[-1]) + len(shown) > MAIL_COLUMNS - 3:
            lines[-1] += " \\"
            lines.append(" ")
        lines[-1] += f" {shown}"
    if len(lines) > _LINES_OF_COMMAND:
        lines[_LINES_OF_COMMAND - 1 :] = ["  ..."]
    return lines


def _wrapped(texts: Iterable[str]) -> list[str]:
    """Return texts in lines, each of a few at most, and each once."""
    return [
        line
        for text in dict.fromkeys(map(_plain, texts))
        for line in textwrap.wrap(
            text,
            MAIL_COLUMNS,
            subsequent_indent="  ",
            break_on_hyphens=False,
            max_lines=_LINES_OF_NOTE,
            placeholder=" ...",
        )
    ]


def _plain(text: str) -> str:
    """Return a text as a mail is sure to carry it: one letter, one column."""
    return clean(text).encode("ascii", "replace").decode()
