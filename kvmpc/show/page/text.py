"""Numbers as charts and the page write them, beside those of `kvmpc.show.cells`. Text, not HTML."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from kvmpc.judge.intervals import CONFIDENCE, FEWEST_FOR_INTERVAL
from kvmpc.judge.summary import Spread, Summary
from kvmpc.show.cells import ABSENT, clean, duration, number

__all__ = [
    "ABSENT",
    "INTERVAL",
    "clean",
    "duration",
    "ends",
    "interval",
    "number",
    "percent",
    "ratio",
    "short",
    "shortened",
    "span",
]

INTERVAL: Final = (
    f"Behind a median, [a-b] is its {CONFIDENCE:.0%} interval, exact by order statistics: of "
    "rounds that are alike and independent it holds the true median at least so often. Rounds of "
    "one run have more in common with each other than with the next run: how far that one differs "
    f"is in no interval. Fewer than {FEWEST_FOR_INTERVAL} rounds have none: there stands their "
    "range, lowest to highest"
)
"""What stands behind a median."""


def shortened(text: str, letters: int) -> str:
    """Return `text` in at most so many letters."""
    return text if len(text) <= letters else text[: letters - 1] + "…"


def short(value: float) -> str:
    """Return `value` in as few letters as an axis has room for: ``150k``, ``4.1M``."""
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor * 0.9995:
            return f"{value / factor:.3g}{letter}"
    return f"{value:.3g}"


def ratio(value: float | None) -> str:
    """Return a ratio with the digits that matter."""
    if value is None:
        return ABSENT
    if value < 0.0995 or value >= 99.5:
        return f"{value:.3g}"
    return f"{value:.{1 if value >= 9.995 else 2}f}"


def percent(share: float | None) -> str:
    """Return a share of 1 as a percentage of three digits, however small."""
    return ABSENT if share is None else f"{share * 100:.3g}%"


def span(low: float, high: float, spell: Callable[[float], str] = ratio) -> str:
    """Return ``[1.49-1.94]``, with a unit that both ends have said once: ``[8.1-9.4 us]``."""
    return f"[{_from_to(low, high, spell)}]"


def _from_to(low: float, high: float, spell: Callable[[float], str]) -> str:
    first, last = spell(low), spell(high)
    unit = re.search(r"[^\d.]*$", last)
    if unit and first.endswith(unit[0]) and first != unit[0]:
        first = first.removesuffix(unit[0])
    return f"{first}-{last}"


def ends(low: float, high: float, spread: Spread, spell: Callable[[float], str] = ratio) -> str:
    """Return the `span` of an interval; anything else says what it is: ``(range 1.5-1.9)``."""
    if spread is Spread.INTERVAL:
        return span(low, high, spell)
    return f"({spread} {_from_to(low, high, spell)})"


def interval(summary: Summary | None, spell: Callable[[float], str] = ratio) -> str:
    """Return a median with its `ends`: ``1.91 [1.49-1.94]``; one value alone has none."""
    if summary is None:
        return ABSENT
    middle = spell(summary.median)
    if summary.n < 2:
        return middle
    return f"{middle} {ends(summary.low, summary.high, summary.spread, spell)}"
