"""Two results as the sides of one measurement in turn: which blocks are a pair, and what differs.

Pure functions of results.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from kvmpc.caution import Caution
from kvmpc.judge.criteria import Criteria
from kvmpc.judge.intervals import CONFIDENCE
from kvmpc.judge.paired import pairs_needed
from kvmpc.judge.same_host import HostDifference
from kvmpc.judge.summary import median
from kvmpc.result.records import Result

__all__ = ["MOVED", "by_block", "cautions_within", "facts_that_differ", "in_turn", "pairs_for"]

MOVED: Final = "side-moved"
"""The code of what `cautions_within` finds."""

_ALWAYS_MOVE: Final = frozenset(
    {
        "collected_at_utc",
        "load",
        "memory.available_bytes",
        "memory.swap_used_bytes",
        "memory.pressure_some_avg60_percent",
        "cgroup.memory_used_bytes",
        "cgroup.pids_current",
    }
)
"""Facts that are never twice the same: they are no state that a side has."""


def in_turn(baseline: Sequence[Result], new: Sequence[Result]) -> bool:
    """Return whether these are the two sides of one measurement in turn, either way round."""
    if len(baseline) != 1 or len(new) != 1:
        return False
    one, other = baseline[0].turns, new[0].turns
    return bool(one and other and one.id == other.id and one.side != other.side)


def by_block(run: Result, by_round: Mapping[int, float]) -> dict[int, float]:
    """Return the median of each block that has a value, from values by round."""
    blocks: dict[int, list[float]] = {}
    for number, value in by_round.items():
        block = run.turns.block_of(number) if run.turns else None
        if block is not None:
            blocks.setdefault(block, []).append(value)
    return {block: median(values) or 0.0 for block, values in sorted(blocks.items())}


def facts_that_differ(
    baseline: Mapping[str, object], new: Mapping[str, object]
) -> list[HostDifference]:
    """Return every fact in which the sides differ, but for those that always move."""
    one, other = _flat(baseline), _flat(new)
    return [
        HostDifference(name, _shown(one.get(name)), _shown(other.get(name)))
        for name in sorted({*one, *other})
        if one.get(name) != other.get(name)
    ]


def cautions_within(hosts: Sequence[Mapping[str, object]]) -> list[Caution]:
    """Return what to know where facts moved between the blocks of one side, first to last."""
    moved = {
        str(each).removesuffix(" in the baseline").replace(" against ", " after "): None
        for host in hosts[1:]
        for each in facts_that_differ(hosts[0], host)
    }
    if not moved:
        return []
    return [
        Caution(
            MOVED,
            f"the host moved between blocks of one side: {'; '.join(moved)}",
            "let the side's command set it, or find out who does",
        )
    ]


def pairs_for(criteria: Criteria, tests: Mapping[str, int]) -> int:
    """Return how many pairs a check needs so that each of its tests can come out red.

    tests: how many there are of each metric, by its name.
    """
    families: dict[str, int] = {}
    for name, number in tests.items():
        family = name if name in criteria.alphas else ""
        families[family] = families.get(family, 0) + number
    levels = [
        criteria.alphas.get(name, criteria.alpha) / number
        for name, number in families.items()
        if number
    ]
    # An interval, too, has to be there: without one nothing is judged.
    return pairs_needed(min(*levels, (1 - CONFIDENCE) / 2))


def _flat(facts: Mapping[str, object]) -> dict[str, object]:
    return dict(_each(facts, ""))


def _each(facts: Mapping[str, object], within: str) -> Iterator[tuple[str, object]]:
    for key, value in facts.items():
        name = within + key
        if name in _ALWAYS_MOVE:
            continue
        if isinstance(value, Mapping):
            yield from _each(value, f"{name}.")
        else:
            yield name, value


def _shown(value: object) -> str:
    return "unknown" if value is None else str(value)
