"""What test runners read: a result or a check as tests that pass, fail or are skipped, and its end.

A result has one test for each pager at each point, a check one for each verdict and one for each
thing that was not compared. A name begins with its point, if there are several. A run that did not
finish is a test of its own that fails, so that what is missing cannot pass for what was not asked.

How a runner spells that is `kvmpc.show.ktap` and `kvmpc.show.tmt`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from kvmpc.judge.reading import Reading
from kvmpc.judge.regression import Check
from kvmpc.judge.rows import Outcome, Row
from kvmpc.show.cells import clean, number, ratio, row_name
from kvmpc.show.check_table import verdict_line

__all__ = ["Case", "End", "Said", "cases_of_check", "cases_of_result", "one_line"]


class Said(StrEnum):
    """What is said of a test, in the words that runners share."""

    PASS = "pass"
    FAIL = "fail"
    SKIP = "skip"
    ERROR = "error"


@dataclass(frozen=True)
class Case:
    """A test, its outcome, and in one line what it measured, or why it has no number."""

    name: str
    said: Said
    why: str


@dataclass(frozen=True)
class End:
    """Why a command ended before it had said all.

    cannot: it is this host that cannot, which is no fault of what is tested.
    begun: a document was printed before, which this is the end of; else it is all there is.
    """

    reason: str
    cannot: bool
    begun: bool

    @property
    def case(self) -> Case:
        """What ended, as a test: skipped where the host could do nothing of it."""
        said = Said.SKIP if self.cannot and not self.begun else Said.ERROR
        return Case("kvmpc", said, self.reason)


def cases_of_result(reading: Reading) -> list[Case]:
    """Return the tests of a result: one passes if verified, or zeros where nothing else can be."""
    cases = [_row_test(at.name, row) for at in reading.points for row in at.rows]
    if not reading.result.finished:
        count = len(reading.result.trials)
        why = f"the run was stopped or is still going; {count} trials were run"
        cases.append(Case("finished", Said.ERROR, why))
    return cases


def _row_test(point_name: str, row: Row) -> Case:
    name = row_name(point_name, row.label)
    if row.outcome is Outcome.SKIPPED:
        return Case(name, Said.SKIP, row.skips[0])
    if row.outcome is Outcome.ABSENT:
        return Case(name, Said.SKIP, "no round was measured")
    if row.outcome is Outcome.BUSY:
        return Case(name, Said.SKIP, f"this host was too busy: {row.starved}")
    if row.failed:
        total = row.ok_trials + row.failed_trials
        why = f"{row.failed_trials} of {total} trials failed: {'; '.join(row.errors)}"
        return Case(name, Said.FAIL, why)
    parts = [f"{number(row.pages_per_s)} pages/s"]
    if row.ratio is not None:
        parts.append(f"ratio {ratio(row.ratio, with_spread=True, alone=True)}")
    parts += [f"{row.ok_trials} rounds", f"verified {row.outcome}"]
    said = Said.FAIL if row.outcome is Outcome.NO else Said.PASS
    return Case(name, said, ", ".join(parts))


def cases_of_check(check: Check) -> list[Case]:
    """Return the tests of `check`: what turned red fails, what it leaves open is skipped."""
    cases = []
    for verdict in check.verdicts:
        name = row_name(row_name(verdict.pair.point, verdict.pair.label), verdict.metric)
        said = Said.FAIL if verdict.status.red else Said.PASS
        if verdict.status.open:
            said = Said.SKIP
        cases.append(Case(name, said, f"{verdict.status}: {verdict_line(verdict)}"))
    for each in check.unmatched:
        name = row_name(each.point, each.label)
        cases.append(Case(name, Said.SKIP, f"not compared: {each.reason}"))
    return cases


def one_line(text: str) -> str:
    """Return `text` in one line, safe to print."""
    return " ".join(clean(text).split())
