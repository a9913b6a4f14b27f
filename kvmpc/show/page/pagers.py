"""What the charts ask of a pager: whether it fetches, how many readers it has, its family.

By its spec, which is all that a line of a chart keeps; how specs are spelled is known to
`kvmpc.result.pager_info` alone.
"""

from __future__ import annotations

from kvmpc.result.pager_info import pager_of_spelling

__all__ = ["family_of", "is_none", "readers_of"]


def is_none(spec: str) -> bool:
    """Return whether a pager leaves the fault to the kernel, so that nothing is fetched."""
    return pager_of_spelling(spec, spec).kind == "none"


def readers_of(spec: str) -> int | None:
    """Return how many readers each userfaultfd has; None where the pager needs none."""
    readers = pager_of_spelling(spec, spec).keys.get("readers")
    return int(readers) if readers is not None and readers.isdecimal() else None


def family_of(label: str) -> str:
    """Return what pagers are called together that differ in their readers only."""
    return ",".join(word for word in label.split(",") if not word.startswith("readers="))
