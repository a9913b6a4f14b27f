"""The text that says where the time went, for the profiles of a result. It prints nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kvmpc.judge.profiles import proportion
from kvmpc.judge.reading import Reading
from kvmpc.judge.rows import usable_profiles
from kvmpc.result.records import FEWEST_SAMPLES, WAITERS, Profile, Role, TrialResult
from kvmpc.show.cells import MAX_COLUMNS, columns, paragraph, row_name

__all__ = ["format_profiles"]

_WIDTH = 98
_TOP = 6
_LABEL_WIDTH = 21

_NOTES = """\
shares of the CPU time of vCPU threads and readers [95 % intervals], in more trials of each pager, \
which are no part of any rate. spin: waiting for a spin lock; of that, those of a userfaultfd's \
queues, KVM's mmu_lock, mmap_lock and the VMA locks, the page allocator's, the run queues', other \
ones."""

_CLOCK_NOTE = """\
irqs off: the clock that was sampled does not tick while interrupts are off. That time shows where \
they come on again, below the lock that was held or waited for so: a userfaultfd's queues, or the \
run queue while one thread goes to sleep and the next one is switched to."""

_HEADERS = (
    "pager", "guest", "kernel", "user", "spin", "uffd", "mmu_lock", "mmap", "pages", "run q",
    "other",
)  # fmt: skip
_MODES = ("guest", "kernel", "user")


def format_profiles(reading: Reading, room: int = MAX_COLUMNS) -> str:
    """Return the table of the profiled trials of a result; "" where it has none."""
    trials = [trial for trial in reading.result.trials if trial.role is Role.PROFILED]
    if not trials:
        return ""
    rows: list[list[str]] = []
    shown: list[TrialResult] = []
    for index, at in enumerate(reading.points):
        of_point = [t for t in trials if t.point == index and usable_profiles(at.result, t.pager)]
        told = [t for t in of_point if t.profile is not None and t.profile.tells]
        if at.name and told:
            rows += [[""], [at.name]]
        rows += [row for t in told if t.profile for row in _rows(t.label, t.profile)]
        shown += [t for t in of_point if t.profile is not None]
    said = ["where the time went", ""]
    if rows:
        said += [*columns([_HEADERS, *rows], "l" + "r" * (len(_HEADERS) - 1), room=room), ""]
        said += _wrapped(_NOTES, room)
        clock = any(trial.profile is not None and trial.profile.irqs_off for trial in shown)
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
    return paragraph(text, min(room, _WIDTH)).split("\n")


def _rows(label: str, profile: Profile) -> Iterator[list[str]]:
    """Yield the row of a profile, and below it what a clock cannot tell, by the same locks."""
    modes = [_cell(profile, profile.modes.get(mode, 0.0)) for mode in _MODES]
    yield [_broken(label), *modes, *_locks(profile, profile.spin)]
    if profile.irqs_off:
        yield [" irqs off", *[""] * len(modes), *_locks(profile, profile.irqs_off)]


def _locks(profile: Profile, shares: Mapping[str, float]) -> Iterator[str]:
    """Yield the cells of all locks and of each; empty where an older kvmpc did not tell one."""
    yield _cell(profile, sum(shares.values())) if shares else ""
    for waiter in WAITERS:
        yield _cell(profile, shares[waiter]) if waiter in shares else ""


def _cell(profile: Profile, share: float) -> str:
    found = proportion(profile, share)
    return f"{_share(found.share)}\n[{_share(found.low, '')}-{_share(found.high, '')}]"


def _most(trial: TrialResult, *, shown: bool) -> str:
    profile = trial.profile
    if profile is None:
        return f"was not profiled{': ' + trial.error if trial.error else ''}"
    if not shown:
        return "has no profile to show: another trial of it failed"
    if not profile.tells:
        return f"({_samples(profile)}): too few samples for shares, which take {FEWEST_SAMPLES}"
    found = [(name, proportion(profile, share)) for name, share in profile.top.items()]
    most = ", ".join(
        f"{_share(each.share)} [{_share(each.low, '')}-{_share(each.high, '')}] {name}"
        for name, each in found[:_TOP]
    )
    return f"({_samples(profile)}): {most}"


def _samples(profile: Profile) -> str:
    trials = f", {profile.trials} trials" if profile.trials > 1 else ""
    return f"{profile.samples} samples of {profile.event}{trials}"


def _broken(label: str) -> str:
    """Return a label on lines that are short enough for the table, broken at its commas."""
    if len(label) <= _LABEL_WIDTH:
        return label
    return label.replace(",", ",\n ")


def _share(share: float, unit: str = "%") -> str:
    """Return a share in percent, to 0.1 below 10 %: a profile knows no better."""
    return f"{share * 100:.{1 if share < 0.0995 else 0}f}{unit}"
