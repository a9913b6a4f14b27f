"""A sweep's spec: TOML in which any option may be a list, read into a `Plan`.

Every option by its name on the command line with ``_`` for ``-``; `pagers`, `rounds`, `warmup`,
`watchdog`, `busy_limit`, `profile`, `question`. Tables ``[[grid]]`` are further cross products,
each on top of what stands above them; without one there is a single cross product. What is wrong is
a `UsageError` that names the key.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from kvmpc.errors import UsageError
from kvmpc.judge.intervals import FEWEST_FOR_INTERVAL
from kvmpc.result.files import UnreadableError, read_text
from kvmpc.result.records import BUSY_LIMIT
from kvmpc.run.axes import AXES, SCALARS, choices_of
from kvmpc.run.plan import Grid, Plan, plan_of

__all__ = ["read_spec"]


def read_spec(path: str, settings: Sequence[str] = (), *, confirmed: bool = False) -> Plan:
    """Return the plan in the sweep spec at `path`, with ``key=value`` lines set anew.

    Raises: UsageError naming the key.
    """
    try:
        text = read_text(path)
    except UnreadableError as error:
        raise UsageError("SPEC", path, f"the name of a file in TOML: {error.reason}") from error
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # thousands of digits or of brackets, too
        raise UsageError("SPEC", path, f"TOML: {error}") from error
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UsageError("--set", setting, "key=value")
        _set(document, key.strip(), _toml_value(value.strip()))
    return _plan_of_document(document, text, confirmed)


def _toml_value(text: str) -> object:
    """Return the TOML value `text` is, or the text itself: ``4M`` needs no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _set(document: dict[str, Any], key: str, value: object) -> None:
    """Set `key` anew, wherever it stands; at the top where it does not stand yet."""
    grids = document.get("grid")
    grids = grids if isinstance(grids, list) else []
    holders = [g for g in grids if isinstance(g, dict) and key in g]
    for holder in holders:
        holder[key] = value
    if key in document or not holders:
        document[key] = value


def _plan_of_document(document: Mapping[str, Any], text: str, confirmed: bool) -> Plan:
    top = dict(document)
    grids = top.pop("grid", [{}])
    if not isinstance(grids, list) or [grid for grid in grids if not isinstance(grid, dict)]:
        raise UsageError("grid", grids, "tables: [[grid]], each with the keys of a cross product")
    known = ["pagers", *AXES]
    _refuse_unknown(top, [*known, *SCALARS])
    scalars = {}
    for name, read in SCALARS.items():
        if name in top:
            value = top.pop(name)
            if isinstance(value, list):
                raise UsageError(name, value, "one value: it is the same for every point")
            scalars[name] = read(value, name)
    made = []
    for grid in grids:
        _refuse_unknown(grid, known)
        keys = {**top, **grid}
        specs = _specs(keys.pop("pagers")) if "pagers" in keys else None
        made.append(Grid(specs, {name: choices_of(name, value) for name, value in keys.items()}))
    return plan_of(
        made,
        confirmed=confirmed,
        rounds=scalars.get("rounds", FEWEST_FOR_INTERVAL),
        warmup=scalars.get("warmup", 1),
        watchdog_s=scalars.get("watchdog", 10.0),
        profile=scalars.get("profile", False),
        busy_limit=scalars.get("busy_limit", BUSY_LIMIT),
        question=scalars.get("question"),
        spec=text,
    )


def _specs(value: object) -> list[str]:
    """Return pager specs: a list's, or those in a text, apart by blanks."""
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list) or not words or not all(isinstance(w, str) for w in words):
        raise UsageError("pagers", value, 'a list of pagers, such as ["uffd", "exit"]')
    return [str(word) for word in words]


def _refuse_unknown(table: Mapping[str, object], known: Sequence[str]) -> None:
    for key in table:
        if key not in known:
            raise UsageError(key, "unknown key", f"the keys {', '.join(known)}")
