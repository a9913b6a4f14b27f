"""What weakens a measurement, as data: a `Caution` has a code for machines, a text and a remedy."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Caution"]


@dataclass(frozen=True)
class Caution:
    """One thing that tilts or weakens numbers.

    code: what it is, in a few words with hyphens; the same for all of a kind.
    text: what was found, with its numbers. remedy: what would help.
    """

    code: str
    text: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.text}; {self.remedy}"
