"""What is said of how the readers of `uffd` waited: for want of which CPUs, and woken how often."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from kvmpc.judge.reading import PointReading
from kvmpc.judge.rows import Row, usable_trials
from kvmpc.judge.summary import median
from kvmpc.result.facts import Facts
from kvmpc.result.records import Result, TrialResult

__all__ = ["notes_on_waits"]

_SPINNING: Final = ("spin", "adaptive")
_FOR_NOTHING: Final = 0.1
"""The share of wake-ups that found nothing from which on they are told."""

_SLEEPS: Final = "switches_voluntary_readers"
_COUNTS: Final = (_SLEEPS, "reads", "reads_empty")


def notes_on_waits(points: Sequence[PointReading]) -> Iterator[str]:
    """Yield what has to be known of the readers' waiting to compare `uffd` with what never waits.

    Of one point only: of many, each would have sentences of its own.
    """
    if len(points) != 1:
        return
    at = points[0]
    shown = [row for row in at.rows if row.pager.kind == "uffd" and row.ok_trials]
    if shown and len(at.rows) > len(shown):
        yield from _cpus(at.result, shown)
    if not at.result.options.get("fetch_delay_ns"):  # to sleep through a fetch is a sleep as well
        # One that is alone with its userfaultfd is woken for it; what else it sleeps for is locks.
        for row in (row for row in shown if row.pager.keys.get("readers") not in (None, "1")):
            yield from _wake_ups(row.label, usable_trials(at.result, row.spec))


def _cpus(result: Result, rows: Sequence[Row]) -> Iterator[str]:
    """Say whether there were CPUs for readers to spin on, and which did."""
    facts, vcpus = Facts(result.host), result.options.get("vcpus")
    cpus, quota = facts.number("cpu.allowed_count"), facts.number("cgroup.quota_cpus")
    placement = result.options.get("placement")
    placed = isinstance(placement, Mapping) and any(
        placement.get(name) for name in ("pin", "cpus", "reader_cpus")
    )
    if cpus is None or not isinstance(vcpus, int) or placed:
        return  # who had which CPUs is told elsewhere
    whole = int(cpus if quota is None else min(cpus, quota))
    spinning = [row for row in rows if row.pager.keys.get("wait") in _SPINNING]
    spare = max(0, whole - vcpus)
    verb = "are" if spare > 1 else "is"
    here = f"of {whole} CPUs, {spare or 'none'} {verb} without a vCPU"
    if spinning:
        most = max(_readers(result, row) for row in spinning)
        labels = ", ".join(row.label for row in spinning)
        short = f", for {most} of them: they take turns with vCPUs" if most > spare else ""
        yield f"wait: readers spin in {labels}; {here}{short}."
    elif spare:
        yield (
            f"wait: readers sleep when there is no message, though {here}: wait=adaptive would "
            "spare each page a wake-up there."
        )
    else:
        yield f"wait: readers sleep when there is no message: {here}, for them to spin on."


def _readers(result: Result, row: Row) -> int:
    """Return how many reader threads a pager had."""
    trials = usable_trials(result, row.spec)
    return max((len(each) for trial in trials for each in trial.per_reader.values()), default=0)


def _wake_ups(label: str, trials: Sequence[TrialResult]) -> Iterator[str]:
    """Say how many wake-ups of readers were for nothing, if many were.

    Each that was for something is followed by a read that brings messages. The others are not seen
    by who calls ppoll(2) or read(2): the kernel looks again, and puts it back to sleep. So it is
    the sleeps that tell, as the scheduler counts them.
    """
    told = [trial for trial in trials if {*_COUNTS} <= trial.counts.keys() and trial.expected_pages]
    sleeps = median(trial.counts[_SLEEPS] / trial.expected_pages for trial in told)
    brought = median(_brought(trial) / trial.expected_pages for trial in told)
    if not sleeps or brought is None or 1 - brought / sleeps <= _FOR_NOTHING:
        return
    yield (
        f"{label}: {1 - brought / sleeps:.0%} of its readers' wake-ups found nothing, or ended a "
        f"wait for a lock: {sleeps:.3g} sleeps a page, {brought:.3g} reads that brought messages."
    )


def _brought(trial: TrialResult) -> int:
    return trial.counts["reads"] - trial.counts["reads_empty"]
