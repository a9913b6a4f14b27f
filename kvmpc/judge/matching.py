"""Which rows of two sides, of one run or more each, are the same thing measured twice.

The same pager, with the same provider of exits, at the same point, on the same kind of host. What
has no partner is said, with the reason. Fails with MismatchError where hosts differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kvmpc.caution import Caution
from kvmpc.errors import MismatchError
from kvmpc.judge.rows import measured_trials
from kvmpc.judge.same_host import differences, kernel_release, remarks
from kvmpc.judge.starved import starved_trials
from kvmpc.result.pager_info import PagerInfo
from kvmpc.result.points import differing_options, identity, point_names, points_of, shown_option
from kvmpc.result.records import FAILED, Result, TrialResult

__all__ = [
    "Pair",
    "Unmatched",
    "check_finished",
    "check_hosts",
    "failures",
    "kernels",
    "match",
    "pair_cautions",
]


@dataclass(frozen=True)
class Pair:
    """A pager at a point, with the runs of one point that each side has of it."""

    point: str
    pager: PagerInfo
    baseline: list[Result]
    new: list[Result]

    @property
    def spec(self) -> str:
        """The pager's canonical spec."""
        return self.pager.spec

    @property
    def label(self) -> str:
        """What the pager is called."""
        return self.pager.label


@dataclass(frozen=True, kw_only=True)
class Unmatched:
    """What was not compared, with the reason; `side` is ``new`` or ``baseline``: where it is.

    lost: the rows in it that the baseline has measured, and that nothing measured now.
    """

    side: str
    point: str
    label: str
    reason: str
    lost: tuple[Pair, ...] = ()


def kernels(results: Sequence[Result]) -> tuple[str, ...]:
    """Return the kernels that results were measured on."""
    return tuple(dict.fromkeys(kernel_release(result) or "unknown" for result in results))


def check_hosts(
    baseline: Sequence[Result], new: Sequence[Result], allowed: Sequence[str]
) -> list[Caution]:
    """Refuse hosts that differ, each run compared with the baseline's first; return remarks."""
    first = baseline[0]
    refused: list[str] = []
    cautions: list[Caution] = []
    for result in (*baseline[1:], *new):
        for each in differences(first.host, result.host):
            if each.field not in allowed:
                refused.append(str(each))
            else:
                cautions.append(Caution("host-differs", str(each), "it was allowed to differ"))
        cautions += remarks(first, result)
    if refused:
        raise MismatchError(
            [f"hosts differ in {text}" for text in dict.fromkeys(refused)],
            "measure on the same kind of host, or allow one field with --allow-host FIELD",
        )
    return cautions


def check_finished(
    baseline: Sequence[Result], new: Sequence[Result], *, allowed: bool
) -> list[Caution]:
    """Refuse runs that did not finish, or where they are allowed, return what to know of them.

    What such a run lacks may be just what the kernel broke: a gate must not take it for a pass.
    """
    found = [
        f"a run of {side} did not finish ({len(result.trials)} trials were run)"
        for side, results in (("the baseline", baseline), ("the result", new))
        for result in results
        if not result.finished
    ]
    if found and not allowed:
        raise MismatchError(
            found, "run it to its end, or judge what there is with --allow-unfinished"
        )
    return [Caution("unfinished", text, "run it to its end") for text in found]


class _Side:
    """The runs of one side, taken apart: for each point, and each pager at it, one run or more."""

    def __init__(self, results: Sequence[Result], what: str) -> None:
        self.what = what
        self.points: dict[str, list[Result]] = {}
        self.options: dict[str, dict[str, object]] = {}
        for result in results:
            for point in points_of(result):
                known = identity(point.options)
                key = repr(sorted(known.items(), key=lambda item: item[0]))
                self.points.setdefault(key, []).append(point)
                self.options[key] = known

    def pagers(self, key: str) -> dict[tuple[str, str], tuple[PagerInfo, list[Result]]]:
        """Return each pager that was measured or skipped at a point, with its runs.

        By spec and label: with another provider of its exits it is another one.
        """
        found: dict[tuple[str, str], tuple[PagerInfo, list[Result]]] = {}
        for point in self.points.get(key, ()):
            for spec in dict.fromkeys(point.pagers):
                pager = point.pager(spec)
                found.setdefault((spec, pager.label), (pager, []))[1].append(point)
        return found


def match(
    baseline_runs: Sequence[Result], new_runs: Sequence[Result]
) -> tuple[list[Pair], list[Unmatched]]:
    """Return the rows that both sides have, and what only one has."""
    baseline, new = _Side(baseline_runs, "the baseline"), _Side(new_runs, "the result")
    keys = list(dict.fromkeys((*baseline.points, *new.points)))
    options = {**baseline.options, **new.options}
    names = dict(zip(keys, point_names([options[key] for key in keys]), strict=True))
    pairs, unmatched = [], []
    for key in keys:
        both = key in baseline.points and key in new.points
        if not both:
            here, there, side = (
                (baseline, new, "baseline") if key in baseline.points else (new, baseline, "new")
            )
            reason = _nearest(here.options[key], there)
            gone = [
                Pair(names[key], pager, runs, []) for pager, runs in baseline.pagers(key).values()
            ]
            unmatched.append(
                Unmatched(side=side, point=names[key], label="", reason=reason, lost=_lost(gone))
            )
            continue
        old, now = baseline.pagers(key), new.pagers(key)
        for which, (pager, _) in {**old, **now}.items():
            sides = [side[which][1] if which in side else [] for side in (old, now)]
            pair = Pair(names[key], pager, *sides)
            without = _no_partner(pair)
            if without is None:
                pairs.append(pair)
            else:
                unmatched.append(
                    Unmatched(
                        side=without[0], point=pair.point, label=pair.label, reason=without[1],
                        lost=_lost([pair]) if without[0] == "baseline" else (),
                    )
                )  # fmt: skip
    return pairs, unmatched


def _lost(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """Return those that the baseline has measured."""
    return tuple(
        pair
        for pair in pairs
        if any(measured_trials(run, pair.spec) for run in pair.baseline)
        and not failures(pair.baseline, pair.spec)
    )


def _nearest(options: Mapping[str, object], there: _Side) -> str:
    """Say in which options a point differs from the most alike one of the other side."""
    differing = min(
        (differing_options(options, other) for other in there.options.values()), key=len
    )
    shown = ", ".join(
        f"{shown_option(name, here)} against {shown_option(name, value).partition('=')[2]}"
        for name, (here, value) in differing.items()
    )
    return f"no such point in {there.what} (nearest: {shown})"


def _no_partner(pair: Pair) -> tuple[str, str] | None:
    """Return on which side a pair stands alone, and why; None where both have it."""
    for here, there, side, what in (
        (pair.new, pair.baseline, "new", "the baseline"),
        (pair.baseline, pair.new, "baseline", "the result"),
    ):
        if not here:
            continue
        if not there:
            return side, f"not in {what}"
        skips = [skip.reason for run in there for skip in run.skipped if skip.pager == pair.spec]
        if skips:
            return side, f"skipped in {what}: {skips[0]}"
        if what == "the baseline" and failures(there, pair.spec):
            return side, f"failed in {what}"
        if not failures(there, pair.spec) and not any(
            # What was starved is no row less, but one that cannot be judged.
            measured_trials(run, pair.spec) or starved_trials(run, pair.spec)
            for run in there
        ):
            return side, f"has no measured round in {what}"
    return None


def failures(runs: Sequence[Result], spec: str) -> list[TrialResult]:
    """Return the failed trials of a pager, warm-ups included."""
    return [t for run in runs for t in run.trials if t.pager == spec and t.status == FAILED]


def pair_cautions(pair: Pair) -> Iterator[Caution]:
    """Yield what to know of an ``exit(sigbus)`` row: what it costs is the kernel's doing."""
    if pair.pager.provider != "sigbus":
        return
    forms = [
        {form for run in side if (form := _exit_form(run, pair.spec)) is not None}
        for side in (pair.baseline, pair.new)
    ]
    releases = [set(kernels(side)) for side in (pair.baseline, pair.new)]
    if all(forms) and forms[0] != forms[1]:
        shown = [" and ".join(sorted(side)) for side in forms]
        yield Caution(
            "exit-form-changed",
            f"its exits arrive as {shown[1]}, in the baseline as {shown[0]}: these kernels take "
            "different paths out of the fault",
            "do not read the change as the speed of one path",
        )
    elif all(releases) and releases[0] != releases[1]:
        yield Caution(
            "exit-walks-unknown",
            "what this stand-in costs depends on how often the kernel walks its page lookup in a "
            "fault, which may differ between these kernels",
            "count get_user_pages and handle_userfault on both (pytest -m lab does)",
        )


def _exit_form(run: Result, spec: str) -> str | None:
    """Return as what the exits of a run arrive; None where it has no trial that counts."""
    forms = {"exits_annotated": "annotated exits", "exits_registers": "bare EFAULT"}
    counts = dict.fromkeys(forms, 0)
    trials = measured_trials(run, spec)
    for trial in trials:
        for name in forms:
            counts[name] += trial.counts.get(name, 0)
    if not trials:
        return None
    most = max(counts, key=counts.__getitem__)
    return forms[most] if counts[most] else "unknown"
