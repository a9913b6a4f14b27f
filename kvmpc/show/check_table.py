"""A check as text: the table with the rows that turned red first, and what is needed to judge it.

As wide as a terminal, at most 80 columns, and safe to print. The numbers are those of
`kvmpc.judge.regression`.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import Final

from kvmpc.judge.matching import pair_cautions
from kvmpc.judge.regression import Check
from kvmpc.judge.starved import why_busy
from kvmpc.judge.told import of_run, tell
from kvmpc.judge.turns import MOVED
from kvmpc.judge.verdicts import Compared, FailedNow, Missing, Numbers, Status, Verdict
from kvmpc.result.records import Result
from kvmpc.show.cells import (
    ABSENT,
    MAX_COLUMNS,
    MIN_LABEL_COLUMNS,
    clean,
    columns,
    duration,
    label_room,
    number,
    paragraph,
    row_name,
    wrap_label,
)
from kvmpc.show.sentences import warning_lines

__all__ = [
    "CHECK_HEADERS",
    "check_cells",
    "check_notes",
    "check_warnings",
    "format_check_table",
    "verdict_line",
]

CHECK_HEADERS = ("verdict", "pager", "metric", "baseline", "now", "change %", "limit", "sees")


def format_check_table(check: Check, room: int = MAX_COLUMNS) -> str:
    """Return the table of `check` and the notes below it, ending in a newline."""
    numbers = [check_cells(verdict) for verdict in check.verdicts]
    others = [(status, *rest) for status, _, *rest in (CHECK_HEADERS, *numbers)]
    of_label = max(MIN_LABEL_COLUMNS, label_room(others, room))
    body = [
        [status, _wrapped(verdict, of_label), *rest]
        for verdict, (status, _, *rest) in zip(check.verdicts, numbers, strict=True)
    ]
    notes = (paragraph(note, room) for note in check_notes(check))
    table = columns([CHECK_HEADERS, *body], "lllrrrrr", room=room, lead=3)
    return "\n".join([*table, "", *notes]) + "\n"


def check_cells(verdict: Verdict) -> list[str]:
    """Return the cells of a verdict, under `CHECK_HEADERS`."""
    status = verdict.status.upper() if verdict.status.red else verdict.status
    name = clean(row_name(verdict.pair.point, verdict.pair.label))
    if isinstance(verdict, FailedNow | Missing):
        return [status, name, verdict.metric or ABSENT, *[ABSENT] * 5]
    found = verdict.numbers
    unit = duration if verdict.metric == "p99" and found and found.new > 1000 else number
    return [
        status,
        name,
        verdict.metric,
        unit(found.baseline if found else None),
        unit(found.new if found else None),
        _change(found) if found else ABSENT,
        f"{verdict.limit * 100:.4g}%",
        signed(found.sees) if found and found.sees is not None else ABSENT,
    ]


def _wrapped(verdict: Verdict, columns: int) -> str:
    """Return point and label of a verdict in one line, or in as many as it takes."""
    point, label = verdict.pair.point, verdict.pair.label
    name = clean(row_name(point, label))
    if len(name) <= columns:
        return name
    lines = textwrap.wrap(f"{clean(point)}:", columns) if point else []
    return "\n".join([*lines, wrap_label(label, columns)])


def _change(found: Numbers) -> str:
    """Return a change with its interval, where there is one, as percentages without their sign."""
    return _percentages(found).replace("%", "")


def _percentages(found: Numbers) -> str:
    if found.change_low is None or found.change_high is None:
        return signed(found.change)
    low, high = signed(found.change_low), signed(found.change_high)
    return f"{signed(found.change)} [{low}, {high}]"


def signed(change: float) -> str:
    """Return a relative change as a signed percentage of at most six letters."""
    if change >= 9.995:
        return ">+999%"
    return f"{change * 100:+.0f}%" if change >= 0.9995 else f"{change * 100:+.1f}%"


def verdict_line(verdict: Verdict) -> str:
    """Return a verdict in one line, with its numbers or the reason why it has none."""
    if not isinstance(verdict, Compared):
        return verdict.reason
    _, _, _, before, now, _, limit, sees = check_cells(verdict)
    p = verdict.adjusted_better if verdict.numbers.p_better < 0.5 else verdict.adjusted_worse
    better = "better" if p is verdict.adjusted_better else "worse"
    return (
        f"{before} to {now}, {_percentages(verdict.numbers)}, limit {limit}, sees {sees}, "
        f"p of {better} {p:.2g}"
    )


def check_notes(check: Check) -> Iterator[str]:
    """Return the paragraphs below the table, the outcome first."""
    yield _outcome(check)
    reasons: dict[tuple[Status, str], list[str]] = {}
    for verdict in check.verdicts:
        if not isinstance(verdict, Compared):
            name = f"{row_name(verdict.pair.point, verdict.pair.label)} {verdict.metric}".strip()
            reasons.setdefault((verdict.status, verdict.reason), []).append(name)
    for (status, reason), names in reasons.items():
        yield f"{status}: {', '.join(names)}: {reason}"
    yield from _starved(check)
    for each in check.unmatched:
        yield f"not compared: {row_name(each.point, each.label)}: {each.reason}"
    criteria = check.criteria
    yield from _meanings(check)
    if criteria.normalise:
        yield (
            "normalised: every value as on a host of the baseline's own speed, by a loop beside "
            "its trial that page faults are not in. A kernel that slows the CPU itself slows that "
            "loop as well: that only a check without --normalise can show."
        )
    if check.unit == "pair":
        yield _between(check)
    old, new = ", ".join(check.baseline_kernels), ", ".join(check.new_kernels)
    yield f"kernel: {new}" + (", as the baseline" if old == new else f" against {old}")


def _starved(check: Check) -> Iterator[str]:
    """Say which rows have fewer rounds than were run, of rows that were compared for all that."""
    said: dict[str, None] = {}
    for pair in (verdict.pair for verdict in check.verdicts if isinstance(verdict, Compared)):
        for side, runs in (("result", pair.new), ("baseline", pair.baseline)):
            for why in filter(None, (why_busy(run, pair.spec) for run in runs)):
                said[f"starved in the {side}: {row_name(pair.point, pair.label)}: {why}"] = None
    yield from said


def _meanings(check: Check) -> Iterator[str]:
    """Yield what the verdicts mean, what alpha holds for, and what it does not."""
    tests = sum(getattr(v, "numbers", None) is not None for v in check.verdicts)
    criteria, judged = check.criteria, {v.metric for v in check.verdicts if v.metric}
    own = [alpha for name, alpha in criteria.alphas.items() if name in judged]
    rest = [criteria.alpha] if judged - {*criteria.alphas} else []
    alpha = math.fsum([*rest, *own])
    unit = check.unit
    test = "signed-rank" if unit == "pair" else "Mann-Whitney"
    yield (
        "worse, better: beyond the limit as measured, and not by chance: where nothing changed at "
        f"all, a check of {tests} tests like this one turns red with a probability of at most "
        f"{alpha:g} (exact {test} tests of {unit}s, Holm). A change "
        "just within its limit may be measured beyond it, and turn red."
    )
    yield (
        "same: the 95% interval lies inside the limit. unsure: neither could be shown. change: the "
        "median of what lies between any two values of both sides (Hodges-Lehmann), its interval. "
        f"sees: the change for the worse that such {unit}s turn red four times in five, if their "
        "noise is normal."
    )
    yield _ALIKE[unit]


_ALIKE: Final = {
    "round": (
        "All that takes rounds of both sides for alike. What shifts from one run to the next "
        "(a boot, where memory lies, drift) looks like a change: compare several runs a side."
    ),
    "run": "All that takes runs of both sides for alike: measure them in turn, not one side first.",
    "pair": (
        "In turn: a pair is a block of rounds on each side, each in a process of its own, in an "
        "order that was drawn. So alpha holds whatever the host did meanwhile; how much is seen "
        "depends on it."
    ),
}
"""What a check of each unit takes for granted."""


def _between(check: Check) -> str:
    """Return in what the sides of a measurement in turn differ."""
    if not check.differing:
        return (
            "between the sides: no fact of the host that kvmpc reads differs; what the commands "
            "changed is something else, or nothing"
        )
    return f"between the sides: {'; '.join(map(str, check.differing))}"


_OUTCOMES: Final = {
    None: "ok",
    Status.WORSE: "REGRESSION",
    Status.MISSING: "MISSING",
    Status.FAILED: "FAILED",
    Status.UNSURE: "UNSURE",
}


def _outcome(check: Check) -> str:
    counts = [f"{count} {status}" for status in Status if (count := len(check.having(status)))]
    more = ""
    if check.status is Status.MISSING:
        more = " What may be missing or fail has to be allowed by name (--allow-missing)."
    if check.status is Status.UNSURE:
        more = f" Measure more {check.unit}s, on a quieter host, or tolerate more (--limit)."
    return f"{_OUTCOMES[check.status]}: {', '.join(counts)}.{more}"


def check_warnings(
    check: Check, baseline: Sequence[Result], new: Sequence[Result], room: int = MAX_COLUMNS
) -> list[str]:
    """Return what weakens a check, each with its remedy: what differs, and either side's own."""
    of_rows: dict[str, list[str]] = {}
    for pair in (verdict.pair for verdict in check.verdicts):
        for caution in pair_cautions(pair):
            of_rows.setdefault(str(caution), []).append(row_name(pair.point, pair.label))
    # Where a side moved is told with what else its result says.
    lines = [str(caution) for caution in check.cautions if caution.code != MOVED]
    lines += [f"{', '.join(dict.fromkeys(rows))}: {text}" for text, rows in of_rows.items()]
    sides = {"result": tell(new), "baseline": tell(baseline)}
    whose: dict[str, list[str]] = {}
    for side, told in sides.items():
        for each in of_run(told):
            whose.setdefault(str(each), []).append(side)
    lines += [f"{' and '.join(names)}: {said}" for said, names in whose.items()]
    return warning_lines(lines, [each for told in sides.values() for each in told], room)
