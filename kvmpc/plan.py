"""What a command asks to be measured: points, each with its pagers, and how often.

A `Plan` is made of options of the command line or of a sweep's spec (TOML), by one set of rules:
`AXES` says what every option takes. All that can be known without the host is checked here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from kvmpc.config import MAX_VCPUS_DEFAULT, Work, default_mem_per_vcpu_bytes
from kvmpc.errors import UsageError
from kvmpc.headroom import allowed_cpus
from kvmpc.pagers import DEFAULT_COMPARE, Pager, parse_pager
from kvmpc.placement import Placement, parse_cpus
from kvmpc.units import parse_counts, parse_duration_ns, parse_size_bytes

__all__ = [
    "AXES",
    "MAX_TRIALS",
    "SCALARS",
    "Grid",
    "Plan",
    "PlannedPoint",
    "choices_of",
    "default_pagers",
    "expand_pager",
    "make_plan",
    "plan_of",
    "work_of",
]

MAX_TRIALS: Final = 10_000
"""Trials that a plan may have without being confirmed."""

_MAX_ROUNDS: Final = 1000
_MAX_WATCHDOG_S: Final = 3600


@dataclass(frozen=True)
class PlannedPoint:
    """One combination of options, and the pagers that are compared there."""

    work: Work
    pagers: tuple[Pager, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All trials of one run.

    rounds: measured rounds; in each, every pager is measured once at every point.
    warmup: rounds before them, each at an eighth of the work.
    watchdog_s: a trial without a new page for so long has failed.
    profile: whether each pager is run once more at each point, afterwards, to be profiled.
    question, spec: of a sweep: what it asks, and its text.
    """

    points: tuple[PlannedPoint, ...]
    rounds: int
    warmup: int
    watchdog_s: float
    profile: bool = False
    question: str | None = None
    spec: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.rounds <= _MAX_ROUNDS:
            raise UsageError("--rounds", self.rounds, f"1 to {_MAX_ROUNDS}")
        if not 0 <= self.warmup <= _MAX_ROUNDS:
            raise UsageError("--warmup", self.warmup, f"0 to {_MAX_ROUNDS}")
        for point in self.points:
            specs = [pager.spec for pager in point.pagers]
            for pager in point.pagers:
                if specs.count(pager.spec) > 1:
                    raise UsageError(
                        "PAGER", pager.spec, "each pager once; for more trials, --rounds"
                    )
                pager.check(point.work)
            longest = 10 * point.work.fetch_delay_ns
            if not 0 < self.watchdog_s <= _MAX_WATCHDOG_S or self.watchdog_s * 1e9 < longest:
                raise UsageError(
                    "--watchdog",
                    self.watchdog_s,
                    "up to 3600 s, and at least ten times --fetch-delay",
                )

    def __len__(self) -> int:
        return (self.warmup + self.rounds + self.profile) * sum(
            len(point.pagers) for point in self.points
        )

    @property
    def pagers(self) -> tuple[Pager, ...]:
        """Every pager of any point, in the order given."""
        return tuple({p.spec: p for point in self.points for p in point.pagers}.values())


# What each option takes: from a string, or from a value of TOML.


def _count(value: object, option: str) -> int:
    if isinstance(value, str):
        counts = parse_counts(value, option)
        if len(counts) == 1:
            return counts[0]
    elif type(value) is int:
        return value
    raise UsageError(option, value, "a whole number")


def _text(value: object, option: str) -> str:
    if not isinstance(value, str):
        raise UsageError(option, value, "text")
    return value


def _flag(value: object, option: str) -> bool:
    if value in ("true", "false"):
        return value == "true"
    if not isinstance(value, bool):
        raise UsageError(option, value, "true or false")
    return value


def _size(value: object, option: str) -> int:
    return value if type(value) is int else parse_size_bytes(_text(value, option), option)


def _duration(value: object, option: str) -> int:
    return parse_duration_ns("0" if value == 0 else _text(value, option), option)


def _seconds(value: object, option: str) -> float:
    try:
        if not isinstance(value, bool) and isinstance(value, int | float | str):
            return float(value)
    except ValueError:
        pass
    raise UsageError(option, value, "a number of seconds")


@dataclass(frozen=True)
class Axis:
    """One option of `Work`: its field there, and how a value is read.

    What says where things are to be goes into `Placement.parse` together, as it is.
    """

    work_field: str
    read: Callable[[object, str], object]

    @property
    def counts(self) -> bool:
        """Whether a string may be a list of numbers, such as ``1-160:x2``."""
        return self.read is _count


AXES: Final[Mapping[str, Axis]] = {
    "vcpus": Axis("vcpus", _count),
    "mem_per_vcpu": Axis("mem_per_vcpu_bytes", _size),
    "touch_pages": Axis("touch_pages", _count),
    "order": Axis("order", _text),
    "access": Axis("access", _text),
    "overlap": Axis("overlap", _flag),
    "fetch_delay": Axis("fetch_delay_ns", _duration),
    "passes": Axis("passes", _count),
    "timeline": Axis("timeline", _flag),
    "split": Axis("split", _flag),
    "seed": Axis("seed", _count),
    **{
        name: Axis("placement", lambda value, _: value)
        for name in ("pin", "cpus", "reader_cpus", "numa", "cpu_latency")
    },
}

SCALARS: Final[Mapping[str, Callable[[object, str], Any]]] = {
    "rounds": _count,
    "warmup": _count,
    "watchdog": _seconds,
    "profile": _flag,
    "question": _text,
}


def option_of(name: str) -> str:
    """Return how an option is spelled on the command line."""
    return "--" + name.replace("_", "-")


def work_of(values: Mapping[str, object]) -> Work:
    """Return the work that `values` (options by name, None = not given) describe.

    Raises: UsageError naming the option.
    """
    read: dict[str, object] = {}
    placed: dict[str, object] = {}
    for name, axis in AXES.items():
        if values.get(name) is not None:
            value = axis.read(values[name], option_of(name))
            if axis.work_field == "placement":
                placed[name] = value
            else:
                read[axis.work_field] = value
    placement = Placement.parse(**placed)
    cpus = parse_cpus(placement.cpus, "--cpus") if placement.cpus else allowed_cpus()
    vcpus = read.setdefault("vcpus", min(len(cpus), MAX_VCPUS_DEFAULT))
    assert isinstance(vcpus, int)
    read.setdefault("mem_per_vcpu_bytes", default_mem_per_vcpu_bytes(max(1, vcpus)))
    return Work(**read, placement=placement)  # type: ignore[arg-type]


def default_pagers(access: object) -> tuple[str, ...]:
    """Return what `compare` measures unless told."""
    if access == "read":
        # Untouched memory reads as the one shared zero page: nothing would be paged in.
        return ("none,host=populated", *DEFAULT_COMPARE[1:])
    return DEFAULT_COMPARE


def expand_pager(spec: str) -> list[Pager]:
    """Return the pagers of a spec in which a number may be a range: ``uffd,readers=1-160:x2``.

    Raises: UsageError.
    """
    choices = []
    for word in spec.split(","):
        key, equals, value = word.partition("=")
        if equals and "-" in value and value.strip()[:1].isdigit():
            counts = parse_counts(value, f"PAGER {spec}")
            choices.append([f"{key}={count}" for count in counts])
        else:
            choices.append([word])
    if math.prod(len(choice) for choice in choices) > MAX_TRIALS:
        raise UsageError("PAGER", spec, f"at most {MAX_TRIALS} pagers")
    return [parse_pager(",".join(words)) for words in itertools.product(*choices)]


def choices_of(name: str, value: object) -> list[object]:
    """Return the values that an axis takes: a list's, or the one."""
    if isinstance(value, list):
        if not value:
            raise UsageError(
                option_of(name), "[]", "at least one value; without the line, the default"
            )
        return [choice for item in value for choice in choices_of(name, item)]
    if isinstance(value, str) and AXES[name].counts:
        return list(parse_counts(value, option_of(name)))
    return [value]


@dataclass
class Grid:
    """A cross product: pagers, and the values of each axis."""

    pagers: Sequence[str] | None = None
    axes: dict[str, list[object]] = field(default_factory=dict)

    def size(self) -> int:
        return math.prod(len(values) for values in self.axes.values())

    def points(self) -> Iterable[PlannedPoint]:
        for values in itertools.product(*self.axes.values()):
            options = dict(zip(self.axes, values, strict=True))
            specs = self.pagers or default_pagers(options.get("access"))
            pagers = [pager for spec in specs for pager in expand_pager(spec)]
            yield PlannedPoint(work_of(options), tuple(pagers))


def make_plan(
    axes: Mapping[str, object], pagers: Sequence[str] | None, *, confirmed: bool = True, **rest: Any
) -> Plan:
    """Return the plan of one cross product: `axes` by name, each a value or a list of values.

    `rest`: rounds, warmup, watchdog_s and what else `Plan` takes. Raises: UsageError.
    """
    given = {name: choices_of(name, value) for name, value in axes.items() if value is not None}
    return plan_of([Grid(pagers, given)], confirmed=confirmed, **rest)


def plan_of(grids: Sequence[Grid], *, confirmed: bool, **rest: Any) -> Plan:
    # Before the product is made: it may have more points than there is memory.
    points = sum(grid.size() for grid in grids)
    turns = rest.get("rounds", 1) + rest.get("warmup", 0)
    if not confirmed and points * turns > MAX_TRIALS:
        raise UsageError("--yes", "not given", _many(points * turns))
    merged: dict[Work, dict[str, Pager]] = {}
    for grid in grids:
        for point in grid.points():
            merged.setdefault(point.work, {}).update({p.spec: p for p in point.pagers})
            if len({p.spec for p in point.pagers}) != len(point.pagers):
                Plan(points=(point,), **rest)  # refuses it by name
    plan = Plan(
        points=tuple(PlannedPoint(work, tuple(by.values())) for work, by in merged.items()), **rest
    )
    if not confirmed and len(plan) > MAX_TRIALS:
        raise UsageError("--yes", "not given", _many(len(plan)))
    return plan


def _many(trials: int) -> str:
    return f"--yes, for a plan of {trials:,} trials or more (over {MAX_TRIALS:,})"
