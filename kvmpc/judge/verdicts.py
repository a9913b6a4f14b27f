"""What a check says of each row: the status, and the numbers or the reason that stand behind it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from kvmpc.judge.matching import Pair

__all__ = ["Compared", "FailedNow", "Missing", "Numbers", "Status", "Unjudged", "Verdict"]


class Status(StrEnum):
    """What a check says of a row, in the order in which it is said.

    worse: surely worse, and by more than its limit as measured. better: the same the other way.
    same: its interval lies inside the limit. unsure: none of these could be shown.
    unjudged: nothing could ever have been shown. missing: the baseline has it, the result has not.
    failed: its trials fail now.
    """

    WORSE = "worse"
    MISSING = "missing"
    FAILED = "failed"
    UNSURE = "unsure"
    UNJUDGED = "unjudged"
    BETTER = "better"
    SAME = "same"

    @property
    def red(self) -> bool:
        """Whether it turns the check red."""
        return self in (Status.WORSE, Status.MISSING, Status.FAILED)

    @property
    def open(self) -> bool:
        """Whether it leaves open if the row is worse: then a check that is not red is unsure."""
        return self in (Status.UNSURE, Status.UNJUDGED)


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """A metric on both sides.

    baseline, new: medians, where normalised as on the baseline's host; change: as a share of the
        baseline, the median of what lies between any two values of both sides (Hodges, Lehmann).
    change_low, change_high: its 95 % interval; None where there are too few values for one.
    sees: the smallest change for the worse that such values would have shown, four times in five;
        None where they could show none.
    baseline_n, new_n: rounds, or runs, on each side.
    p_worse: how likely so much for the worse is without a change, p_better: so much for the
        better; each as tested alone.
    """

    baseline: float
    new: float
    change: float
    change_low: float | None
    change_high: float | None
    sees: float | None
    baseline_n: int
    new_n: int
    p_worse: float
    p_better: float


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A metric of a pager at a point, judged.

    adjusted_worse, adjusted_better: its p for all tests of the family.
    """

    pair: Pair
    metric: str
    limit: float
    numbers: Numbers
    adjusted_worse: float
    adjusted_better: float
    status: Status


@dataclass(frozen=True, kw_only=True)
class Unjudged:
    """A metric of a pager at a point that was not judged, and why; numbers: what there is."""

    pair: Pair
    metric: str
    limit: float
    reason: str
    numbers: Numbers | None = None

    @property
    def status(self) -> Status:
        """Always `Status.UNJUDGED`."""
        return Status.UNJUDGED


@dataclass(frozen=True, kw_only=True)
class FailedNow:
    """A pager at a point with trials that fail now: none of its metrics has a number.

    failed: how many of its `trials`; error: why the first one did.
    """

    pair: Pair
    failed: int
    trials: int
    error: str | None

    @property
    def metric(self) -> str:
        """Empty: it is said once, of all metrics."""
        return ""

    @property
    def status(self) -> Status:
        """Always `Status.FAILED`."""
        return Status.FAILED

    @property
    def reason(self) -> str:
        """How many failed, and why."""
        return f"{self.failed} of {self.trials} trials failed: {self.error}"


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A pager at a point that the baseline has measured and the result has not, and why.

    metric: the one that is missing, "" where all are.
    """

    pair: Pair
    reason: str
    metric: str = ""

    @property
    def status(self) -> Status:
        """Always `Status.MISSING`."""
        return Status.MISSING


Verdict = Compared | Unjudged | FailedNow | Missing
