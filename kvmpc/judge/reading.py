"""What a result says, worked out once: its points with their names and rows, and its cautions.

Every view is handed a `Reading` and decides nothing but how to show it, so that two views of one
result cannot say different things.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kvmpc.judge.rows import Row, compare_rows, ratio_base, share_base
from kvmpc.judge.told import Told, tell
from kvmpc.result.points import identity, named_points
from kvmpc.result.records import Result

__all__ = ["PointReading", "Reading", "read"]


@dataclass(frozen=True, kw_only=True)
class PointReading:
    """One point of a result.

    name: the options by which it differs from the others, empty where it is the only one.
    result: the result of this point alone. options: all that it works on, by flat name.
    rows: one for each pager, in the order given.
    ratio_base, share_base: the row that every ratio, every share refers to; it may have failed.
        None where there is none.
    """

    name: str
    result: Result
    options: Mapping[str, object]
    rows: tuple[Row, ...]
    ratio_base: Row | None
    share_base: Row | None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A result and what it says; cautions: what weakens it, each thing once, the worst first."""

    result: Result
    points: tuple[PointReading, ...]
    cautions: tuple[Told, ...]


def read(result: Result) -> Reading:
    """Return what `result` says."""
    return Reading(
        result=result,
        points=tuple(_point(name, point) for name, point in named_points(result)),
        cautions=tuple(tell([result])),
    )


def _point(name: str, result: Result) -> PointReading:
    rows = compare_rows(result)
    by_spec: dict[str | None, Row] = {row.spec: row for row in rows}
    return PointReading(
        name=name,
        result=result,
        options=identity(result.options),
        rows=tuple(rows),
        ratio_base=by_spec.get(ratio_base(result)),
        share_base=by_spec.get(share_base(result)),
    )
