"""Pager specs: ``name[,key=value...]``, read strictly and written back in one canonical form.

Every pager lists its keys as `Key`s; what is not listed is refused with what is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kvmpc.errors import UsageError
from kvmpc.units import parse_duration_ns, write_duration

__all__ = [
    "DEFAULT_SPIN",
    "MAX_UFFDS",
    "Key",
    "choice",
    "duration",
    "number",
    "parse_options",
    "uffds_key",
    "uffds_text",
]

OPTION = "PAGER"

PER_VCPU = "per-vcpu"
MAX_UFFDS = 4096

DEFAULT_SPIN = "50us"
"""How long ``wait=adaptive`` spins: longer than a vCPU takes from one page to the next.

Seen: 40 us of that in a nested virtual machine, where 20us of spinning ended in a sleep a page."""


@dataclass(frozen=True)
class Key:
    """One key of a pager: its values. `parse` raises ValueError for any other, `write` is its
    inverse."""

    allowed: str
    default: str
    parse: Callable[[str], object]
    write: Callable[[Any], str] = str


def choice(*values: str) -> Key:
    """A key with a fixed set of values, the first being the default."""

    def parse(text: str) -> str:
        if text not in values:
            raise ValueError(text)
        return text

    return Key(" or ".join(values), values[0], parse)


def _whole(text: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdigit()) or not low <= int(text) <= high:
        raise ValueError(text)
    return int(text)


def number(low: int, high: int, default: int) -> Key:
    """A key with a whole number from `low` to `high`."""
    return Key(f"{low} to {high}", str(default), lambda text: _whole(text, low, high))


def duration(low: str, high: str, default: str) -> Key:
    """A key with a duration from `low` to `high`, in nanoseconds once it is read."""
    lowest, highest = parse_duration_ns(low, OPTION), parse_duration_ns(high, OPTION)

    def parse(text: str) -> int:
        try:
            found = parse_duration_ns(text, OPTION)
        except UsageError:
            raise ValueError(text) from None
        if not lowest <= found <= highest:
            raise ValueError(text)
        return found

    return Key(f"{low} to {high}", default, parse, write_duration)


def uffds_key() -> Key:
    """The key `uffds`: one, one per vCPU (None), or a number; equal shares of data memory each."""

    def parse(text: str) -> int | None:
        if text == PER_VCPU:
            return None
        return 1 if text == "one" else _whole(text, 1, MAX_UFFDS)

    return Key(f"one, {PER_VCPU}, or 1 to {MAX_UFFDS}", "one", parse, uffds_text)


def uffds_text(count: int | None) -> str:
    """Return how `uffds` is written."""
    return PER_VCPU if count is None else "one" if count == 1 else str(count)


def parse_options(spec: str, keys: Mapping[str, Key]) -> dict[str, object]:
    """Return the value of every key of a spec whose name is known; defaults where it has none.

    Raises: UsageError naming the key, what was given, and what is allowed.
    """
    name, *words = spec.split(",")
    known = ", ".join(keys) or "none"
    given: dict[str, object] = {}
    for word in words:
        key, equals, value = (part.strip() for part in word.partition("="))
        if key not in keys or not equals:
            raise UsageError(f"{OPTION} {spec}", word, f"key=value with a key of {name}: {known}")
        if key in given:
            raise UsageError(f"{OPTION} {spec}", word, f"{key} once")
        try:
            given[key] = keys[key].parse(value)
        except ValueError:
            raise UsageError(f"{OPTION} {spec}", word, f"{key}={keys[key].allowed}") from None
    return {key: given.get(key, rule.parse(rule.default)) for key, rule in keys.items()}
