"""Where CPU time went, from trials that were profiled: rounds of their own, in no rate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from kvmpc.judge.rows import usable_profiles
from kvmpc.judge.summary import Spread, Summary, median
from kvmpc.result.records import WAITERS, Profile, Result
from kvmpc.show.page import text
from kvmpc.show.page.chart import ChartLine, Dot, Scale, StackChart, Table
from kvmpc.show.page.panels import Panel

__all__ = ["NO_PROFILE", "locks", "of_spin"]

NO_PROFILE: Final = "kvmpc compare --profile, with perf installed, measures it."

_HELD: Final = "held or waited for, interrupts off"

_TOP: Final = 3


def of_spin(point: Result, spec: str) -> Summary | None:
    """Summarise the share of CPU time in spin locks; None where the profile cannot tell.

    From what was surely waited for up to that with what a clock cannot tell from it: the ends are
    those, and no interval of the median.
    """
    profiles = _with_spin(point, spec)
    least = median(sum(profile.spin.values()) for profile in profiles)
    most = median(
        sum(profile.spin.values()) + sum(profile.irqs_off.values()) for profile in profiles
    )
    if least is None or most is None:
        return None
    return Summary(median=least, low=least, high=most, n=len(profiles), spread=Spread.BOUNDS)


def locks(panel: Panel, pagers: Mapping[str, str]) -> StackChart:
    """Return the share of CPU time in spin locks by who waits, at the last point that has it."""
    index = _last_profiled(panel, pagers)
    profiles = {spec: found for spec in pagers if (found := _with_spin(panel.points[index], spec))}
    waits = {spec: _waits(found) for spec, found in profiles.items()}
    return StackChart(
        key="locks",
        title=panel.titled("Who waits for spin locks", index),
        y=Scale(label="share of all CPU time", spell=text.percent),
        note="By whose lock it is. A clock (cpu-clock) cannot look where interrupts are off: what "
        "it finds where they come on again was waited for or held, nobody can say which; in the "
        "table it stands below, with a plus.",
        lines=tuple(_lock_lines(list(waits.values()))),
        absent=f"Not in this result: {NO_PROFILE}",
        table=Table(
            headers=(
                "pager",
                *WAITERS.values(),
                "in guest",
                "in kernel",
                "in user",
                "samples",
                "most time of their own",
            ),
            rows=tuple(
                (pagers[spec], *_wait_cells(waits[spec]), *_profile_cells(found[0]))
                for spec, found in profiles.items()
            ),
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _Waits:
    """Shares of a pager's CPU time by whose lock it is (keys of `WAITERS`), medians over profiles.

    spin: surely waited for. hidden: held or waited for with interrupts off, a clock cannot tell.
    """

    spin: Mapping[str, float]
    hidden: Mapping[str, float]

    def shares(self) -> dict[str, float]:
        """Return what a row of the chart adds up: what is hidden as one part, whosever it is."""
        return {**self.spin, _HELD: sum(self.hidden.values())}


def _last_profiled(panel: Panel, pagers: Iterable[str]) -> int:
    """Return the last point at which a profile can tell; the last of all where there is none."""
    known = [i for i, point in enumerate(panel.points) if any(_with_spin(point, s) for s in pagers)]
    return known[-1] if known else len(panel.points) - 1


def _with_spin(point: Result, spec: str) -> list[Profile]:
    return [profile for profile in usable_profiles(point, spec) if profile.spin]


def _waits(profiles: Sequence[Profile]) -> _Waits:
    waiters = dict.fromkeys([*WAITERS, *(waiter for p in profiles for waiter in p.spin)])

    def medians(shares: Sequence[Mapping[str, float]]) -> dict[str, float]:
        return {
            waiter: median(each.get(waiter, 0.0) for each in shares) or 0.0 for waiter in waiters
        }

    return _Waits(
        spin=medians([profile.spin for profile in profiles]),
        hidden=medians([profile.irqs_off for profile in profiles]),
    )


def _lock_lines(rows: Sequence[_Waits]) -> Iterator[ChartLine]:
    """Yield a line for each waiter of any row."""
    shares = [row.shares() for row in rows]
    for waiter in dict.fromkeys(waiter for row in shares for waiter in row):
        dots = tuple(Dot.exact(row, found.get(waiter, 0.0)) for row, found in enumerate(shares))
        yield ChartLine(key=f"lock-{waiter}", label=WAITERS.get(waiter, waiter), dots=dots)


def _wait_cells(waits: _Waits) -> Iterator[str]:
    for waiter in WAITERS:
        hidden = waits.hidden[waiter]
        below = f"\n+{text.percent(hidden)}" if hidden else ""
        yield text.percent(waits.spin[waiter]) + below


def _profile_cells(profile: Profile) -> Iterator[str]:
    for mode in ("guest", "kernel", "user"):
        yield text.percent(profile.modes.get(mode))
    yield f"{profile.samples:,} {profile.event}"
    top = list(profile.top.items())[:_TOP]
    yield "\n".join(f"{name} {text.percent(share)}" for name, share in top)
