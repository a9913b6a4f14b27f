"""Frozen records as a schema: what a parsed JSON value must be to become one.

A record's annotations are all there is to say it with. Every field must be there (one with a
default may be absent) and of its type: a bool is not a number. What is wrong is a `Mismatch`, named
with its place, such as ``trials[3].counts.installs``. Keys that a record lacks are ignored.
"""

from __future__ import annotations

import contextlib
import functools
import json
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Final

__all__ = ["Mismatch", "Reader", "reader", "shown"]


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
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


Reader = Callable[[object], Any]


@functools.cache
def reader(wanted: Any) -> Reader:
    """Return the function that checks a parsed JSON value and makes it a `wanted`.

    `wanted` is an annotation of a record: the records are the schema, there is no second one.
    """
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted is object:
        return lambda value: value
    if wanted is float:
        return _read_float
    if wanted in (str, int, bool):
        return functools.partial(_read_exactly, wanted)
    if is_dataclass(wanted) and isinstance(wanted, type):
        return _record_reader(wanted)
    if origin is types.UnionType and len(arguments) == 2 and arguments[1] is types.NoneType:
        return _optional_reader(reader(arguments[0]))
    if origin is tuple and arguments[1:] == (...,):
        return _tuple_reader(reader(arguments[0]), None)
    if origin is tuple and len(set(arguments)) == 1:
        return _tuple_reader(reader(arguments[0]), len(arguments))
    if origin is Mapping and arguments[0] is str:
        return _mapping_reader(reader(arguments[1]))
    raise TypeError(f"no way to read a {wanted}")


_NAMES: Final = {str: "a string", int: "a whole number", bool: "true or false"}


def _read_exactly(wanted: type, value: object) -> object:
    if type(value) is not wanted:  # not isinstance: True is an int
        raise Mismatch(f"{shown(value)} is not {_NAMES[wanted]}")
    return value


def _read_float(value: object) -> float:
    if type(value) is float:
        return value
    if type(value) is int:
        with contextlib.suppress(OverflowError):
            return float(value)
    raise Mismatch(f"{shown(value)} is not a number")


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
                items[key] = read(item)
            except Mismatch as mismatch:
                raise mismatch.inside(f".{key}") from None
        return items

    return read_mapping


def _record_reader(record: type) -> Reader:
    hints = typing.get_type_hints(record)
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
