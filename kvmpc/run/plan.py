"""What a command asks to be measured: points, each with its pagers, and how often.

A `Plan` is made of options of the command line or of a sweep's spec (TOML), by one set of rules:
`kvmpc.run.axes` says what every option takes. Of the host it knows its CPUs, which say how many
vCPUs there are and which pagers are compared unless told; all else that can be known without the
host is checked here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from kvmpc.errors import UsageError
from kvmpc.host.files import Cgroups
from kvmpc.host.headroom import allowed_cpus
from kvmpc.pagers import Pager, parse_pager
from kvmpc.run.axes import choices_of, work_of
from kvmpc.run.defaults import default_pagers
from kvmpc.units import parse_counts
from kvmpc.work.work import Work

__all__ = [
    "Grid",
    "Plan",
    "PlannedPoint",
    "make_plan",
    "plan_of",
]

_MAX_TRIALS: Final = 10_000
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
    busy_limit: the share of a trial's CPU time that others may have before it does not count; None
        where all do.
    question, spec: of a sweep: what it asks, and its text.
    """

    points: tuple[PlannedPoint, ...]
    rounds: int
    warmup: int
    watchdog_s: float
    profile: bool = False
    busy_limit: float | None = None
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


def _expand_pager(spec: str) -> list[Pager]:
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
    if math.prod(len(choice) for choice in choices) > _MAX_TRIALS:
        raise UsageError("PAGER", spec, f"at most {_MAX_TRIALS} pagers")
    return [parse_pager(",".join(words)) for words in itertools.product(*choices)]


@dataclass(frozen=True)
class Grid:
    """A cross product: pager specs (None = the default ones), and the values of each axis by name.

    A number in a spec may be a range: ``uffd,readers=1-160:x2``.
    """

    pagers: Sequence[str] | None = None
    axes: Mapping[str, Sequence[object]] = field(default_factory=dict)

    def size(self) -> int:
        """Return how many points it has."""
        return math.prod(len(values) for values in self.axes.values())

    def points(
        self, cpus: Sequence[int], quota_cpus: float | None = None
    ) -> Iterable[PlannedPoint]:
        """Yield its points, on a host where this process may use `cpus`. Raises: UsageError.

        quota_cpus: as in `default_pagers`.
        """
        for values in itertools.product(*self.axes.values()):
            work = work_of(dict(zip(self.axes, values, strict=True)), cpus)
            specs = self.pagers or default_pagers(work, cpus, quota_cpus)
            pagers = [pager for spec in specs for pager in _expand_pager(spec)]
            yield PlannedPoint(work, tuple(pagers))


def make_plan(
    axes: Mapping[str, object], pagers: Sequence[str] | None, *, confirmed: bool = True, **rest: Any
) -> Plan:
    """Return the plan of one cross product: `axes` by name, each a value or a list of values.

    confirmed: as in `plan_of`. `rest`: rounds, warmup, watchdog_s and what else `Plan`
    takes. Raises: UsageError.
    """
    given = {name: choices_of(name, value) for name, value in axes.items() if value is not None}
    return plan_of([Grid(pagers, given)], confirmed=confirmed, **rest)


def plan_of(grids: Sequence[Grid], *, confirmed: bool, **rest: Any) -> Plan:
    """Return the plan of all `grids`; a point that several have is one, with the pagers of all.

    confirmed: whether it may be larger than anybody wants by accident. `rest`: as in `make_plan`.
    Raises: UsageError.
    """
    # Before the product is made: it may have more points than there is memory.
    points = sum(grid.size() for grid in grids)
    turns = rest.get("rounds", 1) + rest.get("warmup", 0)
    if not confirmed and points * turns > _MAX_TRIALS:
        raise UsageError("--yes", "not given", _many(points * turns))
    cpus, quota_cpus = allowed_cpus(), Cgroups().quota_cpus()
    merged: dict[Work, dict[str, Pager]] = {}
    for grid in grids:
        for point in grid.points(cpus, quota_cpus):
            merged.setdefault(point.work, {}).update({p.spec: p for p in point.pagers})
            if len({p.spec for p in point.pagers}) != len(point.pagers):
                Plan(points=(point,), **rest)  # refuses it by name
    plan = Plan(
        points=tuple(PlannedPoint(work, tuple(by.values())) for work, by in merged.items()), **rest
    )
    if not confirmed and len(plan) > _MAX_TRIALS:
        raise UsageError("--yes", "not given", _many(len(plan)))
    return plan


def _many(trials: int) -> str:
    return f"--yes, for a plan of {trials:,} trials or more (over {_MAX_TRIALS:,})"
