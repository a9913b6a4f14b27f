"""What makes a point the same point in another result, and what a point is called.

A point is known by what its trials work on, never by how often they were run or watched over. An
option that a result does not name, for it is older than the option, has the default of
`kvmpc.work.work.Work`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass, replace
from typing import Final

from kvmpc.result.records import Result
from kvmpc.units import format_bytes, format_ns
from kvmpc.work.work import Work

__all__ = [
    "HOW_OFTEN",
    "differing_options",
    "identity",
    "named_points",
    "point_names",
    "points_of",
    "shown_option",
]

HOW_OFTEN: Final = ("rounds", "warmup", "watchdog_s", "profile", "busy_limit")
"""Options of a run that do not change what a trial works on, but how often, or which count."""


def identity(options: Mapping[str, object]) -> dict[str, object]:
    """Return what a point with `options` works on, by flat name (``placement.pin``), JSON values.

    Options that `Work` does not have are part of it too, unless they are off: whoever added one
    knows best that it does not matter, and has not said so.
    """
    whole: dict[str, object] = {}
    for field in fields(Work):
        if field.default is not MISSING:
            default = field.default
        elif field.default_factory is not MISSING:
            default = field.default_factory()
        else:
            default = None
        whole[field.name] = asdict(default) if _is_record(default) else default
    whole |= {
        name: value
        for name, value in options.items()
        if name in whole or (name not in HOW_OFTEN and value not in (None, False, 0, "", [], {}))
    }
    return _flat(json.loads(json.dumps(whole, default=dict)))


def _is_record(value: object) -> bool:
    return is_dataclass(value) and not isinstance(value, type)


def _flat(options: Mapping[str, object], within: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in options.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{within}{name}.")
        else:
            found[within + name] = value
    return found


def differing_options(
    one: Mapping[str, object], other: Mapping[str, object]
) -> dict[str, tuple[object, object]]:
    """Return (value in `one`, value in `other`) of each name in which two identities differ."""
    names = dict.fromkeys((*one, *other))
    return {
        name: (one.get(name), other.get(name))
        for name in names
        if json.dumps(one.get(name)) != json.dumps(other.get(name))
    }


def point_names(points: Sequence[Mapping[str, object]]) -> list[str]:
    """Return what to call each of the points with these options: by what varies between them.

    The name of the only point is empty.
    """
    known = [identity(options) for options in points]
    names = dict.fromkeys(name for point in known for name in point)
    varying = [name for name in names if len({json.dumps(point.get(name)) for point in known}) > 1]
    return [" ".join(shown_option(name, point.get(name)) for name in varying) for point in known]


def shown_option(name: str, value: object) -> str:
    """Return ``mem_per_vcpu=64M``: the name without its unit, and the value in one."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if whole and name.endswith("_bytes"):
        return f"{name.removesuffix('_bytes')}={format_bytes(int(str(value)))}"
    if whole and name.endswith("_ns"):
        return f"{name.removesuffix('_ns')}={format_ns(int(str(value))).replace(' ', '')}"
    if value is None or isinstance(value, bool):
        return f"{name}={'-' if value is None else 'yes' if value else 'no'}"
    return f"{name}={value if isinstance(value, str | int | float) else json.dumps(value)}"


def named_points(result: Result) -> list[tuple[str, Result]]:
    """Return each point of `result` as a result of its own, with its name among them."""
    points = points_of(result)
    return list(zip(point_names([point.options for point in points]), points, strict=True))


def points_of(result: Result) -> list[Result]:
    """Return `result` taken apart: one result of a single point for each point, in order."""
    if not result.points:
        return [result]
    return [
        replace(
            result,
            options={**result.options, **point.options},
            pagers=point.pagers,
            labels=tuple(result.pager(pager).label for pager in point.pagers),
            points=(),
            trials=tuple(replace(t, point=0) for t in result.trials if t.point == index),
            skipped=tuple(replace(s, point=0) for s in result.skipped if s.point == index),
        )
        for index, point in enumerate(result.points)
    ]
