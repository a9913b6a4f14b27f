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

from kvmpc.judge.reading import Reading
from kvmpc.judge.regression import Check, Unjudged
from kvmpc.judge.rows import Outcome, Row
from kvmpc.show.cells import clean, number, ratio, row_name
from kvmpc.show.check_table import verdict_line

__all__ = ["ktap_of_check", "ktap_of_result"]


@dataclass(frozen=True)
class _Test:
    """A line; `skip` is why it was not run, and `said` what is said of it."""

    name: str
    ok: bool
    said: str
    skip: str | None = None


def ktap_of_result(reading: Reading) -> str:
    """Return a result as KTAP: ok is verified, or zeros where a page can hold nothing else."""
    return _document([_row_test(at.name, row) for at in reading.points for row in at.rows])


def _row_test(point_name: str, row: Row) -> _Test:
    name = row_name(point_name, row.label)
    if row.outcome is Outcome.SKIPPED:
        return _Test(name, ok=True, said="", skip=row.skips[0])
    if row.outcome is Outcome.ABSENT:
        return _Test(name, ok=True, said="", skip="no round was measured")
    if row.failed:
        total = row.ok_trials + row.failed_trials
        said = f"{row.failed_trials} of {total} trials failed: {'; '.join(row.errors)}"
        return _Test(name, ok=False, said=said)
    parts = [f"{number(row.pages_per_s)} pages/s"]
    if row.ratio is not None:
        parts.append(f"ratio {ratio(row.ratio, with_spread=True)}")
    parts += [f"{row.ok_trials} rounds", f"verified {row.outcome}"]
    return _Test(name, ok=row.outcome is not Outcome.NO, said=", ".join(parts))


def ktap_of_check(check: Check) -> str:
    """Return `check` as KTAP: not ok is what turned red; what was not judged is skipped."""
    tests = []
    for verdict in check.verdicts:
        name = row_name(row_name(verdict.pair.point, verdict.pair.label), verdict.metric)
        if isinstance(verdict, Unjudged):
            tests.append(_Test(name, ok=True, said="", skip=verdict.reason))
        else:
            said = f"{verdict.status}: {verdict_line(verdict)}"
            tests.append(_Test(name, ok=not verdict.status.red, said=said))
    for each in check.unmatched:
        name = row_name(each.point, each.label)
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
