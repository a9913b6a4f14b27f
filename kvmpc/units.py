"""Sizes and durations as people write them, and back.

Refuses anything it would have to guess about: ``64M`` is 64 MiB, ``200us`` is 200 000 ns, a bare
number is bytes or, for a duration, refused unless it is 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from kvmpc.errors import UsageError

__all__ = [
    "GIB",
    "KIB",
    "MIB",
    "PAGE_BYTES",
    "format_bytes",
    "format_ns",
    "format_wait",
    "parse_counts",
    "parse_duration_ns",
    "parse_size_bytes",
    "write_duration",
]

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

PAGE_BYTES = 4096
"""Bytes in x86-64's base page: what tables, records and stacks are counted in.

What is missing, installed and counted is `Work.unit_bytes`. Source: ``PAGE_SIZE``."""

MAX_COUNTS = 10_000
"""Numbers that a range may stand for: more is a slip of the pen."""

_MAX_CPUS = 1 << 16
"""Eight times the largest NR_CPUS, in arch/x86/Kconfig: a list of more is none of CPUs."""

_SIZE_UNITS = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": 1 << 40}
_DURATION_UNITS_NS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}


def parse_size_bytes(text: str, option: str) -> int:
    """Return the bytes in a size such as ``64M``, ``4GiB`` or ``4096`` (powers of 1024).

    Raises: UsageError naming `option`.
    """
    match = re.fullmatch(r"(\d{1,20})\s*([KMGT]?)(?:i?B)?", text.strip(), re.ASCII | re.IGNORECASE)
    if match is None:
        raise UsageError(option, text, "a whole number with an optional unit K, M, G or T")
    return int(match[1]) * _SIZE_UNITS[match[2].upper()]


def parse_counts(text: str, option: str) -> list[int]:
    """Return the numbers in a list such as ``1,2,4``, ``1-8`` or ``1-160:x2``.

    ``A-B`` is every number from A to B, ``A-B:S`` every S-th, ``A-B:xF`` those from A on that are
    each F times the one before; B always ends them. Duplicates are dropped.
    Raises: UsageError naming `option`.
    """
    allowed = "whole numbers as in 8, 1,2,4, 1-8, 2-16:2 or 1-160:x2"
    found: list[int] = []
    for word in text.split(","):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9})(?::(x?)(\d{1,9}))?)?", word.strip(), re.ASCII)
        if match is None:
            raise UsageError(option, text, allowed)
        first, last = int(match[1]), int(match[2] or match[1])
        by, factor = int(match[4] or 1), bool(match[3])
        if last < first or by < 1 + factor or (factor and first == 0):
            raise UsageError(option, text, allowed)
        if not factor and (last - first) // by >= MAX_COUNTS:
            raise UsageError(option, text, f"at most {MAX_COUNTS} of them")
        while first < last:
            found.append(first)
            first = first * by if factor else first + by
        found.append(last)
    return list(dict.fromkeys(found))


def parse_duration_ns(text: str, option: str) -> int:
    """Return the nanoseconds in a duration such as ``200us`` or ``1.5ms``; ``0`` needs no unit.

    Raises: UsageError naming `option`.
    """
    match = re.fullmatch(r"(\d{1,20}(?:\.\d+)?)\s*(ns|us|ms|s)?", text.strip(), re.ASCII)
    if match is None or (match[2] is None and float(match[1]) != 0):
        raise UsageError(option, text, "a number with a unit ns, us, ms or s (or 0)")
    return round(float(match[1]) * _DURATION_UNITS_NS[match[2] or "ns"])


def format_bytes(count: int) -> str:
    """Return `count` bytes in the largest unit that divides it, as `parse_size_bytes` reads it."""
    for unit, factor in reversed(_SIZE_UNITS.items()):
        if count and count % factor == 0:
            return f"{count // factor}{unit}"
    return str(count)


def format_ns(value_ns: float) -> str:
    """Return a duration with three significant digits and the unit that suits it."""
    value_ns = float(f"{value_ns:.3g}")  # first, or 999.9 ns would be 1e+03 ns and not 1 us
    for unit, factor in reversed(_DURATION_UNITS_NS.items()):
        if value_ns >= factor:
            return f"{value_ns / factor:.3g} {unit}"
    return f"{value_ns:.3g} ns"


def write_duration(value_ns: int) -> str:
    """Return `value_ns` in the largest unit that divides it, as `parse_duration_ns` reads it."""
    for unit, factor in reversed(_DURATION_UNITS_NS.items()):
        if value_ns and value_ns % factor == 0:
            return f"{value_ns // factor}{unit}"
    return "0"


def format_wait(seconds: float) -> str:
    """Return a time to wait, as people say it."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    return f"about {minutes} min" if minutes < 90 else f"about {minutes // 60} h {minutes % 60} min"


def parse_cpu_list(text: str) -> list[int]:
    """Return the numbers of a kernel CPU list such as ``0-3,8``; [] where it is none.

    Source: Documentation/core-api/printk-formats.rst, "bitmap and its derivatives" (``%*pbl``).
    """
    cpus: list[int] = []
    for word in text.split(","):
        match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", word.strip())
        if match is None or len(cpus) > _MAX_CPUS:
            return []
        cpus.extend(range(int(match[1]), int(match[2] or match[1]) + 1))
    return cpus


def format_cpu_list(cpus: Iterable[int], *, sort: bool = True) -> str:
    """Return `cpus` as the kernel writes a CPU list: ``0-3,8``; unsorted, in the order given."""
    runs: list[list[int]] = []
    for cpu in sorted(set(cpus)) if sort else cpus:
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)
