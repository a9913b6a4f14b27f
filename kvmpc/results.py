"""What a run found: frozen records, and their one JSON form.

Owns the document's schema. Reading trusts nothing: every field must be there and of its type (a
bool is not a number; NaN and infinity are refused), and what is wrong is named with its place,
such as ``trials[3].counts.installs``. Keys it does not know are ignored, so that a field can be
added without a new version; a new version means that an old reader would misread the document.

Knows nothing of KVM. A field that was not measured is absent or null, never 0. Reading fails with
ResultFileError.
"""

from __future__ import annotations

import json
import math
import sys
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NoReturn

from kvmpc.cautions import Caution
from kvmpc.errors import ResultFileError, describe_errno
from kvmpc.schema import Mismatch, reader, shown

__all__ = [
    "FAILED",
    "OK",
    "PROFILED",
    "SCHEMA",
    "VERSION",
    "Point",
    "Profile",
    "Result",
    "Skip",
    "TrialResult",
    "check_version",
    "from_document",
    "from_json",
    "json_parts",
    "load",
    "load_document",
    "points_of",
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

OK: Final = "ok"
FAILED: Final = "failed"

PROFILED: Final = -1
"""The round of a trial that was profiled: it gives no rate."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Where the CPU time of one trial's threads went, by sampling; shares are of all of it.

    event: what was sampled: ``cycles``, or ``cpu-clock`` where there is no PMU.
    samples: how many; frequency_hz: how many a second of CPU time were asked for.
    modes: share in ``guest``, ``kernel``, ``user``. roles: share of ``vcpus`` and ``readers``.
    spin: share waiting for a spin lock, by whose lock it is (keys of ``profile.WAITERS``); empty
        where the kernel's functions have no names.
    irqs_off: share taken where interrupts come on again, by the same: held or waited for, a clock
        cannot tell; empty where the event is no clock.
    top: share of the functions with the most time of their own, in descending order.
    """

    event: str
    frequency_hz: int
    samples: int
    modes: Mapping[str, float]
    roles: Mapping[str, float]
    spin: Mapping[str, float]
    irqs_off: Mapping[str, float]
    top: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """One trial: one guest, one pager, one measurement.

    point: index of the point it belongs to, see `Result.points`.
    pager: canonical spec, such as ``uffd,uffds=per-vcpu``; the key that joins trials to a row.
    label: the spec as shown, such as ``exit(sigbus),uffds=per-vcpu``.
    fetches: whether the pager fetches pages (``none`` does not).
    round: 0 = warm-up, then 1, 2, ...; `PROFILED` (-1) = profiled, and no part of any rate.
    status: ``ok`` or ``failed``; error: why it failed, None when it did not.
    verified: ``yes``; ``zeros`` where pages can only hold zeros; None if nothing was verified.
    expected_pages: pages that had to be present afterwards; sparse: not every page was touched.
    elapsed_ns: gate-open to the last vCPU's last page; None if it never came.
    metrics: only what was measured; the unit ends the name (``pages_per_s``, ``fault_p50_ns``).
    counts: events by name (``installs``, ``eexist``, ``reads``).
    histogram_cycles: (lowest, highest, touches) of non-empty buckets, guest TSC cycles, ascending.
    guest_tsc_khz: guest TSC cycles in a millisecond.
    per_vcpu: raw lists by name, one entry per vCPU (``start_ns``, ``end_ns`` from the gate; ``cpu``
        where its thread ended, certain for all of the trial where ``cpus_allowed`` is 1).
    per_reader: raw lists by name, one entry per reader thread.
    pages_per_node: pages by NUMA node, afterwards.
    warnings: what tilts this trial's numbers.
    kvm_stats: what KVM's own counters grew by, those of the VM and the sum of its vCPUs', named as
        the kernel names them; empty where it has none.
    timeline: progress by time, lists of one length: ``ns`` from the gate, ``touches`` of all vCPUs
        (further passes included), ``installs``; empty where it was not sampled.
    profile: of a profiled trial, where its CPU time went; None where it is none, or could not be
        profiled (a warning says why).
    """

    pager: str
    label: str
    fetches: bool
    round: int
    status: str
    error: str | None
    verified: str | None
    vcpus: int
    expected_pages: int
    sparse: bool
    elapsed_ns: int | None
    metrics: Mapping[str, float]
    counts: Mapping[str, int]
    histogram_cycles: tuple[tuple[int, int, int], ...]
    guest_tsc_khz: float | None
    guest_tsc_is_host_tsc: bool | None
    per_vcpu: Mapping[str, tuple[int, ...]]
    per_reader: Mapping[str, tuple[int, ...]]
    pages_per_node: Mapping[str, int]
    warnings: tuple[Caution, ...]
    point: int = 0
    kvm_stats: Mapping[str, int] = field(default_factory=dict)
    profile: Profile | None = None
    timeline: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.status not in (OK, FAILED):
            raise ValueError(f"status is {self.status!r}, not {OK!r} or {FAILED!r}")
        if (self.status == FAILED) != (self.error is not None):
            raise ValueError(f"status {self.status!r} does not go with error {self.error!r}")


@dataclass(frozen=True, kw_only=True)
class Point:
    """One point of a sweep: `options` by which it differs from the run's, `pagers` measured."""

    options: Mapping[str, object]
    pagers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Skip:
    """A pager that was not measured at a point, because this host cannot: `reason` says why."""

    point: int
    pager: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Result:
    """One run: all rounds of one command, finished or as far as it came.

    command: the command line; started: ISO 8601, UTC; finished: whether every trial was run.
    options: the exact options of the run, JSON values by name; those of ``config.Work`` keep
        its field names.
    pagers: specs in the order given; labels: what each is called in tables.
    host: facts of the machine, as ``host.collect`` gives them.
    trials: in the order they ran, warm-ups included.
    warnings: what tilts the whole run.
    points: of a sweep; empty where all trials are of one point. Pagers are compared within a
        point; `points_of` takes a result apart.
    skipped: what this host could not run.
    spec: the sweep's spec as it was run, TOML; question: what it asks.
    during: what else the host did during the run, as ``watch.HostWatch`` gives it; None if unknown.
    """

    tool_version: str
    command: tuple[str, ...]
    started: str
    finished: bool
    options: Mapping[str, object]
    pagers: tuple[str, ...]
    labels: tuple[str, ...]
    host: Mapping[str, object]
    trials: tuple[TrialResult, ...]
    warnings: tuple[Caution, ...]
    points: tuple[Point, ...] = ()
    skipped: tuple[Skip, ...] = ()
    spec: str | None = None
    question: str | None = None
    during: Mapping[str, object] | None = None

    def __post_init__(self) -> None:
        last = max(0, len(self.points) - 1)
        for point in (*(t.point for t in self.trials), *(s.point for s in self.skipped)):
            if not 0 <= point <= last:
                raise ValueError(f"a trial is of point {point}, the last one is {last}")
        for found in self.points:
            if not set(found.pagers) <= set(self.pagers):
                raise ValueError(f"a point has pagers {found.pagers}, the run {self.pagers}")


def points_of(result: Result) -> list[Result]:
    """Return `result` taken apart: one result of a single point for each point, in order."""
    if not result.points:
        return [result]
    labels = dict(zip(result.pagers, result.labels, strict=False))
    return [
        replace(
            result,
            options={**result.options, **point.options},
            pagers=point.pagers,
            labels=tuple(labels.get(pager, pager) for pager in point.pagers),
            points=(),
            trials=tuple(replace(t, point=0) for t in result.trials if t.point == index),
            skipped=tuple(replace(s, point=0) for s in result.skipped if s.point == index),
        )
        for index, point in enumerate(result.points)
    ]


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
    if isinstance(value, Caution | Point | Profile | Skip):
        return vars(value)
    raise TypeError(f"{value!r} has no place in a result")


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
        raise ResultFileError(path, f"of schema {document['schema']!r}, not {SCHEMA!r}")
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
        raw = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        reason = f"cannot be read: {describe_errno(error.errno or 0)}"
        raise ResultFileError(path, reason) from error
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        reason = f"not JSON: byte {error.start} is not UTF-8"
        raise ResultFileError(_called(path), reason) from error
    return _parse(text, _called(path))


def _called(path: str) -> str:
    return "standard input" if path == "-" else path


class _NotFinite(ValueError):
    """A number that JSON can spell in Python's dialect, but that no measurement gives."""


def _parse(text: str, path: str) -> object:
    body = text.strip()
    if not body:
        raise ResultFileError(path, "empty")
    try:
        return json.loads(body, parse_float=_finite, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        if body.startswith("{") and (error.pos >= len(body) or not body.endswith("}")):
            reason = f"cut short: the document does not end after {len(text)} characters"
        else:
            reason = f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        raise ResultFileError(path, reason) from error
    except _NotFinite as error:
        raise ResultFileError(path, f"{error} is not a finite number") from error
    except (ValueError, RecursionError) as error:  # thousands of digits or of brackets
        raise ResultFileError(path, f"not a kvmpc result: {error}") from error


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _NotFinite(text)
    return number


def _refuse_constant(text: str) -> NoReturn:
    raise _NotFinite(text)
