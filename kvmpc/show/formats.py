"""Results and checks in the forms that other programs read: one function for each, by kind.

``table``, ``markdown`` and ``mail`` are for people: rounded, with notes. ``csv`` and ``json`` have
the same rows in full precision, units in the names, absent as empty or null; they are derived, and
what was measured stays in the file that ``--json`` writes. ``ktap`` and ``tmt`` are for test
runners, who must be told an end too: `format_end`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from kvmpc.caution import Caution
from kvmpc.judge.matching import Unmatched, pair_cautions
from kvmpc.judge.reading import Reading
from kvmpc.judge.regression import Check
from kvmpc.judge.summary import Summary
from kvmpc.judge.told import Told, of_run, tell
from kvmpc.judge.verdicts import Compared
from kvmpc.result.records import Result
from kvmpc.show.cases import Case, End, cases_of_check, cases_of_result
from kvmpc.show.cells import MAX_COLUMNS, clean
from kvmpc.show.check_table import CHECK_HEADERS, check_cells, check_notes, format_check_table
from kvmpc.show.ktap import ktap, ktap_end
from kvmpc.show.mail import format_check_mail, format_mail
from kvmpc.show.row_fields import further_fields, run_fields
from kvmpc.show.sentences import warning_texts
from kvmpc.show.table import format_markdown, format_table, markdown_table
from kvmpc.show.tmt import tmt, tmt_end

__all__ = ["KINDS", "format_check", "format_end", "format_result"]

KINDS: Final = ("table", "markdown", "mail", "csv", "json", "ktap", "tmt")
_FOR_RUNNERS: Final[Mapping[str, tuple[Callable[[Sequence[Case]], str], Callable[[End], str]]]] = {
    "ktap": (ktap, ktap_end),
    "tmt": (tmt, tmt_end),
}
"""By kind, how its tests are spelled, and its end."""

ROWS_SCHEMA: Final = "kvmpc-rows"
CHECK_SCHEMA: Final = "kvmpc-check"
_VERSIONS: Final = {ROWS_SCHEMA: 1, CHECK_SCHEMA: 2}
"""Of a check 2: a p says of which side it is, and rows may be unsure or missing."""
_NUMBERS: Final = (
    "baseline", "new", "change", "change_low", "change_high", "sees", "p_worse", "p_better",
)  # fmt: skip
_ADJUSTED: Final = ("adjusted_worse", "adjusted_better")


def format_result(reading: Reading, kind: str, room: int = MAX_COLUMNS) -> str:
    """Return a result as text of `kind`, one of `KINDS`, ending in a newline.

    room: how many columns a table may have.
    Raises: ValueError where there is no such kind.
    """
    if kind == "table":
        return format_table(reading, room)
    if kind == "markdown":
        return format_markdown(reading)
    if kind == "mail":
        return format_mail(reading)
    if kind == "ktap":
        of_this_run = map(str, of_run(reading.cautions))
        return ktap(cases_of_result(reading), warning_texts(of_this_run, reading.cautions))
    if kind in _FOR_RUNNERS:
        return _FOR_RUNNERS[kind][0](cases_of_result(reading))
    rows = list(_result_rows(reading))
    if kind == "csv":
        return _csv(rows)
    if kind == "json":
        return _json(
            ROWS_SCHEMA,
            {
                **run_fields(reading.result),
                "command": reading.result.command,
                "finished": reading.result.finished,
                "rows": rows,
                "warnings": [_told(each) for each in reading.cautions],
            },
        )
    raise ValueError(f"no format {kind!r}")


def format_check(check: Check, kind: str, room: int = MAX_COLUMNS) -> str:
    """Return `check` as text of `kind`, as `format_result` does."""
    if kind == "table":
        return format_check_table(check, room)
    if kind == "mail":
        return format_check_mail(check)
    if kind == "markdown":
        body = [check_cells(verdict) for verdict in check.verdicts]
        notes = [clean(note) for note in check_notes(check)]
        return "\n\n".join([markdown_table(CHECK_HEADERS, body), *notes]) + "\n"
    if kind in _FOR_RUNNERS:
        return _FOR_RUNNERS[kind][0](cases_of_check(check))
    rows = list(_check_rows(check))
    if kind == "csv":
        return _csv(rows)
    if kind == "json":
        return _json(
            CHECK_SCHEMA,
            {
                "status": check.status or "ok",
                "alpha": check.criteria.alpha,
                "alphas": dict(check.criteria.alphas),
                "normalised": check.criteria.normalise,
                "unit": check.unit,
                "baseline_runs": list(map(_run, check.baseline)),
                "new_runs": list(map(_run, check.new)),
                "rows": rows,
                "unmatched": [_unmatched(each) for each in check.unmatched],
                "differing": [vars(each) for each in check.differing],
                "warnings": _cautions(check.cautions),
            },
        )
    raise ValueError(f"no format {kind!r}")


def format_end(end: End, kind: str) -> str:
    """Return what text of `kind` says where a command ended early; "" but for test runners."""
    return _FOR_RUNNERS[kind][1](end) if kind in _FOR_RUNNERS else ""


def _result_rows(reading: Reading) -> Iterator[dict[str, object]]:
    """Yield a record for each pager at each point, the same names in each."""
    options = dict.fromkeys(name for at in reading.points for name in at.options)
    for at in reading.points:
        for row in at.rows:
            yield {
                **run_fields(reading.result),
                "point": at.name,
                **{option: at.options.get(option) for option in options},
                "pager": row.spec,
                "label": row.label,
                "verified": row.outcome,
                "rounds": row.ok_trials,
                "failed_trials": row.failed_trials,
                "starved_trials": row.starved_trials,
                **_spread("pages_per_s", row.rate),
                "mib_per_s": row.mib_per_s,
                **_spread("ratio", row.ratio),
                "share_of_none": row.share_of_none,
                **_spread("fault_p50_ns", row.fault_p50),
                **_spread("fault_p99_ns", row.fault_p99),
                "cpu_s_per_gib": row.cpu_s_per_gib,
                "reason": "; ".join([*row.errors, *row.skips, *filter(None, [row.starved])])
                or None,
                **further_fields(reading, at, row),
            }


def _spread(name: str, found: Summary | None) -> dict[str, object]:
    """Return a median, its ends, what they are, and how often such an interval holds the truth."""
    return {
        name: found.median if found else None,
        f"{name}_low": found.low if found else None,
        f"{name}_high": found.high if found else None,
        f"{name}_spread": found.spread if found else None,
        f"{name}_coverage": found.coverage if found else None,
    }


def _check_rows(check: Check) -> Iterator[dict[str, object]]:
    limits = {judged.name: limit for judged, limit in check.criteria.judged.items()}
    sides = _of_both("baseline", check.baseline) | _of_both("new", check.new)
    for verdict in check.verdicts:
        found = getattr(verdict, "numbers", None)
        yield {
            **sides,
            "verdict": verdict.status,
            "point": verdict.pair.point,
            "pager": verdict.pair.spec,
            "label": verdict.pair.label,
            "metric": verdict.metric,
            "limit": limits.get(verdict.metric),
            **{name: getattr(found, name, None) for name in _NUMBERS},
            **{name: getattr(verdict, name, None) for name in _ADJUSTED},
            "baseline_n": found.baseline_n if found else 0,
            "new_n": found.new_n if found else 0,
            "reason": None if isinstance(verdict, Compared) else verdict.reason,
            "cautions": "; ".join(each.code for each in pair_cautions(verdict.pair)) or None,
        }


def _of_both(side: str, runs: Sequence[Result]) -> dict[str, object]:
    """Return of which runs a side is, in a cell each: their hosts, kernels, begins, versions."""
    known = [run_fields(run) for run in runs]
    return {
        f"{side}_{name}": ", ".join(dict.fromkeys(str(run[name] or "") for run in known)) or None
        for name in ("hostname", "kernel", "started", "kvmpc")
    }


def _run(run: Result) -> dict[str, object]:
    """Return of one run what it is, and the codes of what weakens it, the worst first."""
    return {**run_fields(run), "cautions": [told.code for told in tell([run])]}


def _told(told: Told) -> dict[str, object]:
    """Return a caution of a result, with whose it is and how often it was given."""
    often = {"where": told.where or None, "times": told.times, "times_of": told.unit}
    return {**vars(told.caution), **often}


def _unmatched(each: Unmatched) -> dict[str, str]:
    return {name: getattr(each, name) for name in ("side", "point", "label", "reason")}


def _cautions(cautions: Sequence[Caution]) -> list[Mapping[str, object]]:
    return [vars(caution) for caution in dict.fromkeys(cautions)]


def _json(schema: str, content: Mapping[str, object]) -> str:
    document = {"schema": schema, "version": _VERSIONS[schema], **content}
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _csv(rows: Sequence[Mapping[str, object]]) -> str:
    # Here and not above: importing it takes time that `kvmpc --help` does not have.
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if rows:
        writer.writerow(rows[0])
        writer.writerows([_cell(value) for value in row.values()] for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return clean(value)
    return value if isinstance(value, int | float) else json.dumps(value)
