"""The text that says where the time went, for the profiles of a result. It prints nothing."""

from __future__ import annotations

import textwrap

from kvmpc.judge.reading import Reading
from kvmpc.judge.rows import usable_profiles
from kvmpc.result.records import WAITERS, Profile, Role, TrialResult
from kvmpc.show.cells import MAX_COLUMNS, clean, columns, row_name

__all__ = ["format_profiles"]

_WIDTH = 98
_TOP = 6
_LABEL_WIDTH = 21

_NOTES = """\
shares of the CPU time of vCPU threads and readers, in one more trial of each pager, which is no \
part of any rate. spin: waiting for a spin lock; of that, those of a userfaultfd's queues, KVM's \
mmu_lock, mmap_lock and the VMA locks, the page allocator's, other ones."""

_CLOCK_NOTE = """\
irqs off: the clock that was sampled does not tick while interrupts are off. That time shows where \
they come on again: a lock that was held or waited for so, mostly a userfaultfd's queues."""


def format_profiles(reading: Reading, room: int = MAX_COLUMNS) -> str:
    """Return the table of the profiled trials of a result; "" where it has none."""
    trials = [trial for trial in reading.result.trials if trial.role is Role.PROFILED]
    if not trials:
        return ""
    clock = any(trial.profile is not None and trial.profile.irqs_off for trial in trials)
    headers = ["pager", "guest", "kernel", "user", "spin", "uffd", "mmu_lock", "mmap", "pages"]
    headers += ["other", *(["irqs off"] if clock else [])]
    rows: list[list[str]] = []
    shown = []
    for index, at in enumerate(reading.points):
        of_point = [
            t
            for t in trials
            if t.point == index and t.profile is not None and usable_profiles(at.result, t.pager)
        ]
        if at.name and of_point:
            rows += [[""], [at.name]]
        rows += [[_broken(t.label), *_cells(t.profile, clock=clock)] for t in of_point]
        shown += of_point
    said = ["where the time went"]
    if rows:
        said += ["", *columns([headers, *rows], "l" + "r" * (len(headers) - 1), room=room), ""]
        said += _wrapped(_NOTES, room)
        said += _wrapped(_CLOCK_NOTE, room) if clock else []
        said += [""]
    for trial in trials:
        name = row_name(reading.points[trial.point].name, trial.label)
        said += _wrapped(f"{name} {_most(trial, shown=trial in shown)}", room)
    said += _notes(trials, room)
    return "\n".join(said)


def _notes(trials: list[TrialResult], room: int) -> list[str]:
    """Return what weakens the profiles: each kind once, in the words of the first."""
    kinds: dict[str, list[str]] = {}
    for trial in trials:
        for caution in trial.warnings:
            if "profile" in caution.code:
                kinds.setdefault(caution.code, []).append(str(caution))
    said = []
    for texts in kinds.values():
        differ = len(set(texts)) > 1
        said += _wrapped(
            f"note: {texts[0]}{f' (so or similar in {len(texts)} of them)' if differ else ''}",
            room,
        )
    return said


def _wrapped(text: str, room: int) -> list[str]:
    width = min(room, _WIDTH)
    return textwrap.wrap(clean(text), width, subsequent_indent="  ", break_on_hyphens=False)


def _cells(profile: Profile | None, *, clock: bool) -> list[str]:
    if profile is None:
        return []
    modes = [_share(profile.modes.get(mode, 0.0)) for mode in ("guest", "kernel", "user")]
    shares = [profile.spin.get(waiter) for waiter in WAITERS]
    spins = ["" if share is None else _share(share) for share in shares]
    total = _share(sum(profile.spin.values())) if profile.spin else ""
    hidden = [_share(sum(profile.irqs_off.values())) if profile.irqs_off else ""] if clock else []
    return [*modes, total, *spins, *hidden]


def _most(trial: TrialResult, *, shown: bool) -> str:
    if trial.profile is None:
        return f"was not profiled{': ' + trial.error if trial.error else ''}"
    if not shown:
        return "has no profile to show: another trial of it failed"
    top = list(trial.profile.top.items())[:_TOP]
    most = ", ".join(f"{_share(share)} {function}" for function, share in top)
    return f"({trial.profile.samples} samples of {trial.profile.event}): {most}"


def _broken(label: str) -> str:
    """Return a label on lines that are short enough for the table, broken at its commas."""
    if len(label) <= _LABEL_WIDTH:
        return label
    return label.replace(",", ",\n ")


def _share(share: float) -> str:
    """Return a share in percent, to 0.1 below 10 %: a profile knows no better."""
    return f"{share:.1%}" if share < 0.0995 else f"{share:.0%}"
