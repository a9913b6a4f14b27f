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
from kvmpc.result.points import differing_options, identity, point_names, points_of, shown_option
from kvmpc.result.records import FAILED, Result, TrialResult

__all__ = ["Row", "Unmatched", "check_hosts", "failures", "kernels", "match", "row_cautions"]


@dataclass(frozen=True)
class Row:
    """A pager at a point, with the runs of one point that each side has of it."""

    point: str
    spec: str
    label: str
    baseline: list[Result]
    new: list[Result]


@dataclass(frozen=True, kw_only=True)
class Unmatched:
    """What was not compared, with the reason; `side` is ``new`` or ``baseline``: where it is."""

    side: str
    point: str
    label: str
    reason: str


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
    for side, results in (("baseline", baseline), ("result", new)):
        if not all(result.finished for result in results):
            cautions.append(
                Caution("unfinished", f"a run of the {side} did not finish", "run it to its end")
            )
    return cautions


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

    def rows(self, key: str) -> dict[tuple[str, str], list[Result]]:
        """Return the runs of each (spec, label) that was measured or skipped at a point."""
        rows: dict[tuple[str, str], list[Result]] = {}
        for point in self.points.get(key, ()):
            for spec in dict.fromkeys(point.pagers):
                rows.setdefault((spec, point.pager(spec).label), []).append(point)
        return rows


def match(
    baseline_runs: Sequence[Result], new_runs: Sequence[Result]
) -> tuple[list[Row], list[Unmatched]]:
    """Return the rows that both sides have, and what only one has."""
    baseline, new = _Side(baseline_runs, "the baseline"), _Side(new_runs, "the result")
    keys = list(dict.fromkeys((*baseline.points, *new.points)))
    options = {**baseline.options, **new.options}
    names = dict(zip(keys, point_names([options[key] for key in keys]), strict=True))
    rows, unmatched = [], []
    for key in keys:
        both = key in baseline.points and key in new.points
        if not both:
            here, there, side = (
                (baseline, new, "baseline") if key in baseline.points else (new, baseline, "new")
            )
            reason = _nearest(here.options[key], there)
            unmatched.append(Unmatched(side=side, point=names[key], label="", reason=reason))
            continue
        old_rows, new_rows = baseline.rows(key), new.rows(key)
        for spec, label in dict.fromkeys((*old_rows, *new_rows)):
            sides = old_rows.get((spec, label), []), new_rows.get((spec, label), [])
            row = Row(names[key], spec, label, *sides)
            without = _no_partner(row)
            if without is None:
                rows.append(row)
            else:
                unmatched.append(
                    Unmatched(side=without[0], point=row.point, label=label, reason=without[1])
                )
    return rows, unmatched


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


def _no_partner(row: Row) -> tuple[str, str] | None:
    """Return on which side a row stands alone, and why; None where both have it."""
    for here, there, side, what in (
        (row.new, row.baseline, "new", "the baseline"),
        (row.baseline, row.new, "baseline", "the result"),
    ):
        if not here:
            continue
        if not there:
            return side, f"not in {what}"
        skips = [skip.reason for run in there for skip in run.skipped if skip.pager == row.spec]
        if skips:
            return side, f"skipped in {what}: {skips[0]}"
        if what == "the baseline" and failures(there, row.spec):
            return side, f"failed in {what}"
        if not failures(there, row.spec) and not any(
            measured_trials(run, row.spec) for run in there
        ):
            return side, f"has no measured round in {what}"
    return None


def failures(runs: Sequence[Result], spec: str) -> list[TrialResult]:
    """Return the failed trials of a pager, warm-ups included."""
    return [t for run in runs for t in run.trials if t.pager == spec and t.status == FAILED]


def row_cautions(row: Row) -> Iterator[Caution]:
    """Yield what to know of an ``exit(sigbus)`` row: what it costs is the kernel's doing."""
    if row.new[0].pager(row.spec).provider != "sigbus":
        return
    forms = [{_exit_form(run, row.spec) for run in side} for side in (row.baseline, row.new)]
    releases = [set(kernels(side)) for side in (row.baseline, row.new)]
    if forms[0] != forms[1]:
        shown = [" and ".join(sorted(side)) for side in forms]
        yield Caution(
            "exit-form-changed",
            f"its exits arrive as {shown[1]}, in the baseline as {shown[0]}: these kernels take "
            "different paths out of the fault",
            "do not read the change as the speed of one path",
        )
    elif releases[0] != releases[1]:
        yield Caution(
            "exit-walks-unknown",
            "what this stand-in costs depends on how often the kernel walks its page lookup in a "
            "fault, which may differ between these kernels",
            "count get_user_pages and handle_userfault on both (pytest -m lab does)",
        )


def _exit_form(run: Result, spec: str) -> str:
    forms = {"exits_annotated": "annotated exits", "exits_registers": "bare EFAULT"}
    counts = dict.fromkeys(forms, 0)
    for trial in measured_trials(run, spec):
        for name in forms:
            counts[name] += trial.counts.get(name, 0)
    most = max(counts, key=counts.__getitem__)
    return forms[most] if counts[most] else "unknown"
