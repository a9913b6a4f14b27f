"""Where CPU time went, from trials that were profiled: rounds of their own, in no rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kvmpc.judge.rows import usable_profiles
from kvmpc.judge.summary import Summary, median
from kvmpc.result.records import WAITERS, Result
from kvmpc.show.page import text
from kvmpc.show.page.panels import Chart, Dot, Line, Panel

__all__ = ["NO_PROFILE", "locks", "of_spin"]

NO_PROFILE: Final = "kvmpc compare --profile, with perf installed, measures it."

_HELD: Final = "held or waited for, interrupts off"

_TOP: Final = 3


def of_spin(point: Result, spec: str) -> Summary | None:
    """Summarise the share of CPU time in spin locks; None where the profile cannot tell.

    From what was surely waited for up to that with what a clock cannot tell from it: the ends are
    those, and no interval of the median.
    """
    profiles = [profile for profile in usable_profiles(point, spec) if profile.spin]
    least = median(sum(profile.spin.values()) for profile in profiles)
    most = median(
        sum(profile.spin.values()) + sum(profile.irqs_off.values()) for profile in profiles
    )
    if least is None or most is None:
        return None
    return Summary(median=least, lowest=least, highest=most, low=least, high=most, n=len(profiles))


def locks(panel: Panel, pagers: Mapping[str, str]) -> Chart:
    """Return the share of CPU time in spin locks by who waits, at the last point that has it."""
    known = [
        index
        for index, point in enumerate(panel.points)
        if any(of_spin(point, spec) is not None for spec in pagers)
    ]
    index = known[-1] if known else len(panel.points) - 1
    point = panel.points[index]
    shares: dict[str, dict[str, float]] = {}
    rows = []
    for spec, label in pagers.items():
        profiles = [profile for profile in usable_profiles(point, spec) if profile.spin]
        if not profiles:
            continue
        keys = dict.fromkeys([*WAITERS, *(key for p in profiles for key in p.spin)])
        spin, held = (
            {key: median([each.get(key, 0.0) for each in kind]) or 0.0 for key in keys}
            for kind in ([p.spin for p in profiles], [p.irqs_off for p in profiles])
        )
        shares[label] = {**spin, _HELD: sum(held.values())}
        first = profiles[0]
        top = list(first.top.items())[:_TOP]
        rows.append(
            (
                label,
                *(
                    text.percent(spin[key]) + (f"\n+{text.percent(held[key])}" if held[key] else "")
                    for key in WAITERS
                ),
                *(text.percent(first.modes.get(mode)) for mode in ("guest", "kernel", "user")),
                f"{first.samples:,} {first.event}",
                "\n".join(f"{name} {text.percent(share)}" for name, share in top),
            )
        )
    waiters = dict.fromkeys(key for found in shares.values() for key in found)
    lines = []
    for waiter in waiters:
        dots = tuple(
            Dot(x=row, y=share, low=share, high=share)
            for row, found in enumerate(shares.values())
            for share in [found.get(waiter, 0.0)]
        )
        name = WAITERS.get(waiter, waiter)
        lines.append(Line(key=f"lock-{waiter}", label=name, dots=dots))
    return Chart(
        key="locks",
        title=f"Who waits for spin locks {panel.at(index)}".strip(),
        kind="stack",
        y_label="share of all CPU time",
        note="By whose lock it is. A clock (cpu-clock) cannot look where interrupts are off: what "
        "it finds where they come on again was waited for or held, nobody can say which; in the "
        "table it stands below, with a plus.",
        lines=tuple(lines),
        spell=text.percent,
        absent="" if lines else f"Not in this result: {NO_PROFILE}",
        table=(
            (
                "pager",
                *WAITERS.values(),
                "in guest",
                "in kernel",
                "in user",
                "samples",
                "most time of their own",
            ),
            *rows,
        ),
    )
