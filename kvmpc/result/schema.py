"""Frozen records as a schema: what a parsed JSON value must be to become one.

A record's annotations are all there is to say it with. Every field must be there (one with a
default may be absent) and of its type: a bool is not a number. Every value has bounds, so that
whoever reads it may compute with it and show it: a number is 0, or its size between 2**-64 and
2**64; ``Annotated[int, AtLeast(0)]`` narrows that. What is wrong is a `Mismatch`, named with its
place, such as ``trials[3].counts.installs``. Keys that a record lacks are ignored.
"""

from __future__ import annotations

import functools
import json
import math
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, Final

__all__ = ["AtLeast", "Mismatch", "Reader", "not_finite", "reader", "shown"]

_LARGEST: Final = 1 << 64
"""What 64-bit counters, sizes and times stay below; products of a few are no infinity."""

_LONGEST: Final = 1 << 20
"""Characters of a string: a sweep's spec is the longest."""

_DEEPEST: Final = 20
"""Levels of lists and objects in each other, where a field does not say how many."""


@dataclass(frozen=True)
class AtLeast:
    """The least that a number may be, as an annotation."""

    least: int


class Mismatch(Exception):
    """A value that is not of its field's type; the place grows from inside out as it unwinds."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.place = ""

    def inside(self, step: str) -> Mismatch:
        """Put `step`, such as ``.counts`` or ``[3]``, before the place."""
        self.place = step + self.place
        return self

    def __str__(self) -> str:
        place = self.place.removeprefix(".")
        return f"{place}: {self.problem}" if place else self.problem


def shown(value: object) -> str:
    """Return `value` as JSON, shortened for a message."""
    try:
        text = json.dumps(value)
    except (ValueError, RecursionError):  # thousands of digits, or of levels
        return "a value that cannot be shown"
    return text if len(text) <= 40 else f"{text[:37]}..."


Reader = Callable[[object], Any]


@functools.cache
def reader(wanted: Any) -> Reader:
    """Return the function that checks a parsed JSON value and makes it a `wanted`.

    `wanted` is an annotation of a record: the records are the schema, there is no second one.
    """
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted in _READERS:
        return _READERS[wanted]
    if origin is Annotated:
        return _bounded_reader(reader(arguments[0]), wanted.__metadata__[0])
    if is_dataclass(wanted) and isinstance(wanted, type):
        return _record_reader(wanted)
    if origin in (types.UnionType, typing.Union) and arguments[1:] == (types.NoneType,):
        return _optional_reader(reader(arguments[0]))
    if origin is tuple and arguments[1:] == (...,):
        return _tuple_reader(reader(arguments[0]), None)
    if origin is tuple and len(set(arguments)) == 1:
        return _tuple_reader(reader(arguments[0]), len(arguments))
    if origin is Mapping and arguments[0] is str:
        return _mapping_reader(reader(arguments[1]))
    raise TypeError(f"no way to read a {wanted}")


def not_finite(value: object) -> Iterator[tuple[str, float]]:
    """Yield each number in a parsed JSON value that is infinite or none, with its place."""
    if isinstance(value, float) and not math.isfinite(value):
        yield "", value
    elif isinstance(value, dict | list):
        steps = value.items() if isinstance(value, dict) else enumerate(value)
        for step, item in steps:
            for place, found in not_finite(item):
                yield _step(step) + place, found


def _step(at: str | int) -> str:
    """Return how a place names the entry `at` of a list or an object."""
    plain = isinstance(at, str) and re.fullmatch(r"[\w.,=()-]{1,60}", at, re.ASCII)
    return f".{at}" if plain else f"[{shown(at)}]"


def _read_text(value: object) -> str:
    if type(value) is not str:
        raise Mismatch(f"{shown(value)} is not a string")
    if len(value) > _LONGEST:
        raise Mismatch(f"a string of {len(value)} characters is longer than {_LONGEST}")
    return value


def _read_flag(value: object) -> bool:
    if type(value) is not bool:
        raise Mismatch(f"{shown(value)} is not true or false")
    return value


def _read_whole(value: object) -> int:
    if type(value) is not int:  # not isinstance: True is an int
        raise Mismatch(f"{shown(value)} is not a whole number")
    if not -_LARGEST < value < _LARGEST:
        raise Mismatch(f"{shown(value)} is not a number below 2**64")
    return value


def _read_float(value: object) -> float:
    if type(value) is int:
        return float(_read_whole(value))
    if type(value) is not float:
        raise Mismatch(f"{shown(value)} is not a number")
    if not math.isfinite(value):
        raise Mismatch(f"{shown(value)} is not a finite number")
    if abs(value) >= _LARGEST:
        raise Mismatch(f"{shown(value)} is not a number below 2**64")
    if 0 < abs(value) < 1 / _LARGEST:
        raise Mismatch(f"{shown(value)} is neither 0 nor a number above 2**-64")
    return value


def _read_any(value: object, deep: int = 0) -> object:
    """Return a value whose field does not say of what type it is."""
    if isinstance(value, dict | list):
        if deep == _DEEPEST:
            raise Mismatch(f"more than {_DEEPEST} levels of lists and objects")
        for step, item in value.items() if isinstance(value, dict) else enumerate(value):
            try:
                _read_any(step, deep)
                _read_any(item, deep + 1)
            except Mismatch as mismatch:
                raise mismatch.inside(_step(step)) from None
    elif value is not None and type(value) in _READERS:
        _READERS[type(value)](value)
    return value


_READERS: Final[Mapping[Any, Reader]] = {
    object: _read_any,
    str: _read_text,
    bool: _read_flag,
    int: _read_whole,
    float: _read_float,
}


def _bounded_reader(read: Reader, bound: AtLeast) -> Reader:
    def read_bounded(value: object) -> Any:
        number = read(value)
        if number < bound.least:
            raise Mismatch(f"{shown(number)} is less than {bound.least}")
        return number

    return read_bounded


def _optional_reader(read: Reader) -> Reader:
    return lambda value: None if value is None else read(value)


def _tuple_reader(read: Reader, length: int | None) -> Reader:
    def read_tuple(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise Mismatch(f"{shown(value)} is not a list")
        if length is not None and len(value) != length:
            raise Mismatch(f"has {len(value)} entries, not {length}")
        items = []
        for index, item in enumerate(value):
            try:
                items.append(read(item))
            except Mismatch as mismatch:
                raise mismatch.inside(f"[{index}]") from None
        return tuple(items)

    return read_tuple


def _mapping_reader(read: Reader) -> Reader:
    def read_mapping(value: object) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Mismatch(f"{shown(value)} is not an object")
        items = {}
        for key, item in value.items():
            try:
                items[_read_text(key)] = read(item)
            except Mismatch as mismatch:
                raise mismatch.inside(_step(key)) from None
        return items

    return read_mapping


def _record_reader(record: type) -> Reader:
    hints = typing.get_type_hints(record, include_extras=True)
    readers = {field.name: reader(hints[field.name]) for field in fields(record)}
    optional = {
        field.name
        for field in fields(record)
        if field.default is not MISSING or field.default_factory is not MISSING
    }

    def read_record(value: object) -> Any:
        if not isinstance(value, dict):
            raise Mismatch(f"{shown(value)} is not an object")
        items = {}
        for name, read in readers.items():
            if name in optional and name not in value:
                continue
            try:
                if name not in value:
                    raise Mismatch("missing")
                items[name] = read(value[name])
            except Mismatch as mismatch:
                raise mismatch.inside(f".{name}") from None
        try:
            return record(**items)
        except ValueError as error:
            raise Mismatch(str(error)) from error

    return read_record
