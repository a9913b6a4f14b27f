"""What the page reads out of a pager's spec or label, for a result says no more of it.

All of it, so that nothing else here knows how a spec is spelled.
"""

from __future__ import annotations

import re

__all__ = ["family_of", "is_none", "is_stand_in", "readers_of"]

_READERS = re.compile(r",readers=(\d+)")


def is_none(spec: str) -> bool:
    """Return whether a pager leaves the fault to the kernel, so that nothing is fetched."""
    return _kind(spec) == "none"


def readers_of(spec: str) -> int | None:
    """Return how many readers each userfaultfd has; None where the pager needs none."""
    if _kind(spec) != "uffd":
        return None
    readers = _READERS.search(spec)
    return int(readers[1]) if readers else 1


def family_of(label: str) -> str:
    """Return what pagers are called together that differ in their readers only."""
    return _READERS.sub("", label)


def is_stand_in(label: str) -> bool:
    """Return whether a pager's exits stand in for those of a kernel's own missing bitmap."""
    return "(sigbus)" in label


def _kind(spec: str) -> str:
    return spec.split(",")[0]
