"""What a page says in words: the answer, what changed, the work, the host. Plain text, no HTML.

Judges nothing: which pager is the fastest and how sure that is, `kvmpc.judge.answer` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from kvmpc.judge.answer import Answer, Why, answer_of
from kvmpc.judge.change import Change, ChangedRow
from kvmpc.judge.rows import Row, compare_rows
from kvmpc.result.points import shown_option
from kvmpc.result.records import FAILED, Result
from kvmpc.show.page import text
from kvmpc.show.page.panels import Panel

__all__ = [
    "Wording",
    "answer_in_words",
    "change_in_words",
    "fact",
    "place_of",
    "work_of",
]


_MOST_LISTED: Final = 4

_NOT_TOLD: Final = frozenset({"timed", "checked", "watchdog_s", "question"})
"""Options that are no part of the work, or that are told elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Wording:
    """What a panel answers: one sentence that leads, and those that qualify it."""

    lead: str
    more: tuple[str, ...] = ()


def answer_in_words(panel: Panel, contests: int) -> Wording:
    """Return the answer at the panel's last point that has one, and how it differs at others.

    contests: among how many claims of its whole result chance may choose.
    """
    answers = {
        index: answer
        for index, point in enumerate(panel.points)
        if (answer := answer_of(point, contests)) is not None
    }
    if not answers:
        return Wording(lead=_nothing(panel))
    index, answer = list(answers.items())[-1]
    return Wording(
        lead=_lead(answer, panel.at(index)),
        more=(
            *_how_sure(answer, contests),
            *_other_kind(answer),
            *_share(answer),
            *_cost(answer),
            *_leaders(panel, answers),
        ),
    )


def _nothing(panel: Panel) -> str:
    """Say what there is where no pager that fetches has a rate."""
    trials = [trial for point in panel.points for trial in point.trials]
    if not trials:
        return "No trial was run: there is nothing to answer with."
    rates = [
        f"{row.label} {text.number(row.pages_per_s)} pages/s {panel.at(index)}".strip()
        for index, point in enumerate(panel.points)
        for row in compare_rows(point)
        if row.rate is not None
    ]
    if rates:
        return f"No pager that fetches gave a rate. What there is: {', '.join(rates[:4])}."
    if all(trial.status == FAILED for trial in trials if trial.round > 0):
        return "No pager gave a rate: every measured trial failed. The reasons are below."
    if any(trial.starved for trial in trials):
        return (
            "No pager gave a rate: this host was too busy, and trials were starved. The shares "
            "that others had are below."
        )
    return "No pager gave a rate: a pager with a failed trial has none. The reasons are below."


def _lead(answer: Answer, place: str) -> str:
    name = f"{place[0].upper()}{place[1:]} {answer.best.label}" if place else answer.best.label
    rate = f"{text.number(answer.rate.median)} pages/s"
    if answer.second is None:
        has = f"has a rate{_without(answer)}" if answer.without else "was measured"
        return f"{name} gives {rate}; no other pager that fetches {has} to compare it with."
    times = ""
    if answer.baseline is not None and answer.best.ratio is not None:
        times = f", {text.interval(answer.best.ratio)} times {answer.baseline.label}"
    if answer.why is Why.LED:
        among = f" with a rate{_without(answer)}" if answer.without else ""
        return f"{name} is the fastest pager{among}: {rate}{times}."
    if answer.why is Why.KIND_LED:
        kind = f"{place}, {answer.best.pager.kind}" if place else answer.best.pager.kind
        return (
            f"{kind[0].upper()}{kind[1:]} is the fastest kind of pager"
            f"{_without(answer)}: {answer.best.label} has {rate}{times}."
        )
    return (
        f"{name} has the highest rate, {rate}{times}; that it is faster than "
        f"{answer.second.label} is not shown."
    )


def _without(answer: Answer) -> str:
    """Say which pagers have no rate, so that they are in no comparison, and why."""
    said = [f"{row.label} {'failed' if row.failed else 'was starved'}" for row in answer.without]
    return f" ({', '.join(said)})" if said else ""


def _how_sure(answer: Answer, contests: int) -> Iterator[str]:
    """Say in how many rounds it led, and by how much; or what would show anything at all."""
    if answer.second is None:
        return
    if not answer.rounds:
        yield "How sure: no round measured all of them."
        return
    by = f"{text.interval(answer.lead)} times {answer.second.label}, the next"
    rounds = f"{answer.rounds} round{'' if answer.rounds == 1 else 's'}"
    if answer.why is Why.TOO_FEW:
        of = " of so many" if contests > 1 else ""
        yield f"How sure: {by}, but {rounds} can name none{of}; {answer.needed} could."
        return
    led = f"it led in {answer.led} of {rounds}"
    if answer.why is Why.LED:
        yield f"How sure: {led}; {by}."
    elif answer.why is Why.KIND_LED:
        yield (
            f"How sure: in {answer.kind_led} of {rounds} all of that kind were faster than every "
            f"other. Which of them is the fastest is not shown: {by}."
        )
    else:
        yield f"How sure: {led}, as often as chance makes one lead; {by}."


def _other_kind(answer: Answer) -> Iterator[str]:
    if answer.other is not None and answer.over_other is not None:
        yield (
            f"Of another kind, {answer.other.label} has the highest: {answer.best.label} has "
            f"{text.interval(answer.over_other)} times its rate."
        )


def _share(answer: Answer) -> Iterator[str]:
    if answer.reference is not None and answer.share is not None:
        yield (
            f"It keeps {text.interval(answer.share, text.percent)} of the rate of "
            f"{answer.reference.label}, where userspace has no part in the fault."
        )


def _cost(answer: Answer) -> Iterator[str]:
    cpu = _beside_baseline(answer, lambda row: row.cpu_s_per_gib, text.number)
    tail = _beside_baseline(answer, lambda row: row.fault_p99_ns, text.duration)
    costs = [f"{cpu} CPU s for each GiB"] * bool(cpu)
    costs += [f"one fault in a hundred took longer than {tail}"] * bool(tail)
    if costs:
        yield f"What it cost: {'; '.join(costs)}."


def _beside_baseline(
    answer: Answer, value_of: Callable[[Row], float | None], spell: Callable[[float], str]
) -> str:
    """Return a value of the best pager, with the baseline's in brackets; "" where it has none."""
    value = value_of(answer.best)
    if value is None:
        return ""
    theirs = None if answer.baseline is None else value_of(answer.baseline)
    if answer.baseline is None or theirs is None:
        return spell(value)
    return f"{spell(value)} ({answer.baseline.label}: {spell(theirs)})"


def _leaders(panel: Panel, answers: Mapping[int, Answer]) -> Iterator[str]:
    """Say who leads where, in runs of points with the same leader, and where that is unsure."""
    if panel.axis is None or len(answers) < 2:
        return
    runs = [
        (label, list(indices))
        for label, indices in groupby(answers, key=lambda index: answers[index].best.label)
    ]
    if len(runs) == 1:
        told = f"It leads at all {len(answers)} points."
    else:
        spans = [f"{label} at {_span(panel, indices)}" for label, indices in runs]
        told = f"Who leads: {'; '.join(spans)}."
    unsure = [
        panel.spell(index)
        for index, answer in answers.items()
        if answer.second is not None and not answer.sure
    ]
    if len(unsure) == len(answers):
        told += " Nowhere is that told apart from the next."
    elif unsure:
        told += f" Not told apart from the next at {', '.join(unsure)}."
    yield told


def _span(panel: Panel, indices: Sequence[int]) -> str:
    first, last = panel.spell(indices[0]), panel.spell(indices[-1])
    return first if len(indices) == 1 else f"{first} to {last}"


def change_in_words(change: Change) -> str:
    """Return what changed between two results of one host, the worst first."""
    rates = change.rates
    if not rates:
        return "No pager has a rate in both results: there is nothing to compare."
    rows = f"{len(rates)} row{'' if len(rates) == 1 else 's'}"
    if not change.can_show:
        most = max(rate.n for rate in rates)
        needed = f"{change.needed} {'pairs' if change.paired else 'rounds on each side'}"
        return (
            f"No change of rate can be shown: {rows} would take {needed}, and there "
            f"{'is' if most == 1 else 'are'} {most}."
        )
    told = [
        f"{len(found)} of {rows} {'is' if len(found) == 1 else 'are'} {word} after: "
        f"{_listed(found)}"
        for word, found in (("slower", change.slower), ("faster", change.faster))
        if found
    ]
    if not told:
        return f"No change of rate is shown: none of {rows}."
    return f"{'; '.join(told)}."


def _listed(rows: Sequence[ChangedRow]) -> str:
    listed = ", ".join(
        f"{row.label}{f' at {row.where}' if row.where else ''} {text.interval(row.rate)}"
        for row in rows[:_MOST_LISTED]
    )
    more = len(rows) - _MOST_LISTED
    return f"{listed} and {more} more" if more > 0 else listed


def work_of(result: Result) -> str:
    """Return what every trial worked on, and what was swept, in a line."""
    swept = {name for point in result.points for name in point.options}
    given = {
        name: value
        for name, value in _flat(result.options)
        if name not in swept | _NOT_TOLD and value not in (None, False, [], "")
    }
    told = [shown_option(name, value) for name, value in given.items()]
    for name in sorted(swept):
        values = dict.fromkeys(
            shown_option(name, point.options.get(name, result.options.get(name)))
            for point in result.points
        )
        first, *others = values
        known = f"{first.partition('=')[0]}="
        told.append(", ".join([first, *(value.removeprefix(known) for value in others)]))
    return "; ".join(told)


def _flat(options: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", item) for inner, item in _flat(value))
        else:
            yield name, value


def place_of(result: Result) -> str:
    """Return the host in a line: kernel, CPU, CPUs, paging."""
    said = [
        f"Linux {fact(result, 'kernel', 'release') or 'unknown'}",
        str(fact(result, "cpu", "model") or "CPU unknown"),
    ]
    count = fact(result, "cpu", "allowed_count")
    if count is not None:
        said.append(f"{count} CPUs allowed")
    said.append(f"paging {fact(result, 'kvm', 'second_level_paging') or 'unknown'}")
    if fact(result, "cpu", "hypervisor") is True:
        said.append("itself a virtual machine")
    return ", ".join(said)


def fact(result: Result, group: str, name: str) -> object:
    """Return one fact of the host, None where it is not known."""
    found = result.host.get(group)
    return found.get(name) if isinstance(found, dict) else None
