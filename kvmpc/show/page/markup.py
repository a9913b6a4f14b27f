"""HTML's pieces: every text is escaped here, and nowhere else is HTML made of a text."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from kvmpc.show.page import text

__all__ = [
    "answer",
    "bullets",
    "esc",
    "heading",
    "paragraph",
    "preformatted",
    "rows_table",
    "table",
]


def esc(told: object) -> str:
    """Return a text as HTML."""
    return html.escape(text.clean(str(told)), quote=True)


def heading(told: str, level: int = 3) -> str:
    """Return a heading, nothing for an empty text."""
    return f"<h{level}>{esc(told)}</h{level}>\n" if told else ""


def answer(lead: str, more: Iterable[str] = ()) -> str:
    """Return what a reader came for, set apart: a sentence, and what qualifies it."""
    return f'<div class="answer">\n{paragraph(lead, "lead")}{bullets(more)}</div>\n'


def paragraph(told: str, style: str = "") -> str:
    """Return a paragraph, nothing for an empty text."""
    if not told:
        return ""
    return f'<p class="{style}">{esc(told)}</p>\n' if style else f"<p>{esc(told)}</p>\n"


def preformatted(summary: str, block: str) -> str:
    """Return a block of lines as they are, one key away."""
    lines = "\n".join(map(esc, block.split("\n")))
    return (
        f"<details><summary>{esc(summary)}</summary>\n"
        f'<pre tabindex="0" class="block" aria-label="{esc(summary)}">{lines}</pre></details>\n'
    )


def _cell(told: str) -> str:
    """Return a number with what stands below it, such as its interval."""
    first, *below = told.split("\n")
    return esc(first) + "".join(f"<br><small>{esc(line)}</small>" for line in below)


def bullets(items: Iterable[str]) -> str:
    """Return a list of texts."""
    listed = "".join(f"<li>{esc(item)}</li>\n" for item in items)
    return f"<ul>\n{listed}</ul>\n" if listed else ""


def table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], caption: str, *, prose: bool = False
) -> str:
    """Return a table whose first column heads its rows; `prose` where all columns are text."""
    return rows_table(headers, [("", rows)], caption, prose=prose)


def rows_table(
    headers: Sequence[str],
    groups: Sequence[tuple[str, Sequence[Sequence[str]]]],
    caption: str,
    *,
    prose: bool = False,
) -> str:
    """Return a table in groups, each with a heading of its own (none where that is "").

    It stands in a box that scrolls sideways, by keyboard too, where it is wider than the page.
    """
    number = "" if prose else ' class="number"'
    head = "".join(
        f'<th scope="col"{number if i else ""}>{esc(h)}</th>' for i, h in enumerate(headers)
    )
    bodies = []
    for heading, rows in groups:
        lines = []
        if heading:
            lines.append(
                f'<tr><th scope="rowgroup" class="point" colspan="{len(headers)}">'
                f"{esc(heading)}</th></tr>\n"
            )
        for first, *others in rows:
            cells = "".join(f"<td{number}>{_cell(cell)}</td>" for cell in others)
            lines.append(f'<tr><th scope="row">{esc(first)}</th>{cells}</tr>\n')
        bodies.append(f"<tbody>\n{''.join(lines)}</tbody>\n")
    style = ' class="text"' if prose else ""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{esc(caption)}">\n'
        f"<table{style}>\n<caption>{esc(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"{''.join(bodies)}</table>\n</div>\n"
    )
