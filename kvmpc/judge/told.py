"""The cautions of results as they are told: each thing once, in its worst instance, worst first.

What is of this run comes before what is always so on this host; of this run, what its numbers and
the host's counters say of the whole of it, then what single trials say, then that it is short, then
what it was set to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from kvmpc.caution import HOST, RUN, Caution
from kvmpc.judge.result_cautions import cautions_of_rounds, cautions_of_row, cautions_of_run
from kvmpc.result.points import named_points, point_names
from kvmpc.result.records import Result, Role

__all__ = ["Told", "of_run", "tell", "worst"]

_BEFORE_KINDS: Final = frozenset(
    {"mitigations", "nested-host", "paging-unknown", "tsc-not-invariant"}
)
"""What was always of a host, also in documents that are older than a caution's kind."""


@dataclass(frozen=True)
class Told:
    """One thing to be told of results.

    caution: the worst that was said of it; where: the point and the pager of that, "" = the run.
    times: how many said so or similar; unit: what they are: ``trial``, ``row`` or ``run``.
    places: all of their places, each once.
    """

    caution: Caution
    where: str
    times: int
    unit: str
    places: tuple[str, ...]

    @property
    def code(self) -> str:
        """What it is."""
        return self.caution.code

    @property
    def text(self) -> str:
        """What was found, of what, and how often."""
        said = ": ".join(filter(None, [self.where, self.caution.text]))
        often = f" (the worst; so or similar in {self.times} {self.unit}s)"
        return said + often * (self.times > 1)

    def __str__(self) -> str:
        return f"{self.text}; {self.caution.remedy}"


def tell(results: Sequence[Result], *, profiled: bool = False) -> list[Told]:
    """Return all that is to be told of runs of one thing, the worst first.

    profiled: whether profiled trials are among those that are asked, beside the measured ones.
    """
    roles = {Role.MEASURED, *([Role.PROFILED] if profiled else [])}
    found: dict[str, list[tuple[str, str, Caution]]] = {}
    for said in (
        *(("run", "", caution) for result in results for caution in cautions_of_run(result)),
        *(said for result in results for said in _of_rows(result)),
        *(said for result in results for said in _of_trials(result, roles)),
        *(("run", "", caution) for result in results for caution in cautions_of_rounds(result)),
        *(("run", "", caution) for result in results for caution in _of_plan(result)),
    ):
        found.setdefault(said[2].code, []).append(said)
    told = [_told(alike) for alike in found.values()]
    return sorted(told, key=lambda each: each.caution.kind == HOST)


def worst(results: Sequence[Result], count: int | None = None) -> list[Told]:
    """Return the `count` things of this run that weaken it most; None = all of this run."""
    return of_run(tell(results))[:count]


def of_run(told: Iterable[Told]) -> list[Told]:
    """Return what is of this run, and not always so on this host."""
    return [each for each in told if each.caution.kind == RUN]


def _told(alike: Sequence[tuple[str, str, Caution]]) -> Told:
    unit, where, caution = max(alike, key=lambda said: said[2].size)
    places = tuple(dict.fromkeys(place for _, place, _ in alike))
    return Told(caution, where, len(alike), unit, places)


def _of_plan(result: Result) -> Iterator[Caution]:
    """Yield what was said before the first trial, each once, of its kind."""
    for caution in dict.fromkeys(result.warnings):
        yield replace(caution, kind=HOST) if caution.code in _BEFORE_KINDS else caution


def _of_rows(result: Result) -> Iterator[tuple[str, str, Caution]]:
    for name, point in named_points(result):
        for spec in dict.fromkeys(point.pagers):
            for caution in cautions_of_row(point, spec):
                yield "row", _row_name(name, point.pager(spec).label), caution


def _of_trials(result: Result, roles: set[Role]) -> Iterator[tuple[str, str, Caution]]:
    options = [{**result.options, **point.options} for point in result.points]
    names = point_names(options or [result.options])
    for trial in result.trials:
        # What is not counted needs no caution; that it is not is told with the table.
        told = trial.role in roles and not trial.starved
        for caution in trial.warnings if told else ():
            yield "trial", _row_name(names[trial.point], trial.label), caution


def _row_name(point: str, label: str) -> str:
    return ": ".join(filter(None, [point, label]))
