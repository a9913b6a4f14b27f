"""KTAP version 1: what kernel test runners read.

Flat: a result has one test for each pager at each point, a check one for each verdict and one for
each thing that was not compared. A name begins with its point, if there are several; subtests would
say the same, but fewer parsers read them. What a test measured stands before it in a diagnostic
line, since whatever follows the last test is no longer read.

Source: Documentation/dev-tools/ktap.rst, tools/testing/kunit/kunit_parser.py (6.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kvmpc.judge.regression import UNJUDGED, Check
from kvmpc.judge.rows import Row, compare_rows
from kvmpc.result.points import point_names, points_of
from kvmpc.result.records import Result
from kvmpc.show.cells import clean, number, ratio
from kvmpc.show.check_table import told, where
from kvmpc.show.table import verdict_of

__all__ = ["ktap_of_check", "ktap_of_result"]


@dataclass(frozen=True)
class _Test:
    """A line; `skip` is why it was not run, and `said` what is told of it."""

    name: str
    ok: bool
    said: str
    skip: str | None = None


def ktap_of_result(result: Result) -> str:
    """Return `result` as KTAP: ok is verified, or zeros where a page can hold nothing else."""
    points = points_of(result)
    names = point_names([point.options for point in points])
    return _document(
        [
            _row_test(name, row, point)
            for name, point in zip(names, points, strict=True)
            for row in compare_rows(point)
        ]
    )


def _row_test(point_name: str, row: Row, point: Result) -> _Test:
    name, verdict = where(point_name, row.label), verdict_of(row, point)
    if verdict == "skipped":
        reason = next(skip.reason for skip in point.skipped if skip.pager == row.spec)
        return _Test(name, ok=True, said="", skip=reason)
    if verdict == "-":
        return _Test(name, ok=True, said="", skip="no round was measured")
    if row.failed:
        total = row.ok_trials + row.failed_trials
        said = f"{row.failed_trials} of {total} trials failed: {'; '.join(row.errors)}"
        return _Test(name, ok=False, said=said)
    told = [f"{number(row.pages_per_s)} pages/s"]
    if row.ratio is not None:
        told.append(f"ratio {ratio(row.ratio, with_spread=True)}")
    told += [f"{row.ok_trials} rounds", f"verified {verdict}"]
    return _Test(name, ok=verdict != "no", said=", ".join(told))


def ktap_of_check(check: Check) -> str:
    """Return `check` as KTAP: not ok is what turned red; what was not judged is skipped."""
    tests = []
    for verdict in check.verdicts:
        name = where(where(verdict.point, verdict.label), verdict.metric)
        if verdict.status == UNJUDGED:
            tests.append(_Test(name, ok=True, said="", skip=verdict.reason))
        else:
            said = f"{verdict.status}: {told(verdict)}"
            tests.append(_Test(name, ok=not verdict.red, said=said))
    for each in check.unmatched:
        name = where(each.point, each.label)
        tests.append(_Test(name, ok=True, said="", skip=f"not compared: {each.reason}"))
    return _document(tests)


def _document(tests: Sequence[_Test]) -> str:
    lines = ["KTAP version 1", f"1..{len(tests)}"]
    for count, test in enumerate(tests, start=1):
        name = _plain(test.name)
        if test.said:
            # With the name before it: "Subtest:" at its head would mean something.
            lines.append(f"# {name}: {_plain(test.said)}")
        skip = "" if test.skip is None else f" # SKIP {_plain(test.skip)}".rstrip()
        lines.append(f"{'ok' if test.ok else 'not ok'} {count} {name}{skip}")
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Return `text` in one line and without ``#``, which would begin a directive."""
    return " ".join(clean(text).replace("#", "?").split())
