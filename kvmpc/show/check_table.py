"""A check as text: the table with the rows that turned red first, and what is needed to judge it.

Under 100 columns, and safe to print. The numbers are those of `kvmpc.judge.regression`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from kvmpc.judge.regression import BETTER, FAILED_NOW, SAME, UNJUDGED, WORSE, Check, Verdict
from kvmpc.judge.result_cautions import cautions_of_result
from kvmpc.result.records import Result
from kvmpc.show.cells import ABSENT, clean, duration, number, row_name, wrap_label
from kvmpc.show.table import MAX_COLUMNS

__all__ = [
    "CHECK_HEADERS",
    "check_cells",
    "check_notes",
    "check_warnings",
    "format_check_table",
    "told",
]

CHECK_HEADERS = ("verdict", "pager", "metric", "baseline", "now", "change", "limit", "p")

_MIN_PAGER_COLUMNS = 16  # holds fetch=pipelined


def format_check_table(check: Check) -> str:
    """Return the table of `check` and the notes below it, ending in a newline."""
    # Here and not above: importing it takes longer than `kvmpc --help` may.
    from tabulate import tabulate

    numbers = [check_cells(verdict) for verdict in check.verdicts]
    taken = [max(map(len, column)) for column in zip(CHECK_HEADERS, *numbers, strict=True)]
    separators = 2 * (len(CHECK_HEADERS) - 1)
    room = MAX_COLUMNS - separators - sum(taken) + taken[1]
    room = max(_MIN_PAGER_COLUMNS, room)
    body = [
        [status, _wrapped(verdict, room), *rest]
        for verdict, (status, _, *rest) in zip(check.verdicts, numbers, strict=True)
    ]
    widths = [
        max(len(line) for cell in column for line in cell.split("\n"))
        for column in zip(CHECK_HEADERS, *body, strict=True)
    ]
    table = tabulate(
        [CHECK_HEADERS, ["-" * width for width in widths], *body],
        tablefmt="plain",
        disable_numparse=True,  # the cells are rounded already
        colalign=("left", "left", "left", *["right"] * 5),
    )
    notes = (
        textwrap.fill(clean(note), MAX_COLUMNS, subsequent_indent="  ")
        for note in check_notes(check)
    )
    return "\n".join([table, "", *notes]) + "\n"


def check_cells(verdict: Verdict) -> list[str]:
    """Return the cells of a verdict, under `CHECK_HEADERS`."""
    unit = duration if verdict.metric == "p99" and verdict.new and verdict.new > 1000 else number
    return [
        verdict.status.upper() if verdict.red else verdict.status,
        clean(row_name(verdict.point, verdict.label)),
        verdict.metric or ABSENT,
        unit(verdict.baseline),
        unit(verdict.new),
        _change(verdict),
        f"{verdict.limit * 100:.3g}%" if verdict.metric else ABSENT,
        ABSENT if verdict.adjusted is None else f"{verdict.adjusted:.2g}",
    ]


def _wrapped(verdict: Verdict, columns: int) -> str:
    """Return point and label of a verdict in one line, or in as many as it takes."""
    name = clean(row_name(verdict.point, verdict.label))
    if len(name) <= columns:
        return name
    lines = textwrap.wrap(f"{clean(verdict.point)}:", columns) if verdict.point else []
    return "\n".join([*lines, wrap_label(verdict.label, columns)])


def _change(verdict: Verdict) -> str:
    if verdict.change is None or verdict.change_low is None or verdict.change_high is None:
        return ABSENT
    low, high = signed(verdict.change_low), signed(verdict.change_high)
    return f"{signed(verdict.change)} [{low}, {high}]"


def signed(change: float) -> str:
    """Return a relative change as a signed percentage of at most six letters."""
    if change >= 9.995:
        return ">+999%"
    return f"{change * 100:+.0f}%" if change >= 0.9995 else f"{change * 100:+.1f}%"


def told(verdict: Verdict) -> str:
    """Return a verdict in one line, with its numbers."""
    if verdict.change is None or verdict.reason:
        return verdict.reason or verdict.status
    _, _, _, before, now, change, limit, adjusted = check_cells(verdict)
    return f"{before} to {now}, {change}, limit {limit}, adjusted p {adjusted}"


def check_notes(check: Check) -> Iterator[str]:
    """Return the paragraphs below the table, the outcome first."""
    yield _outcome(check)
    for status in (FAILED_NOW, UNJUDGED):
        reasons: dict[str, list[str]] = {}
        for verdict in check.having(status):
            name = row_name(verdict.point, verdict.label)
            reasons.setdefault(str(verdict.reason), []).append(f"{name} {verdict.metric}".strip())
        for reason, names in reasons.items():
            yield f"{status}: {', '.join(names)}: {reason}"
    for each in check.unmatched:
        yield f"not compared: {row_name(each.point, each.label)}: {each.reason}"
    tests = sum(verdict.p is not None for verdict in check.verdicts)
    criteria = check.criteria
    own = "".join(f", {name} {alpha:g}" for name, alpha in criteria.alphas.items())
    yield (
        f"red: worse than its limit, and p at most {criteria.alpha:g}{own}: how often a check of "
        f"{tests} tests like this one turns red by chance. p: exact permutation of {check.unit}s, "
        "one-sided, adjusted for all tests (Holm). change: of the median, and its 95% interval."
    )
    if criteria.normalise:
        yield (
            "normalised: every value is a ratio to the first pager that does not fetch, in the "
            "same round."
        )
    old, new = ", ".join(check.baseline_kernels), ", ".join(check.new_kernels)
    yield f"kernel: {new}" + (", as the baseline" if old == new else f" against {old}")


def _outcome(check: Check) -> str:
    counts = [
        f"{count} {status}"
        for status in (WORSE, FAILED_NOW, UNJUDGED, BETTER, SAME)
        if (count := len(check.having(status)))
    ]
    if check.having(WORSE):
        word = "REGRESSION"
    elif check.having(FAILED_NOW):
        word = "FAILED"
    else:
        word = "ok"
    return f"{word}: {', '.join(counts)}."


def check_warnings(check: Check, baseline: Sequence[Result], new: Sequence[Result]) -> list[str]:
    """Return what weakens a check, each with its remedy: what differs, and either side's doubts."""
    told: dict[str, list[str]] = {}
    for verdict in check.verdicts:
        for caution in verdict.cautions:
            told.setdefault(str(caution), []).append(row_name(verdict.point, verdict.label))
    lines = [str(caution) for caution in check.cautions]
    lines += [f"{', '.join(dict.fromkeys(rows))}: {text}" for text, rows in told.items()]
    for side, results in (("baseline", baseline), ("result", new)):
        lines += [
            f"{side}: {caution}" for result in results for caution in cautions_of_result(result)
        ]
    return [clean(f"warning: {line}") for line in dict.fromkeys(lines)]
