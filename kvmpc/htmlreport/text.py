"""Numbers and foreign text as the page writes them: plain text, never HTML.

Everything that came out of a result file goes through `clean` before it is shown: a host name of
another machine may hold anything.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable

from kvmpc.stats import Summary
from kvmpc.units import format_bytes, format_ns

__all__ = [
    "ABSENT",
    "clean",
    "duration",
    "interval",
    "number",
    "option",
    "percent",
    "ratio",
    "shell_line",
    "short",
    "shortened",
    "span",
]

ABSENT = "-"


def clean(text: str) -> str:
    """Return `text` without what is not for print: control characters, halves of characters."""
    return "".join(
        letter if letter.isprintable() else " " if letter.isspace() else "?" for letter in text
    )


def shortened(text: str, letters: int) -> str:
    """Return `text` in at most so many letters."""
    return text if len(text) <= letters else text[: letters - 1] + "…"


def number(value: float | None) -> str:
    """Return `value` with four significant digits, and commas between its thousands."""
    if value is None:
        return ABSENT
    rounded = float(f"{value:.4g}")
    if rounded >= 1e9 or 0 < abs(rounded) < 1e-3:
        return f"{rounded:.3g}"
    return f"{rounded:,.0f}" if abs(rounded) >= 1000 else f"{rounded:.4g}"


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
    """Return a share of 1 as a percentage of three digits."""
    return ABSENT if share is None else f"{share * 100:.3g} %"


def duration(value_ns: float | None) -> str:
    """Return a time with three digits and the unit that suits it."""
    return ABSENT if value_ns is None else format_ns(value_ns)


def span(low: float, high: float, spell: Callable[[float], str] = ratio) -> str:
    """Return ``[1.49-1.94]``, with a unit that both ends have said once: ``[8.1-9.4 us]``."""
    first, last = spell(low), spell(high)
    unit = re.search(r"[^\d.]*$", last)
    if unit and first.endswith(unit[0]) and first != unit[0]:
        first = first.removesuffix(unit[0])
    return f"[{first}-{last}]"


def interval(summary: Summary | None, spell: Callable[[float], str] = ratio) -> str:
    """Return ``1.91 [1.49-1.94]``; one value alone has no interval."""
    if summary is None:
        return ABSENT
    middle = spell(summary.median)
    return middle if summary.n < 2 else f"{middle} {span(summary.lowest, summary.highest, spell)}"


def option(name: str, value: object) -> str:
    """Return one option of a run as people write it: ``mem_per_vcpu 64M``."""
    if isinstance(value, int) and not isinstance(value, bool):
        if name.endswith("_bytes"):
            return f"{name.removesuffix('_bytes')} {format_bytes(value)}"
        if name.endswith("_ns"):
            return f"{name.removesuffix('_ns')} {format_ns(value) if value else 0}"
    return f"{name} {value}"


def shell_line(command: Iterable[str]) -> str:
    """Return `command` so that a shell (bash, zsh, ksh) reads it back exactly."""
    return " ".join(map(_quoted, command))


def _quoted(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    # What is not for print, a lone byte of a file name included, is spelled as its bytes.
    spelled = "".join(
        f"\\x{byte:02x}" if byte < 0x20 or byte > 0x7E else "\\" * (byte in b"\\'") + chr(byte)
        for byte in word.encode("utf-8", "surrogateescape")
    )
    return f"$'{spelled}'"
