"""What weakens the numbers of a result, found in the result itself.

`kvmpc.judge.host_cautions` judges the host before the run, a trial judges itself; here is what only
the finished numbers, or what happened meanwhile, can tell. Pure functions of a result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from kvmpc.caution import Caution
from kvmpc.judge.intervals import FEWEST_FOR_INTERVAL, shift_p
from kvmpc.judge.rows import usable_trials, values_of
from kvmpc.judge.summary import median
from kvmpc.result.metrics import RATE
from kvmpc.result.records import Result

__all__ = [
    "FEWEST_ROUNDS",
    "cautions_of_rounds",
    "cautions_of_row",
    "cautions_of_run",
    "variation",
]

FEWEST_ROUNDS: Final = 3
"""With fewer, nothing tells a steady pager from one that met a quiet moment."""

_MOST_VARIATION: Final = 0.10
_FEWEST_IN_HALF: Final = 5
_SURE: Final = 0.005
_MOST_OTHER: Final = 0.05
_MOST_STOLEN: Final = 0.02
_MOST_SETS: Final = 4

_WAITED: Final = ("pgscan_direct", "allocstall", "cgroup_high", "cgroup_max")
_MANY_SCANNED: Final = 10_000
"""Pages that kswapd may look at before it is worth saying: it works a little on any busy host."""


def cautions_of_run(result: Result) -> Iterator[Caution]:
    """Yield what weakens the whole run: what else the host did meanwhile."""
    yield from _meanwhile(result.during or {})


def cautions_of_rounds(result: Result) -> Iterator[Caution]:
    """Yield that a run has too few rounds to show how steady it is."""
    rounds = result.measured_rounds
    if result.finished and 0 < rounds < FEWEST_ROUNDS:
        yield Caution(
            "few-rounds",
            f"{'a single round' if rounds == 1 else f'{rounds} rounds'} cannot show how steady "
            "the numbers are",
            f"--rounds {FEWEST_FOR_INTERVAL} or more",
        )


def cautions_of_row(point: Result, spec: str) -> Iterator[Caution]:
    """Yield what weakens the row of `spec` in a result of one point."""
    rates = values_of(usable_trials(point, spec), RATE.key)
    spread = variation(rates)
    if spread is not None and spread > _MOST_VARIATION:
        yield Caution(
            "unsteady",
            f"the rate varies by {spread:.0%} between rounds (coefficient of variation)",
            "give it a quiet host, longer trials (--mem-per-vcpu), more --rounds",
            size=spread,
        )
    half = len(rates) // 2
    first, second = rates[:half], rates[-half:]
    if (
        point.turns is None  # what is measured in turn drifts with its other side
        and half >= _FEWEST_IN_HALF
        and min(shift_p(first, second), shift_p(second, first)) <= _SURE
    ):
        change = (median(second) or 0) / (median(first) or 1) - 1
        yield Caution(
            "drift",
            f"the rate of the second half of the rounds is {change:+.0%} to that of the first, "
            "so rounds of this run are not alike, and two runs may differ by as much",
            "compare several runs (kvmpc check RUN1 RUN2 ...)",
            size=abs(change),
        )


def variation(values: Sequence[float]) -> float | None:
    """Return standard deviation over mean; None of fewer than two values, or of mean 0."""
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    if mean == 0:
        return None
    square = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return math.sqrt(square) / abs(mean)


def _meanwhile(during: Mapping[str, object]) -> Iterator[Caution]:
    elapsed, cpus = _number(during, "elapsed_s"), _number(during, "cpus_count")
    room = (elapsed or 0) * (cpus or 0)
    other, stolen = _number(during, "other_cpu_s"), _number(during, "steal_cpu_s")
    if other is not None and room and other / room > _MOST_OTHER:
        yield Caution(
            "other-load",
            f"during the run other processes took {other / room:.0%} of its {cpus:g} CPUs",
            "stop them, or keep them away (cpuset, isolcpus)",
            size=other / room,
        )
    if stolen is not None and room and stolen / room > _MOST_STOLEN:
        yield Caution(
            "stolen-time",
            f"the hypervisor below this host gave {stolen / room:.0%} of its CPU time to others",
            "measure on bare metal, or on dedicated CPUs",
            size=stolen / room,
        )
    throttled = _number(during, "throttled_count")
    if throttled:
        yield Caution(
            "frequency-moved",
            f"CPUs slowed down {throttled:g} times for heat or power",
            "set a frequency that they can hold (cpupower frequency-set -u)",
            size=throttled,
        )
    yield from _reclaimed(during.get("reclaim"))
    limits = during.get("max_khz")
    if isinstance(limits, list) and len(limits) == 2:
        shown = " to ".join(
            f"{khz / 1e6:g} GHz" if isinstance(khz, int | float) else "unknown" for khz in limits
        )
        yield Caution(
            "frequency-limit-moved",
            f"the highest frequency allowed went from {shown} during the run",
            "stop what sets it (thermald, tuned, a power cap), and measure again",
        )

    sets = during.get("cpus")
    if isinstance(sets, list) and len(sets) > 1:
        yield Caution(
            "cpus-changed",
            f"the CPUs of this run went from {' to '.join(map(str, sets[:_MOST_SETS]))}"
            f"{' and so on' if len(sets) > _MOST_SETS else ''}: its rounds are not alike",
            "keep CPUs online and the cpuset as it is, and measure again",
        )


def _reclaimed(counts: object) -> Iterator[Caution]:
    """Yield that memory was short: somebody had to wait for it, or kswapd was busy."""
    grown = counts if isinstance(counts, Mapping) else {}
    found = {name: count for name in _WAITED if (count := _number(grown, name))}
    scanned = _number(grown, "pgscan_kswapd") or 0
    if scanned > _MANY_SCANNED:
        found["pgscan_kswapd"] = scanned
    if found:
        listed = ", ".join(f"{name} {count:,.0f}" for name, count in found.items())
        yield Caution(
            "memory-reclaim",
            f"memory ran short during the run ({listed}): installs waited for it, or shared CPUs "
            "with who looked for it",
            "free memory, raise memory.high and memory.max, or use less (--mem-per-vcpu)",
            size=sum(found.values()),
        )


def _number(facts: Mapping[str, object], name: str) -> float | None:
    found = facts.get(name)
    return found if isinstance(found, int | float) and not isinstance(found, bool) else None
