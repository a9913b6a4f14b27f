"""Numbers and names as they stand in a table: rounded, with units, safe to print, None as ``-``.

Computes nothing but roundings. Text from a file of another host may not move the cursor.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Final

from kvmpc.judge.summary import Summary
from kvmpc.units import format_ns

__all__ = [
    "ABSENT",
    "MAX_COLUMNS",
    "MIN_LABEL_COLUMNS",
    "clean",
    "columns",
    "duration",
    "label_room",
    "list_of",
    "number",
    "paragraph",
    "percent",
    "ratio",
    "row_name",
    "stacked",
    "widths",
    "wrap_label",
]

ABSENT: Final = "-"

MAX_COLUMNS: Final = 80
"""How wide a text may get where no terminal says less: as wide as mail and most terminals."""

MIN_LABEL_COLUMNS: Final = 16
"""Holds fetch=pipelined."""


def columns(
    rows: Sequence[Sequence[str]], align: str, *, room: int | None = None, lead: int = 1
) -> list[str]:
    """Return the rows as text, their cells in columns two blanks apart, a rule below the first.

    rows: the headers come first; a cell may have several lines. One with fewer cells than there are
        columns is a heading, of one cell, at which the rule does not look.
    align: ``l`` or ``r``, a letter a column.
    room: how wide it may get, headings aside. Where that is too narrow, what is in brackets stands
        below what it belongs to; what does not fit then stands in further blocks, each with the
        `lead` first columns again.
    """
    if room is not None and label_room([row for row in rows if len(row) == len(align)], room) < -2:
        rows = [stacked(row) if len(row) == len(align) else row for row in rows]
    wide = widths([row for row in rows if len(row) == len(align)])
    lines = [rows[0], ["-" * width for width in wide], *rows[1:]]
    if room is None:  # the first column makes room for headings, too
        wide[0] = max(wide[0], *(len(row[0]) for row in lines if len(row) < len(align)), 0)
    said: list[str] = []
    for block in _blocks(wide, lead, room):
        said += [""] * bool(said)
        for row in lines:
            if len(row) < len(align):
                said.append(row[0])
                continue
            cells = [
                [line.ljust(wide[at]) if align[at] == "l" else line.rjust(wide[at])
                 for line in row[at].split("\n")]
                for at in block
            ]  # fmt: skip
            blanks = [" " * wide[at] for at in block]
            height = max(map(len, cells))
            said.append(
                "\n".join(
                    "  ".join(
                        cell[line] if line < len(cell) else blank
                        for cell, blank in zip(cells, blanks, strict=True)
                    ).rstrip()
                    for line in range(height)
                )
            )
    return said


def list_of(headers: Sequence[str], rows: Sequence[Sequence[str]], room: int) -> list[str]:
    """Return rows of short cells whose last one may be long: it is wrapped to what is left."""
    cells = [[clean(cell) for cell in row] for row in (headers, *rows)]
    of_last = max(MIN_LABEL_COLUMNS, label_room([row[:-1] for row in cells], room))
    body = [[*row[:-1], "\n".join(textwrap.wrap(row[-1], of_last))] for row in cells]
    return columns(body, "l" * len(headers), room=room)


def _blocks(wide: Sequence[int], lead: int, room: int | None) -> list[list[int]]:
    """Return which columns stand side by side: in as few blocks as fit, and those as even."""

    def packed(limit: int) -> list[list[int]]:
        blocks: list[list[int]] = [[]]
        for at in range(lead, len(wide)):
            beside = [*range(lead), *blocks[-1], at]
            if blocks[-1] and sum(wide[column] + 2 for column in beside) - 2 > limit:
                blocks.append([])
            blocks[-1].append(at)
        return [[*range(lead), *block] for block in blocks]

    if room is None:
        return [list(range(len(wide)))]
    fewest = len(packed(room))
    return next(blocks for limit in range(room + 1) if len(blocks := packed(limit)) <= fewest)


def widths(rows: Sequence[Sequence[str]]) -> list[int]:
    """Return how wide each column is, of rows of as many cells."""
    return [
        max(len(line) for cell in column for line in cell.split("\n"))
        for column in zip(*rows, strict=True)
    ]


def stacked(cells: Sequence[str]) -> list[str]:
    """Return cells whose brackets stand below what is before them."""
    return [cell.replace(" [", "\n[").replace(" (", "\n(") for cell in cells]


def paragraph(text: str, room: int) -> str:
    """Return a text, safe to print, in lines of at most `room`, all but the first indented.

    An option or a kernel's release broken at its hyphens could not be copied.
    """
    return textwrap.fill(clean(text), room, subsequent_indent="  ", break_on_hyphens=False)


def row_name(point: str, label: str) -> str:
    """Return what a row is called in a line of text."""
    return ": ".join(filter(None, [point, label]))


def label_room(others: Sequence[Sequence[str]], room: int) -> int:
    """Return how many columns of `room` the cells beside a label leave to it; may be negative."""
    return room - sum(width + 2 for width in widths(others))


def wrap_label(label: str, columns: int) -> str:
    """Return `label` in lines of at most `columns`, broken after a comma where that is possible."""
    lines = [""]
    for part in clean(label).replace(",", ",\0").split("\0"):
        if lines[-1] and len(lines[-1]) + len(part) > columns:
            lines.append(" ")
        lines[-1] += part
        while len(lines[-1]) > columns:
            lines[-1:] = [lines[-1][:columns], lines[-1][columns:]]
    return "\n".join(lines)


def number(value: float | None) -> str:
    """Return `value` with four significant digits, and commas between its thousands."""
    if value is None:
        return ABSENT
    rounded = float(f"{value:.4g}")
    if rounded >= 1e8 or 0 < rounded < 1e-3:
        return f"{rounded:.3g}"
    return f"{rounded:,.0f}" if rounded >= 1000 else f"{rounded:.4g}"


def ratio(found: Summary | None, *, with_spread: bool, alone: bool = False) -> str:
    """Return a median with its interval in brackets, or its range in parentheses.

    Without them where there is one value. alone: whether no note below says what they are.
    """
    if found is None:
        return ABSENT
    if found.n == 1 or not with_spread:
        return _three_digits(found.median)
    ends = f"{_three_digits(found.low)}-{_three_digits(found.high)}"
    if found.is_range:
        return f"{_three_digits(found.median)} ({'range ' * alone}{ends})"
    return f"{_three_digits(found.median)} [{ends}]"


def _three_digits(value: float) -> str:
    decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return _capped(value, ".3g" if value < 0.0995 else f".{decimals}f")


def _capped(value: float, digits: str) -> str:
    """Return `value`, or on which side of every sensible value it lies."""
    if value > 9999:
        return ">9999"
    return "<0.001" if 0 < value < 0.001 else format(value, digits)


def percent(share: float | None) -> str:
    """Return a share of one as a percentage with three digits."""
    if share is None:
        return ABSENT
    return _capped(share * 100, ".0f" if share >= 1 else ".3g") + "%"


def duration(value_ns: float | None) -> str:
    """Return `value_ns` with three significant digits and the unit that suits it."""
    # Rounded before the unit is chosen: 999.9 ns is 1 us, not 1e+03 ns.
    return ABSENT if value_ns is None else format_ns(float(f"{value_ns:.3g}"))


def clean(text: str) -> str:
    """Return `text` without what is not for print: escapes, and halves of characters."""
    return "".join(
        letter if letter.isprintable() else " " if letter.isspace() else "?" for letter in text
    )
