"""Where CPU time went, from trials that were profiled: rounds of their own, in no rate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from kvmpc.judge.profiles import proportion, spin
from kvmpc.judge.rows import usable_profiles
from kvmpc.judge.summary import Spread, Summary
from kvmpc.result.records import FEWEST_SAMPLES, WAITERS, Profile, Result
from kvmpc.show.page import text
from kvmpc.show.page.chart import ChartLine, Dot, Scale, StackChart, Table
from kvmpc.show.page.panels import Panel

__all__ = ["NO_PROFILE", "locks", "of_spin", "percent", "too_few"]

NO_PROFILE: Final = "kvmpc compare --profile, with perf installed, measures it."

_HELD: Final = "irqs off"
_HELD_APART: Final = ("userfaultfd", "run_queue")
"""Whose locks are told apart where nobody can say whether they were held or waited for."""

_TOP: Final = 3
_MOST_LISTED: Final = 4


def of_spin(point: Result, spec: str) -> Summary | None:
    """Summarise the share of CPU time in spin locks; None where the profile cannot tell.

    Its middle is what was surely waited for. The ends are no interval of a median: from the low end
    of that one's to the high end of the one that has what a clock cannot tell from it, too. n is
    the number of samples.
    """
    profile = _telling(point, spec)
    if profile is None or (surely := spin(profile)) is None:
        return None
    hidden = sum(profile.irqs_off.values())
    high = proportion(profile, surely.share + hidden).high
    return Summary(
        median=surely.share, low=surely.low, high=high, n=profile.samples, spread=Spread.BOUNDS
    )


def too_few(panel: Panel, pagers: Mapping[str, str]) -> str:
    """Say which pagers have too few samples for a share, and where; "" where none has."""
    short = [
        f"{label} {panel.at(index)}".strip() + f" ({profile.samples} samples)"
        for index, point in enumerate(panel.points)
        for spec, label in pagers.items()
        if (profile := _usable(point, spec)) is not None and not profile.tells
    ]
    if not short:
        return ""
    more = len(short) - _MOST_LISTED
    listed = ", ".join(short[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")
    return f"Too few samples for any share, which takes {FEWEST_SAMPLES}: {listed}."


def locks(panel: Panel, pagers: Mapping[str, str]) -> StackChart:
    """Return the share of CPU time in spin locks by who waits, at the last point that has it."""
    index = _last_profiled(panel, pagers)
    known = {spec: found for spec in pagers if (found := _usable(panel.points[index], spec))}
    profiles = {spec: found for spec, found in known.items() if found.spin or not found.tells}
    rows = [found if found.tells else None for found in profiles.values()]
    lines = tuple(_lock_lines(rows))
    short = too_few(panel, pagers)
    return StackChart(
        key="locks",
        title=panel.titled("Who waits for spin locks", index),
        y=Scale(label="share of all CPU time", spell=percent),
        note="By whose lock it is; the whisker is the 95 % interval of all together. A clock "
        "(cpu-clock) cannot look where interrupts are off (irqs off): what it finds where they "
        "come on again was waited for or held, nobody can say which; in the table it stands "
        "below, with a plus. "
        "Run queues: that of who is woken, and that under which one thread goes to sleep and the "
        "next is switched to.",
        lines=lines,
        ends=tuple(map(_whole, rows)),
        said=tuple(
            f"{found.samples} samples: too few" if row is None else ""
            for row, found in zip(rows, profiles.values(), strict=True)
        ),
        absent=f"Not in this result: {short or NO_PROFILE}",
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
                (pagers[spec], *_wait_cells(found), *_profile_cells(found))
                for spec, found in profiles.items()
            ),
        ),
    )


def _usable(point: Result, spec: str) -> Profile | None:
    """Return the profile of a pager at a point: a run makes one of each."""
    return next(iter(usable_profiles(point, spec)), None)


def _telling(point: Result, spec: str) -> Profile | None:
    found = _usable(point, spec)
    return found if found is not None and found.tells else None


def _last_profiled(panel: Panel, pagers: Iterable[str]) -> int:
    """Return the last point at which a profile can tell; the last of all where there is none."""
    known = [i for i, point in enumerate(panel.points) if any(of_spin(point, s) for s in pagers)]
    return known[-1] if known else len(panel.points) - 1


def _shares(profile: Profile) -> dict[str, float]:
    """Return what a row of the chart adds up, by the label of its line."""
    hidden = dict(profile.irqs_off)
    apart = {waiter: hidden.pop(waiter, 0.0) for waiter in _HELD_APART}
    return {
        **{WAITERS.get(waiter, waiter): share for waiter, share in profile.spin.items()},
        **{f"{WAITERS[waiter]}, {_HELD}": share for waiter, share in apart.items()},
        f"other, {_HELD}": sum(hidden.values()),
    }


def _whole(profile: Profile | None) -> Dot | None:
    """Return where a row ends, with the interval of all that it adds up."""
    if profile is None:
        return None
    found = proportion(profile, sum(_shares(profile).values()))
    return Dot(
        x=0, y=found.share, low=found.low, high=found.high, n=profile.samples,
        spread=Spread.INTERVAL,
    )  # fmt: skip


def _lock_lines(rows: list[Profile | None]) -> Iterator[ChartLine]:
    """Yield a line for each part of any row."""
    shares = [(row, _shares(profile)) for row, profile in enumerate(rows) if profile is not None]
    for label in dict.fromkeys(label for _, found in shares for label in found):
        dots = tuple(Dot.exact(row, found.get(label, 0.0)) for row, found in shares)
        yield ChartLine(key=f"lock-{label}", label=label, dots=dots)


def _wait_cells(profile: Profile) -> Iterator[str]:
    for waiter in WAITERS:
        below = profile.irqs_off.get(waiter, 0.0)
        told = [_cell(profile, profile.spin.get(waiter))]
        yield "\n".join(told + [f"+{_cell(profile, below)}"] * (below > 0 and profile.tells))


def _profile_cells(profile: Profile) -> Iterator[str]:
    for mode in ("guest", "kernel", "user"):
        yield _cell(profile, profile.modes.get(mode, 0.0))
    of = [profile.event] + [f"of {profile.trials} trials"] * (profile.trials > 1)
    of += ["too few"] * (not profile.tells)
    yield "\n".join([f"{profile.samples:,}", *of])
    top = list(profile.top.items())[: _TOP * profile.tells]
    yield "\n".join(f"{name} {_cell(profile, share, ' ')}" for name, share in top) or text.ABSENT


def _cell(profile: Profile, share: float | None, between: str = "\n") -> str:
    """Return a share with its interval; nothing of a profile that has too few samples for any."""
    if share is None or not profile.tells:
        return text.ABSENT
    found = proportion(profile, share)
    ends = text.ends(found.low, found.high, Spread.INTERVAL, percent)
    return f"{percent(found.share)}{between}{ends}"


def percent(share: float) -> str:
    """Return a share in percent, to 0.1 below 10 %: a profile knows no better."""
    return f"{share * 100:.{1 if share < 0.0995 else 0}f}%"
