"""The answer in words: which pager, by how much, how sure, what it cost. Plain text, no HTML.

Says no more than the numbers do: two pagers whose ratio's interval holds 1 are not told apart, and
one round has no interval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from kvmpc.judge.resampling import FEWEST_FOR_INTERVAL
from kvmpc.judge.rows import (
    compare_rows,
    paired_ratios,
    usable_trials,
)
from kvmpc.judge.rows import (
    ratio_base as baseline_pager,
)
from kvmpc.judge.rows import (
    share_base as reference_pager,
)
from kvmpc.judge.summary import Summary, summarise_ratios
from kvmpc.result.points import shown_option
from kvmpc.result.records import FAILED, Result
from kvmpc.show.page import text
from kvmpc.show.page.compare import Comparison
from kvmpc.show.page.panels import Panel, of_metric, of_ratio, shown_pagers

__all__ = [
    "Answer",
    "answer_of",
    "fact",
    "failures_of",
    "place_of",
    "scaling_of",
    "verdict_of",
    "work_of",
]


_FEWEST: Final = 3
"""Rounds below which no pager is called the faster one, however alike they are."""


_NOT_TOLD: Final = frozenset({"timed", "checked", "watchdog_s", "question"})
"""Options that are no part of the work, or that are told elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a panel answers: one sentence that leads, and those that qualify it."""

    lead: str
    more: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Best:
    """The fastest pager that fetches at a point, and how it stands to the next one.

    other: the fastest one that works in another way, so not a variant of the same.
    """

    spec: str
    rate: Summary
    second: str | None
    lead: Summary | None
    other: str | None

    @property
    def sure(self) -> bool:
        """Whether it is shown to be faster: few rounds must agree better than many."""
        if self.lead is None or self.lead.n < _FEWEST or self.lead.low <= 1:
            return False
        # The range of three rounds leaves 1 out by chance one time in four.
        return not self.lead.is_range or self.lead.low > self.lead.high / self.lead.low


def answer_of(panel: Panel) -> Answer:
    """Return the answer at the panel's last point, and how it differs at the others."""
    labels = shown_pagers(panel)
    index = next(
        (i for i in reversed(range(len(panel.points))) if _best(panel.points[i]) is not None), None
    )
    if index is None:
        return Answer(lead=_nothing(panel, labels))
    point, place = panel.points[index], panel.at(index)
    best = _best(point)
    assert best is not None
    where = f"{place[0].upper()}{place[1:]} " if place else ""
    name = labels[best.spec]
    opening = f"{where}{name}" if where else name
    if best.second is None:
        lead = f"{opening} gives {text.number(best.rate.median)} pages/s; no other pager that "
        lead += "fetches was measured to compare it with."
    elif best.sure:
        lead = f"{opening} is the fastest pager: {text.number(best.rate.median)} pages/s"
        lead += f"{_times(point, best, labels)}."
    else:
        lead = f"{opening} has the highest rate, {text.number(best.rate.median)} pages/s"
        lead += f"{_times(point, best, labels)}; that it is faster than {labels[best.second]} is "
        lead += "not shown."
    more = [
        *_how_sure(best, labels),
        *_other_kind(point, best, labels),
        *_share(point, best, labels),
        *_cost(point, best, labels),
        *_others(panel, labels),
    ]
    return Answer(lead=lead, more=tuple(more))


def _nothing(panel: Panel, labels: dict[str, str]) -> str:
    trials = [trial for point in panel.points for trial in point.trials]
    if not trials:
        return "No trial was run: there is nothing to answer with."
    rates = [
        f"{labels[spec]} {text.number(found.median)} pages/s {panel.at(index)}".strip()
        for index, point in enumerate(panel.points)
        for spec in labels
        if (found := of_metric("pages_per_s")(point, spec)) is not None
    ]
    if rates:
        return f"No pager that fetches gave a rate. What there is: {', '.join(rates[:4])}."
    if all(trial.status == FAILED for trial in trials if trial.round > 0):
        return "No pager gave a rate: every measured trial failed. The reasons are below."
    return "No pager gave a rate: a pager with a failed trial has none. The reasons are below."


def _best(point: Result) -> _Best | None:
    rates: dict[str, Summary] = {}
    for spec in dict.fromkeys(point.pagers):
        trials = usable_trials(point, spec)
        if trials and trials[0].fetches:
            found = of_metric("pages_per_s")(point, spec)
            if found is not None:
                rates[spec] = found
    if not rates:
        return None
    ordered = sorted(rates, key=lambda spec: -rates[spec].median)
    first, second = ordered[0], ordered[1] if len(ordered) > 1 else None
    lead = None
    if second is not None:
        lead = summarise_ratios(paired_ratios(point, first, second, "pages_per_s"))
    other = next((spec for spec in ordered if _kind(spec) != _kind(first)), None)
    return _Best(spec=first, rate=rates[first], second=second, lead=lead, other=other)


def _kind(spec: str) -> str:
    return spec.split(",")[0]


def _times(point: Result, best: _Best, labels: dict[str, str]) -> str:
    """Return how many times the baseline's rate it is; nothing where it is the baseline."""
    baseline = baseline_pager(point)
    found = of_ratio(fetches=True)(point, best.spec)
    if found is None or baseline is None or baseline == best.spec:
        return ""
    return f", {text.interval(found)} times {labels[baseline]}"


def _how_sure(best: _Best, labels: dict[str, str]) -> list[str]:
    if best.second is None or best.lead is None:
        return []
    second = labels[best.second]
    if best.lead.n == 1:
        return [
            f"How sure: one round only, so there is no interval ({text.ratio(best.lead.median)} "
            f"times {second}, the next); measure with --rounds {FEWEST_FOR_INTERVAL} or more."
        ]
    told = f"{text.interval(best.lead)} times {second}, the next, over {best.lead.n} rounds"
    if best.sure:
        verdict = "the interval lies above 1, so it is the faster one"
    elif best.lead.n < _FEWEST:
        verdict = "two rounds do not show which is the faster one"
    elif best.lead.low > 1:
        verdict = "that is too near to 1 to tell the two apart"
    else:
        verdict = "the interval holds 1, so the two are not told apart"
    few = "" if not best.lead.is_range else "; with so few rounds it is their range"
    return [f"How sure: {told}: {verdict}{few}."]


def _other_kind(point: Result, best: _Best, labels: dict[str, str]) -> list[str]:
    if best.other is None or best.other == best.second:
        return []
    found = summarise_ratios(paired_ratios(point, best.spec, best.other, "pages_per_s"))
    if found is None:
        return []
    return [
        f"Of another kind, {labels[best.other]} is the fastest: {labels[best.spec]} has "
        f"{text.interval(found)} times its rate."
    ]


def _share(point: Result, best: _Best, labels: dict[str, str]) -> list[str]:
    reference = reference_pager(point)
    found = of_ratio(fetches=False)(point, best.spec)
    if found is None or reference is None:
        return []
    return [
        f"It keeps {text.interval(found, text.percent)} of the rate of {labels[reference]}, where "
        "userspace has no part in the fault."
    ]


def _cost(point: Result, best: _Best, labels: dict[str, str]) -> list[str]:
    baseline = baseline_pager(point)

    def told(name: str, spell: Callable[[float], str]) -> str:
        mine = of_metric(name)(point, best.spec)
        if mine is None:
            return ""
        theirs = None
        if baseline is not None and baseline != best.spec:
            theirs = of_metric(name)(point, baseline)
        beside = f" ({labels[baseline]}: {spell(theirs.median)})" if baseline and theirs else ""
        return f"{spell(mine.median)}{beside}"

    cpu, tail = told("cpu_s_per_gib", text.number), told("fault_p99_ns", text.duration)
    costs = [f"{cpu} CPU s for each GiB"] * bool(cpu)
    costs += [f"one fault in a hundred took longer than {tail}"] * bool(tail)
    return [f"What it cost: {'; '.join(costs)}."] if costs else []


def _others(panel: Panel, labels: dict[str, str]) -> list[str]:
    """Say who leads where, in runs of points with the same leader, and where that is unsure."""
    found = [(i, best) for i, p in enumerate(panel.points) if (best := _best(p)) is not None]
    if panel.axis is None or len(found) < 2:
        return []
    runs: list[tuple[str, list[int]]] = []
    for number, best in found:
        if not runs or runs[-1][0] != best.spec:
            runs.append((best.spec, []))
        runs[-1][1].append(number)
    if len(runs) == 1:
        told = f"It leads at all {len(found)} points."
    else:
        spans = [f"{labels[spec]} at {_span(panel, numbers)}" for spec, numbers in runs]
        told = f"Who leads: {'; '.join(spans)}."
    unsure = [panel.spell(number) for number, best in found if best.second and not best.sure]
    if len(unsure) == len(found):
        told += " Nowhere is that told apart from the next."
    elif unsure:
        told += f" Not told apart from the next at {', '.join(unsure)}."
    return [told]


def _span(panel: Panel, numbers: Sequence[int]) -> str:
    first, last = panel.spell(numbers[0]), panel.spell(numbers[-1])
    return first if len(numbers) == 1 else f"{first} to {last}"


def scaling_of(panel: Panel) -> list[tuple[str, ...]]:
    """Return how each pager scales: label, first rate, peak and where, last rate, last over first.

    Empty where the panel has no axis.
    """
    if panel.axis is None:
        return []
    rows: list[tuple[str, ...]] = []
    for spec, label in shown_pagers(panel).items():
        rates = [
            (found.median, index)
            for index, point in enumerate(panel.points)
            if (found := of_metric("pages_per_s")(point, spec)) is not None
        ]
        if len(rates) > 1:
            peak, where = max(rates)
            (first, _), (last, _) = rates[0], rates[-1]
            rows.append(
                (
                    label,
                    text.number(first),
                    text.number(peak),
                    panel.spell(where),
                    text.number(last),
                    text.percent(last / peak),
                    text.ratio(last / first),
                )
            )
    return rows


def failures_of(panel: Panel) -> list[tuple[str, str, str, str]]:
    """Return (where, pager, failed or skipped, reason) of what gave no number."""
    rows = []
    labels = shown_pagers(panel)
    for index, point in enumerate(panel.points):
        place = panel.spell(index) or panel.title
        for row in compare_rows(point):
            total = row.ok_trials + row.failed_trials
            rows += [
                (place, row.label, f"failed ({row.failed_trials} of {total} trials)", error)
                for error in row.errors
            ]
        rows += [
            (place, labels.get(skip.pager, skip.pager), "skipped", skip.reason)
            for skip in point.skipped
        ]
    return rows


def verdict_of(found: Comparison) -> str:
    """Return what changed between two results of one host, the worst first."""
    rates = [row for row in found.rows if "pages_per_s" in row.ratios]
    if not rates:
        return "No pager has a rate in both results: there is nothing to compare."
    if all(row.ratios["pages_per_s"].n < 2 for row in rates):
        return "One round on a side has no interval: nothing can be said of a change."
    changed = sorted(
        (row for row in rates if row.changed), key=lambda row: row.ratios["pages_per_s"].median
    )
    if not changed:
        return f"No change of rate is shown: all {len(rates)} intervals hold 1."
    slower = [row for row in changed if row.ratios["pages_per_s"].median < 1]
    faster = [row for row in reversed(changed) if row not in slower]
    told = []
    for word, rows in (("slower", slower), ("faster", faster)):
        if rows:
            listed = ", ".join(
                f"{' '.join(filter(None, [row.label, row.where and f'at {row.where}']))} "
                f"{text.interval(row.ratios['pages_per_s'])}"
                for row in rows[:4]
            )
            more = f" and {len(rows) - 4} more" if len(rows) > 4 else ""
            told.append(f"{len(rows)} of {len(rates)} rows became {word}: {listed}{more}")
    return f"{'; '.join(told)}."


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
