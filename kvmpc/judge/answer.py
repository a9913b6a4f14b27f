"""Which pager is the fastest at a point, and how sure that is: worked out once, for every view.

**What is claimed.** That a pager has the higher rate than each other one in more than half of all
rounds; or, where variants of one kind are too alike for that, that its whole kind has. Only pagers
that fetch can win: the kernel's own fault is what they are measured by.

**When.** A round has one winner, and the claim takes so many rounds won by the same one that chance
explains it in at most one *result* of twenty, all its points together, however many pagers it
compares. `chance_of` says why that needs no correction for pagers; for points the level is divided
by their number (Bonferroni, `contests_of`). Rounds are taken for independent of each other; nothing
else is asked of their noise.

A pure function of a result.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import Enum, auto
from itertools import count
from typing import Final

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

__all__ = [
    "FALSE_HEADLINES",
    "Answer",
    "Why",
    "answer_of",
    "chance_of",
    "contests_of",
    "rounds_needed",
]


FALSE_HEADLINES: Final = 0.05
"""In what share of results, or of comparisons of two, chance may name something at most."""


class Why(Enum):
    """What shows that the pager with the highest rate is the fastest, or why nothing does."""

    LED = auto()
    """It is shown: it led in more rounds than chance explains."""
    KIND_LED = auto()
    """Of its kind it is shown: all pagers of it led all others in so many rounds."""
    ALONE = auto()
    """No other pager that fetches has a rate."""
    NO_COMMON_ROUND = auto()
    """There is another one, but no round measured them all."""
    TOO_FEW = auto()
    """So few rounds, for so many points, can show nothing however they end."""
    NOT_SHOWN = auto()
    """Chance explains in how many rounds it led."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How the pagers of one point stand to each other.

    best: the highest median rate among pagers that fetch; rate: that rate, in pages/s.
    second: the next one; lead: best over second, in rates of the same round.
    why: what shows that `best` is faster than all others, or why nothing does.
    rounds: those that measured every pager that fetches; led: in how many `best` had the highest
        rate; kind_led: in how many every pager of its kind had a higher one than all others, None
        where that says nothing more.
    needed: the fewest rounds that can show who is the fastest, where one leads in all of them.
    other: the fastest of another kind, so no variant of the same, where that is not `second`;
        over_other: best over it.
    baseline: what ratios refer to; None where that is `best` itself.
    reference: what does not fetch, so that shares refer to it; share: best over it.
    without: pagers that fetch and were measured for nothing, since they failed or were starved:
        whatever is said of the fastest is said of the others.
    """

    best: Row
    rate: Summary
    second: Row | None
    lead: Summary | None
    why: Why
    rounds: int
    led: int
    kind_led: int | None
    needed: int
    other: Row | None
    over_other: Summary | None
    baseline: Row | None
    reference: Row | None
    share: Summary | None
    without: tuple[Row, ...] = ()

    @property
    def sure(self) -> bool:
        """Whether `best` is shown to be the fastest."""
        return self.why is Why.LED


def contests_of(points: Iterable[Result]) -> int:
    """Return among how many claims chance may choose: one a point with two pagers or more.

    A point with more than two of a kind beside another kind counts as two: see `chance_of`.
    """
    contests = 0
    for point in points:
        kinds = Counter(
            row.pager.kind
            for row in compare_rows(point)
            if row.rate is not None and _fetches(point, row.spec)
        )
        if kinds.total() > 1:
            contests += 2 if len(kinds) > 1 and max(kinds.values()) > 2 else 1
    return contests


def chance_of(rounds: int, led: int) -> float:
    """Return how likely it is at most that something leads so often that is not the fastest.

    It is the sign test's p, two-sided, for two pagers as for fifty, since a round has one winner. A
    pager that is not the fastest leads some other one, and so all of them, in at most half of the
    rounds, and the shares of all such pagers add up to 1 at most. How likely it is to lead in more
    than half of n rounds is convex in that share, so that they get there most often where two of
    them have a half each: twice the binomial tail.

    Nor do kinds of two add to that. Of one that is not the fastest, a pager e is below one of
    another kind half of the time; the other half holds all rounds that the kind leads and all that
    e leads. What is left, its other pager may lead, less those that the kind leads as well; by the
    same convexity no more comes of it. A third pager of the kind could lead yet other rounds.
    """
    tail = sum(math.comb(rounds, won) for won in range(led, rounds + 1)) / 2**rounds
    return 2 * tail if 2 * led > rounds else 1.0


def rounds_needed(contests: int) -> int:
    """Return the fewest rounds in which a pager that leads in all is shown to be the fastest."""
    return next(n for n in count(1) if chance_of(n, n) <= FALSE_HEADLINES / max(1, contests))


def answer_of(point: Result, contests: int) -> Answer | None:
    """Return the answer of a result of one point; None where no pager that fetches has a rate.

    contests: `contests_of` all points of which something may be said beside it.
    """
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
    kind = {spec for spec in ordered if rows[spec].pager.kind == rows[best].pager.kind}
    other = next((spec for spec in others if spec not in kind), None)
    baseline, reference = ratio_base(point), share_base(point)
    rounds = _rounds(point, ordered)
    led = _led(rounds, {best})
    kind_led = _led(rounds, kind) if other and len(kind) > 1 else None
    if other == second:
        other = None
    return Answer(
        best=rows[best],
        rate=rates[best],
        second=rows[second] if second else None,
        lead=_lead(point, best, second),
        why=_why(second, len(rounds), led, kind_led, contests),
        rounds=len(rounds),
        led=led,
        kind_led=kind_led,
        needed=rounds_needed(contests),
        other=rows[other] if other else None,
        over_other=_lead(point, best, other),
        baseline=rows[baseline] if baseline and baseline != best else None,
        reference=rows[reference] if reference else None,
        share=_lead(point, best, reference),
        without=tuple(
            row for row in rows.values() if row.pager.fetches and (row.failed or row.busy)
        ),
    )


def _why(second: str | None, rounds: int, led: int, kind_led: int | None, contests: int) -> Why:
    if second is None:
        return Why.ALONE
    if not rounds:
        return Why.NO_COMMON_ROUND
    if rounds < rounds_needed(contests):
        return Why.TOO_FEW
    level = FALSE_HEADLINES / max(1, contests)
    if chance_of(rounds, led) <= level:
        return Why.LED
    if kind_led is not None and chance_of(rounds, kind_led) <= level:
        return Why.KIND_LED
    return Why.NOT_SHOWN


def _fetches(point: Result, spec: str) -> bool:
    return any(trial.fetches for trial in usable_trials(point, spec))


def _rounds(point: Result, specs: Sequence[str]) -> list[dict[str, float]]:
    """Return the rates of each round that has those of all `specs`."""
    by_spec = [
        {trial.round: trial.metrics[RATE.key] for trial in usable_trials(point, spec)
         if RATE.key in trial.metrics}
        for spec in specs
    ]  # fmt: skip
    common = set.intersection(*map(set, by_spec))
    return [
        {spec: found[number] for spec, found in zip(specs, by_spec, strict=True)}
        for number in sorted(common)
    ]


def _led(rounds: Iterable[Mapping[str, float]], leaders: Set[str]) -> int:
    """Return in how many rounds each of `leaders` had a higher rate than every other pager."""
    return sum(
        min(rates[spec] for spec in leaders)
        > max((rate for spec, rate in rates.items() if spec not in leaders), default=0)
        for rates in rounds
    )


def _lead(point: Result, best: str, to: str | None) -> Summary | None:
    """Return the rate of one pager over another's, round by round; None where either has none."""
    if to is None or not usable_trials(point, to):
        return None
    return summarise_ratios(paired_ratios(point, best, to, RATE.key))
