"""A result as JSON: one document, written in parts, read trusting nothing.

Reading trusts nothing: every field must be there, of its type (a bool is not a number; NaN and
infinity are refused) and within bounds (`kvmpc.result.schema`), and what is wrong is named with its
place, such as ``trials[3].counts.installs``. Keys it does not know are ignored, so that a field can
be added without a new version; a new version means that an old reader would misread the document.
Reading fails with ResultFileError.
"""

from __future__ import annotations

import json
import math
import reprlib
import typing
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

from kvmpc.caution import Caution
from kvmpc.errors import ResultFileError
from kvmpc.result.files import UnreadableError, read_text
from kvmpc.result.pager_info import PagerInfo
from kvmpc.result.records import Point, Profile, Result, Skip, TrialResult, Turns
from kvmpc.result.schema import Mismatch, not_finite, reader, shown

__all__ = [
    "SCHEMA",
    "VERSION",
    "check_version",
    "from_document",
    "from_json",
    "json_parts",
    "load",
    "load_document",
    "salvage",
    "to_json",
    "trial_json",
]

SCHEMA: Final = "kvmpc-result"
VERSION: Final = 2
"""2: a document may hold several points; warnings are records."""

_OLDEST: Final = 2

_TAIL: Final = ("finished", "skipped", "during")
"""What stands behind the trials, because it changes as they come."""


def to_json(result: Result) -> str:
    """Return the document of `result`, one line for each field and each trial.

    Raises: ValueError where a value is NaN or infinite, TypeError where one is no JSON value:
    both are defects of the caller.
    """
    head, trials, tail = json_parts(result)
    return head + ",".join(trials) + tail


def json_parts(result: Result) -> tuple[str, list[str], str]:
    """Return the document in parts, so that a file can grow by one trial at a time.

    The document is head + trials joined by commas + tail; only the tail changes as trials come.
    """
    document = {"schema": SCHEMA, "version": VERSION, **vars(result)}
    trials = [trial_json(trial) for trial in document.pop("trials")]
    for name in ("pager_infos", "turns"):
        if not document[name]:
            del document[name]  # as it was read: a document that is older does not have it
    lines = {key: f"{json.dumps(key)}: {_dump(value)}" for key, value in document.items()}
    tail = "".join(f",\n{lines.pop(key)}" for key in _TAIL)
    head = "{\n" + ",\n".join(lines.values()) + ',\n"trials": ['
    return head, trials, "\n]" + tail + "\n}\n"


def trial_json(trial: TrialResult) -> str:
    """Return one trial as a line of the document."""
    return "\n" + _dump(vars(trial))


def salvage(text: str, path: str) -> Result:
    """Return what a document holds that was cut short: all trials that are whole, unfinished.

    Raises: ResultFileError where even its head is not there.
    """
    head, opened, body = text.partition(',\n"trials": [')
    if not opened:
        raise ResultFileError(path, "cut short before its first trial: nothing can be resumed")
    trials = []
    for line in body.split("\n")[1:]:
        try:
            trials.append(json.loads(line.removesuffix(",")))
        except ValueError:
            break
    # The document of no trial, and then those that are whole.
    document = _parse(head + ', "trials": [], "finished": false, "skipped": [] }', path)
    return from_json(json.dumps({**typing.cast(dict[str, Any], document), "trials": trials}), path)


def _dump(value: object) -> str:
    # Not indented: only the compact form has json's C encoder, and this runs after every trial.
    # ASCII, so that an argument that is not UTF-8 survives as an escaped surrogate.
    return json.dumps(value, allow_nan=False, default=_plain)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Caution | Profile):
        return _beyond_defaults(value)
    if isinstance(value, PagerInfo | Point | Skip | Turns):
        return vars(value)
    raise TypeError(f"{value!r} has no place in a result")


def _beyond_defaults(record: Caution | Profile) -> dict[str, object]:
    """Return its fields, less those that say nothing: a document that is older has none of them."""
    return {
        field.name: value
        for field in fields(record)
        if (value := getattr(record, field.name)) != field.default
    }


def from_json(text: str, path: str) -> Result:
    """Return the result in the document `text`, as `from_document` does."""
    return from_document(_parse(text, path), path)


def from_document(document: object, path: str) -> Result:
    """Return the result in a parsed document; `path` is what an error calls it.

    Raises: ResultFileError, whose reason says what is wrong and where.
    """
    if not isinstance(document, dict) or "schema" not in document:
        raise ResultFileError(path, "JSON, but not a kvmpc result")
    if document["schema"] != SCHEMA:
        raise ResultFileError(path, f"of schema {reprlib.repr(document['schema'])}, not {SCHEMA!r}")
    check_version(document.get("version"), path, newest=VERSION, oldest=_OLDEST)
    try:
        result: Result = reader(Result)(document)
    except Mismatch as mismatch:
        raise ResultFileError(path, str(mismatch)) from mismatch
    return result


def check_version(version: object, path: str, *, newest: int, oldest: int) -> None:
    """Refuse a document of a version that cannot be read here. Raises: ResultFileError."""
    if type(version) is not int or version < 1:
        raise ResultFileError(path, f"version: {shown(version)} is not a version number")
    if version > newest:
        raise ResultFileError(
            path, f"version {version} is newer than this kvmpc reads ({newest}): upgrade kvmpc"
        )
    if version < oldest:
        raise ResultFileError(
            path, f"version {version} is older than this kvmpc reads ({oldest}): measure again"
        )


def load(path: str) -> Result:
    """Return the result in a file, as `load_document` and `from_document` do."""
    return from_document(load_document(path), _called(path))


def load_document(path: str) -> object:
    """Return the parsed JSON in the file `path`, or on standard input for ``-``.

    Raises: ResultFileError.
    """
    try:
        text = read_text(path, or_stdin=True)
    except UnreadableError as error:
        raise ResultFileError(_called(path), error.reason) from error
    return _parse(text, _called(path))


def _called(path: str) -> str:
    return "standard input" if path == "-" else path or "''"


def _parse(text: str, path: str) -> object:
    body = text.strip()
    if not body:
        raise ResultFileError(path, "empty")
    try:
        return json.loads(body, parse_float=_finite, parse_constant=_finite)
    except json.JSONDecodeError as error:
        if body.startswith("{") and (error.pos >= len(body) or not body.endswith("}")):
            reason = f"cut short: the document does not end after {len(text)} characters"
        else:
            reason = f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        raise ResultFileError(path, reason) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise ResultFileError(path, _what_is_absurd(body)) from error


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _what_is_absurd(body: str) -> str:
    """Return what is wrong with JSON that is spelled right, but means nothing that was measured."""

    def whole(digits: str) -> float:
        try:
            return int(digits)
        except ValueError:  # thousands of them
            return math.inf

    try:
        found = json.loads(body, parse_int=whole)
        place, number = next(not_finite(found))
    except json.JSONDecodeError as error:  # as well
        return f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
    except (RecursionError, MemoryError, StopIteration):
        return "not a kvmpc result: deeper or longer than can be read"
    return f"{place.removeprefix('.')}: {shown(number)} is not a finite number"
