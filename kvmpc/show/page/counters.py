"""What KVM, the scheduler and readers counted, by page: a table, for it is of too many scales."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kvmpc.judge.rows import usable_trials
from kvmpc.judge.summary import median
from kvmpc.result.records import Result
from kvmpc.show.page import text
from kvmpc.show.page.chart import Table
from kvmpc.show.page.panels import Panel

__all__ = ["counters"]

_SWITCHES: Final = "switches_"

_READERS: Final = {
    "reads": "reads of messages",
    "reads_empty": "reads that found none",
    "polls": "sleeps for a message",
    "wakeups_empty": "of these, ended by one that was taken",
    "spins": "looks for a message instead of a sleep",
}
"""What the loops of readers count of their waiting."""

_LEAST: Final = 0.001
"""What happens less often than once in a thousand pages to every pager is left out."""


def counters(panel: Panel, pagers: Mapping[str, str]) -> Table:
    """Return each counter by page of each pager, at the panel's last point.

    No rows where the result has no such counts.
    """
    point = panel.points[-1]
    known = {spec: _by_page(point, spec) for spec in pagers}
    names = dict.fromkeys(name for found in known.values() for name in found)
    shown = [spec for spec in pagers if known[spec]]
    rows = tuple(
        (name, *(text.number(known[spec].get(name)) for spec in shown))
        for name in names
        if max(known[spec].get(name, 0) for spec in shown) >= _LEAST
    )
    return Table(headers=("counter", *(pagers[spec] for spec in shown)), rows=rows)


def _by_page(point: Result, spec: str) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for trial in usable_trials(point, spec):
        switches = {
            f"context {name.replace('_', ' ')}": count
            for name, count in trial.counts.items()
            if name.startswith(_SWITCHES)
        }
        waits = {
            text: trial.counts[name] for name, text in _READERS.items() if name in trial.counts
        }
        for name, count in (*switches.items(), *waits.items(), *trial.kvm_stats.items()):
            values.setdefault(name, []).append(count / max(1, trial.expected_pages))
    return {name: median(found) or 0.0 for name, found in values.items()}
