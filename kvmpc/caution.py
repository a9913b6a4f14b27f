"""What weakens a measurement, as data: a `Caution` has a code for machines, a text and a remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["HOST", "RUN", "Caution"]

RUN: Final = "run"
"""Of this run: its options, what the host is set to, what happened meanwhile. Its remedy helps."""

HOST: Final = "host"
"""Of this host, whatever is run on it: nothing that its owner would change for a measurement."""


@dataclass(frozen=True)
class Caution:
    """One thing that tilts or weakens numbers.

    code: what it is, in a few words with hyphens; the same for all of a kind.
    text: what was found, with its numbers. remedy: what would help.
    kind: `RUN` or `HOST`.
    size: how bad it is, in whatever unit suits its code; of several with one code the largest is
        the worst. 0 where there is no more and no less of it.
    """

    code: str
    text: str
    remedy: str
    kind: str = RUN
    size: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in (RUN, HOST):
            raise ValueError(f"kind is {self.kind!r}, not {RUN!r} or {HOST!r}")

    def __str__(self) -> str:
        return f"{self.text}; {self.remedy}"
