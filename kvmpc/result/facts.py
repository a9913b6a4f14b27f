"""Facts of a host, read from a result that may be of any host and any age."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["Facts"]


class Facts:
    """The facts of one host by path, such as ``cpu.model``: a group, and a key in it.

    The paths are those of `kvmpc.host.facts.fact_names`. What is absent, or not of the kind that is
    asked for, is None or empty: a file may be of another age, or odd.
    """

    def __init__(self, facts: Mapping[str, object]) -> None:
        self._facts = facts

    def get(self, path: str) -> object:
        """Return a fact, of whatever kind."""
        found: object = self._facts
        for key in path.split("."):
            found = found.get(key) if isinstance(found, Mapping) else None
        return found

    def group(self, path: str) -> Mapping[str, object]:
        """Return facts by key."""
        found = self.get(path)
        return found if isinstance(found, Mapping) else {}

    def number(self, path: str) -> float | None:
        """Return a number; of yes and no, 1 and 0."""
        found = self.get(path)
        return found if isinstance(found, int | float) else None

    def text(self, path: str) -> str | None:
        """Return a text."""
        found = self.get(path)
        return found if isinstance(found, str) else None

    def items(self, path: str) -> list[object] | None:
        """Return a list, None where there is none."""
        found = self.get(path)
        return found if isinstance(found, list) else None
