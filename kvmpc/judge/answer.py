"""Which pager is the fastest at a point, and how sure that is: worked out once, for every view.

Claims no more than the numbers do: two pagers whose ratio's interval holds 1 are not told apart,
and few rounds must agree better than many. Only pagers that fetch can win: the kernel's own fault
is what they are measured by. A pure function of a result.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from kvmpc.judge.result_cautions import FEWEST_ROUNDS
from kvmpc.judge.rows import (
    Row,
    compare_rows,
    paired_ratios,
    ratio_base,
    share_base,
    usable_trials,
)
from kvmpc.judge.summary import Summary, summarise_ratios
from kvmpc.result.metrics import RATE
from kvmpc.result.records import Result

__all__ = ["Answer", "Why", "answer_of"]


class Why(Enum):
    """What shows that the pager with the highest rate is the fastest, or why nothing does."""

    INTERVAL_ABOVE_1 = auto()
    """It is shown: the interval of its lead over the next one lies above 1."""
    ALONE = auto()
    """No other pager that fetches has a rate."""
    NO_COMMON_ROUND = auto()
    """There is another one, but no round measured both."""
    ONE_ROUND = auto()
    """One round has no interval."""
    FEW_ROUNDS = auto()
    """Fewer than `FEWEST_ROUNDS`, however alike they are."""
    TOO_NEAR = auto()
    """The range of a few rounds leaves 1 out, as by chance it does one time in four."""
    INTERVAL_HOLDS_1 = auto()
    """The two are not told apart."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How the pagers of one point stand to each other.

    best: the highest median rate among pagers that fetch; rate: that rate, in pages/s.
    second: the next one; lead: best over second, in rates of the same round.
    why: what shows that `best` is faster than `second`, or why nothing does.
    other: the fastest of another kind, so no variant of the same, where that is not `second`;
        over_other: best over it.
    baseline: what ratios refer to; None where that is `best` itself.
    reference: what does not fetch, so that shares refer to it; share: best over it.
    """

    best: Row
    rate: Summary
    second: Row | None
    lead: Summary | None
    why: Why
    other: Row | None
    over_other: Summary | None
    baseline: Row | None
    reference: Row | None
    share: Summary | None

    @property
    def sure(self) -> bool:
        """Whether `best` is shown to be the fastest."""
        return self.why is Why.INTERVAL_ABOVE_1


def answer_of(point: Result) -> Answer | None:
    """Return the answer of a result of one point; None where no pager that fetches has a rate."""
    rows = {row.spec: row for row in compare_rows(point)}
    rates = {
        spec: row.rate
        for spec, row in rows.items()
        if row.rate is not None and _fetches(point, spec)
    }
    ordered = sorted(rates, key=lambda spec: -rates[spec].median)
    if not ordered:
        return None
    best, *others = ordered
    second = others[0] if others else None
    kind = rows[best].pager.kind
    other = next((spec for spec in others if rows[spec].pager.kind != kind), None)
    if other == second:
        other = None
    baseline, reference = ratio_base(point), share_base(point)
    lead = _lead(point, best, second)
    return Answer(
        best=rows[best],
        rate=rates[best],
        second=rows[second] if second else None,
        lead=lead,
        why=_why(second, lead),
        other=rows[other] if other else None,
        over_other=_lead(point, best, other),
        baseline=rows[baseline] if baseline and baseline != best else None,
        reference=rows[reference] if reference else None,
        share=_lead(point, best, reference),
    )


def _fetches(point: Result, spec: str) -> bool:
    return any(trial.fetches for trial in usable_trials(point, spec))


def _lead(point: Result, best: str, to: str | None) -> Summary | None:
    """Return the rate of one pager over another's, round by round; None where either has none."""
    if to is None or not usable_trials(point, to):
        return None
    return summarise_ratios(paired_ratios(point, best, to, RATE.key))


def _why(second: str | None, lead: Summary | None) -> Why:
    if second is None:
        return Why.ALONE
    if lead is None:
        return Why.NO_COMMON_ROUND
    if lead.n == 1:
        return Why.ONE_ROUND
    if lead.n < FEWEST_ROUNDS:
        return Why.FEW_ROUNDS
    if lead.low <= 1:
        return Why.INTERVAL_HOLDS_1
    # So a range has to lie farther from 1 than it is wide.
    if lead.is_range and lead.low <= lead.high / lead.low:
        return Why.TOO_NEAR
    return Why.INTERVAL_ABOVE_1
