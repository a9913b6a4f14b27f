"""Which charts a panel has, in which order, and what each says: data, nothing is drawn here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from kvmpc.judge.answer import answer_of
from kvmpc.result.metrics import CPU, FAULT_P50, FAULT_P99, INSTALL, RATE
from kvmpc.show.page import text
from kvmpc.show.page.chart import (
    Chart,
    ChartLine,
    LinesChart,
    RowsChart,
    Scale,
    far_apart,
)
from kvmpc.show.page.pagers import family_of, is_none, readers_of
from kvmpc.show.page.panels import (
    Panel,
    SummaryOf,
    dot_of,
    of_metric,
    of_ratio,
    panel_chart,
    shown_pagers,
)
from kvmpc.show.page.point_charts import fairness, latency, split, timeline
from kvmpc.show.page.profile_charts import NO_PROFILE, locks, of_spin, percent, too_few

__all__ = ["charts_of", "leaders", "readers_families"]

_MOST_READER_LINES: Final = 6

_INTERVAL: Final = "Dots are medians over rounds."


def charts_of(panel: Panel) -> list[Chart]:
    """Return every chart of `panel`, also those that its result has no data for."""
    pagers = shown_pagers(panel)
    families = readers_families(pagers)
    # With many reader counts the charts against vCPUs would be all readers: there the fewest
    # stand for their family, with whoever leads; the others have charts of their own.
    hidden = {
        spec
        for family in families.values()
        for spec in list(family.values())[1:]
        if panel.axis is not None
    } - leaders(panel)
    shown = {spec: label for spec, label in pagers.items() if spec not in hidden}
    found: list[Chart] = [_main(panel, shown, number) for number in _MAIN]
    if hidden:
        more = "Of pagers that differ in readers only, those with the fewest, and whoever leads at "
        more += "a point; the others are in the charts against readers."
        found[0] = replace(found[0], note=f"{found[0].note} {more}")
    if families:
        found += [_readers(panel, families, number) for number in _READERS]
    return [
        *found,
        locks(panel, shown),
        *latency(panel, shown),
        split(panel, shown),
        timeline(panel, shown),
        fairness(panel, shown),
    ]


def leaders(panel: Panel) -> set[str]:
    """Return the pagers that the page says are the fastest, or have the highest rate, somewhere."""
    return {
        answer.best.spec for point in panel.points if (answer := answer_of(point, 1)) is not None
    }


def readers_families(pagers: Mapping[str, str]) -> dict[str, dict[int, str]]:
    """Return pagers that differ in their number of readers only: readers -> spec, by family.

    A family is named by its label without the readers; one with a single number is left out.
    """
    found: dict[str, dict[int, str]] = {}
    for spec, label in pagers.items():
        readers = readers_of(spec)
        if readers is not None:
            found.setdefault(family_of(label), {})[readers] = spec
    return {
        family: dict(sorted(specs.items())) for family, specs in found.items() if len(specs) > 1
    }


@dataclass(frozen=True, kw_only=True)
class _Number:
    """A chart of one number a pager, against the panel's axis or against readers.

    absent: what would give the number where no trial has it. log: whether its scale may be.
    """

    key: str
    title: str
    y_label: str
    note: str
    summary: SummaryOf
    spell: Callable[[float], str]
    absent: str
    log: bool = True


_NO_FAULTS: Final = (
    "no touch was timed, or all vCPUs touched the same memory (overlap), where most touches are "
    "no faults."
)

_MAIN: Final = (
    _Number(
        key="rate",
        title="Rate",
        y_label="pages/s",
        note=f"4 KiB pages that became present in a second, of all vCPUs together. {_INTERVAL}",
        summary=of_metric(RATE.key),
        spell=text.short,
        absent="no trial gave a rate.",
    ),
    _Number(
        key="share",
        title="Share of none",
        y_label="share of none",
        note=f"How much of the kernel's own fault rate is left, in the same round. {_INTERVAL}",
        summary=of_ratio(fetches=False),
        spell=text.percent,
        absent="add the pager none to the comparison.",
    ),
    _Number(
        key="ratio",
        title="Ratio to the first pager that fetches",
        y_label="ratio of rates",
        note=f"Above 1 is faster than the baseline, taken within each round. {_INTERVAL}",
        summary=of_ratio(fetches=True),
        spell=text.ratio,
        absent="it needs a pager that fetches, and all its trials sound.",
    ),
    _Number(
        key="install",
        title="Install time, mean",
        y_label="mean time per page",
        note="Time in the system call that installs a page, the mean over a trial's pages, from "
        "the loops' own cycle sums: a few that took long raise it far above their median (install "
        "p50 in Where a fault's time goes). For uffd it holds the wake-up of the vCPU. It grows "
        f"where installers wait for each other, or for a CPU. {_INTERVAL}",
        summary=of_metric(INSTALL.key),
        spell=text.duration,
        absent="no pager here installs pages itself.",
    ),
    _Number(
        key="cpus",
        title="CPU use",
        y_label="CPUs kept busy",
        note="CPU time of vCPU threads and readers, by the time the trial took. A rate that stands "
        "still while this grows is waiting that burns CPU.",
        summary=of_metric("cpus_busy"),
        spell=text.short,
        absent="no trial has CPU times.",
    ),
    _Number(
        key="cpu",
        title="CPU time per GiB",
        y_label="CPU s per GiB",
        note="CPU time of vCPU threads (the guest's included) and readers, for each GiB supplied: "
        "what the memory cost.",
        summary=of_metric(CPU.key),
        spell=text.short,
        absent="no trial has CPU times.",
    ),
    _Number(
        key="spin",
        title="Spin-lock share",
        y_label="of CPU time",
        note="CPU time spent waiting for a spin lock, sampled in rounds of their own that never "
        "enter a rate. Bars are 95 % intervals (Wilson's, of the samples); above, they reach up to "
        "what a clock (cpu-clock) cannot tell from it: locks held or waited for with interrupts "
        "off, a run queue's while threads are switched among them.",
        summary=of_spin,
        spell=percent,
        absent=NO_PROFILE,
        log=False,
    ),
    _Number(
        key="p50",
        title="Fault time, median",
        y_label="fault p50",
        note="How long a touch of a missing page took, by the guest's own clock.",
        summary=of_metric(FAULT_P50.key),
        spell=text.duration,
        absent=_NO_FAULTS,
    ),
    _Number(
        key="p99",
        title="Fault time, 99th percentile",
        y_label="fault p99",
        note="One touch in a hundred took longer.",
        summary=of_metric(FAULT_P99.key),
        spell=text.duration,
        absent=_NO_FAULTS,
    ),
)

_READERS: Final = tuple(
    number for number in _MAIN if number.key in ("rate", "install", "cpus", "spin")
)


def _main(panel: Panel, pagers: Mapping[str, str], number: _Number) -> LinesChart | RowsChart:
    chart = panel_chart(
        panel,
        pagers,
        number.summary,
        key=number.key,
        title=f"{number.title} against {panel.axis.label}" if panel.axis else number.title,
        y=Scale(label=number.y_label, spell=number.spell, log=number.log),
        note=number.note,
        one=number.key == "ratio",
        absent=f"Not in this result: {number.absent}",
    )
    return _of_samples(chart, too_few(panel, pagers)) if number.key == "spin" else chart


def _of_samples(chart: LinesChart | RowsChart, short: str) -> LinesChart | RowsChart:
    """Return a chart of what was sampled; `short` says who has too few samples, if anybody has."""
    if isinstance(chart, RowsChart):
        chart = replace(chart, counted="samples")
    if short:
        chart = replace(chart, note=f"{chart.note} {short}", absent=f"Not in this result: {short}")
    return chart


def _readers(
    panel: Panel,
    families: Mapping[str, Mapping[int, str]],
    number: _Number,
) -> LinesChart:
    """Return a chart against readers: a line for each family at each point, but not too many."""
    lines = []
    several = [
        index
        for index, point in enumerate(panel.points)
        if any(len(set(specs.values()) & set(point.pagers)) > 1 for specs in families.values())
    ]
    chosen = spaced(several, max(1, _MOST_READER_LINES // len(families)))
    for family, specs in families.items():
        for index in chosen:
            found = {
                readers: summary
                for readers, spec in specs.items()
                if (summary := number.summary(panel.points[index], spec)) is not None
            }
            if len(found) > 1:
                place = panel.at(index)
                lines.append(
                    ChartLine(
                        key=f"{family}\0{index}" if place else next(iter(specs.values())),
                        label=f"{family} {place}".strip(),
                        dots=tuple(dot_of(r, s) for r, s in found.items()),
                    )
                )
    if lines and len(chosen) == 1:
        lines += _without_readers(panel, chosen[0], number, lines)
    return LinesChart(
        key=f"readers-{number.key}",
        title=f"{number.title} against readers",
        x=Scale(label="readers on each userfaultfd", spell=lambda value: f"{value:.0f}", log=True),
        y=Scale(label=number.y_label, spell=number.spell, log=number.log and far_apart(lines)),
        note=number.note,
        lines=tuple(lines),
        absent=f"Not in this result: {number.absent}",
    )


def _without_readers(
    panel: Panel, index: int, number: _Number, lines: Sequence[ChartLine]
) -> list[ChartLine]:
    """Return the pagers that need no reader as level lines, for the eye to compare with."""
    xs = [found.x for line in lines for found in line.dots]
    found = []
    for spec, label in shown_pagers(panel).items():
        if is_none(spec) or readers_of(spec) is not None:
            continue
        summary = number.summary(panel.points[index], spec)
        if summary is not None:
            dots = tuple(dot_of(x, summary) for x in (min(xs), max(xs)))
            name = f"{label} {panel.at(index)}, no readers".replace(" ,", ",")
            found.append(ChartLine(key=spec, label=name, dots=dots))
    return found


def spaced(items: Sequence[int], most: int) -> list[int]:
    """Return at most so many of `items`, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    if most == 1:
        return [items[-1]]
    return [items[round(n * (len(items) - 1) / (most - 1))] for n in range(most)]
