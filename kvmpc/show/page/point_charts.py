"""Charts of what lies within one point: fault times, their parts, a trial's course, fairness."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final

from kvmpc.judge.rows import usable_trials
from kvmpc.judge.summary import median
from kvmpc.result.histogram import cycles_to_ns
from kvmpc.result.metrics import FULL_SPEED, TO_95_SPEED, TO_HALF_SPEED
from kvmpc.result.records import Result, TrialResult
from kvmpc.show.page import text
from kvmpc.show.page.chart import (
    ChartLine,
    CurvesChart,
    Dot,
    PartsChart,
    Scale,
    SpansChart,
    Table,
)
from kvmpc.show.page.panels import Panel, metrics_by_round

__all__ = ["fairness", "latency", "split", "spread_of", "survival", "timeline"]

_QUANTILES: Final = (0.1, 0.5, 0.9, 0.99, 0.999)
_SPREAD: Final = (0, 0.1, 0.9, 1)
_PARTS: Final = ("noticed", "fetch", "install", "back", "install_back")

_Pair = tuple[float | None, float | None]


def latency(panel: Panel, pagers: Mapping[str, str]) -> list[CurvesChart]:
    """Return the fault times' distribution at the first and at the last point of the panel."""
    indices = dict.fromkeys((0, len(panel.points) - 1))
    return [_latency(panel, pagers, index) for index in indices]


def _latency(panel: Panel, pagers: Mapping[str, str], index: int) -> CurvesChart:
    buckets = _fault_times(panel.points[index], pagers)
    return CurvesChart(
        key=f"latency-{index}" if index else "latency",
        title=panel.titled("Distribution of fault times", index),
        x=Scale(label="time of a touch, by the guest's clock", spell=text.duration, log=True),
        y=Scale(label="share of touches that took longer", spell=text.percent, log=True),
        note="Survival: the share of touches that took longer than x; both scales are "
        "logarithmic, so the tail shows. Farther left is better. Of all measured rounds.",
        lines=tuple(
            ChartLine(key=spec, label=pagers[spec], dots=tuple(survival(times)))
            for spec, times in buckets.items()
        ),
        absent="Not in this result: no fault was timed (with overlap most touches are no faults).",
        table=Table(
            headers=("pager", "p10", "p50", "p90", "p99", "p99.9", "longest", "touches"),
            rows=tuple(
                (
                    pagers[spec],
                    *(text.duration(_quantile(times, q)) for q in _QUANTILES),
                    text.duration(times[-1][0]),
                    f"{sum(touches for _, touches in times):,}",
                )
                for spec, times in buckets.items()
            ),
        ),
    )


def _fault_times(point: Result, pagers: Iterable[str]) -> dict[str, list[tuple[float, int]]]:
    """Return the buckets of each pager whose faults were timed."""
    if point.options.get("overlap"):
        return {}
    buckets = {spec: _buckets_ns(usable_trials(point, spec)) for spec in pagers}
    return {spec: times for spec, times in buckets.items() if times}


def _buckets_ns(trials: Sequence[TrialResult]) -> list[tuple[float, int]]:
    """Return (highest time of a bucket in ns, touches) of all trials together, ascending."""
    summed: dict[tuple[int, float], int] = {}
    for trial in trials:
        if trial.guest_tsc_khz:
            for _, highest, touches in trial.histogram_cycles:
                key = highest, trial.guest_tsc_khz
                summed[key] = summed.get(key, 0) + touches
    found = [(cycles_to_ns(high + 1, khz), count) for (high, khz), count in summed.items()]
    return sorted(found)


def survival(buckets: Sequence[tuple[float, int]]) -> list[Dot]:
    """Return the share of touches that took longer than each bucket's end, as far as one did."""
    total = sum(count for _, count in buckets)
    done = accumulate(count for _, count in buckets)
    shares = [(ns, (total - so_far) / total) for (ns, _), so_far in zip(buckets, done, strict=True)]
    # A log scale has no zero: the last bucket ends at the share of one touch.
    dots = [(ns, share if share > 0 else 1 / total) for ns, share in shares]
    if len(dots) == 1:
        dots.insert(0, (dots[0][0] * 15 / 16, 1.0))
    return [Dot.exact(ns, share) for ns, share in dots]


def _quantile(buckets: Sequence[tuple[float, int]], quantile: float) -> float:
    rank = max(1.0, quantile * sum(count for _, count in buckets))
    for ns, count in buckets:
        rank -= count
        if rank <= 0:
            return ns
    return buckets[-1][0]


def split(panel: Panel, pagers: Mapping[str, str]) -> PartsChart:
    """Return where a fault's time goes at the last point, by `_PARTS`."""
    medians = _split_medians(panel.points[-1], pagers)
    return PartsChart(
        key="split",
        title=panel.titled("Where a fault's time goes"),
        y=Scale(label="time, from p50 (marker) to p99 (end of the bar)", spell=text.duration),
        note="noticed: from the guest's touch until the page's number is with the resolver; fetch; "
        "install; back: until the guest goes on. uffd's vCPU is woken before the install returns, "
        "so it has only both together, install+back. Quantiles over pages, their medians over "
        "rounds: medians of parts do not add up to the median of the whole, and are no means. A "
        "part that cannot be had honestly for a pager is absent.",
        lines=tuple(line for part in _PARTS for line in _part_line(part, medians)),
        absent="Not in this result: kvmpc compare --split gives it.",
        table=Table(
            headers=("pager", *(f"{_shown(part)} {q}" for part in _PARTS for q in ("p50", "p99"))),
            rows=tuple(
                (pagers[spec], *(text.duration(each) for pair in parts.values() for each in pair))
                for spec, parts in medians.items()
            ),
        ),
    )


def _split_medians(point: Result, pagers: Iterable[str]) -> dict[str, dict[str, _Pair]]:
    """Return p50 and p99 of each part in ns, of each pager that was split."""

    def middle(spec: str, metric: str) -> float | None:
        return median(metrics_by_round(point, spec, metric).values())

    medians = {
        spec: {
            part: (middle(spec, f"{part}_p50_ns"), middle(spec, f"{part}_p99_ns"))
            for part in _PARTS
        }
        for spec in pagers
    }
    nothing = (None, None)
    return {
        spec: parts
        for spec, parts in medians.items()
        if any(pair != nothing for pair in parts.values())
    }


def _part_line(part: str, medians: Mapping[str, Mapping[str, _Pair]]) -> Iterator[ChartLine]:
    """Yield the line of a part from its p50 to its p99, if any pager has it."""
    pairs = [(row, *parts[part]) for row, parts in enumerate(medians.values())]
    dots = tuple(
        Dot(x=row, y=p50, low=p50, high=p50 if p99 is None else p99)
        for row, p50, p99 in pairs
        if p50 is not None
    )
    if dots:
        yield ChartLine(key=f"part-{part}", label=_shown(part), dots=dots)


def _shown(part: str) -> str:
    return part.replace("_", "+")


def fairness(panel: Panel, pagers: Mapping[str, str]) -> SpansChart:
    """Return how far apart the vCPUs of a trial end, at the last point."""
    spreads = {spec: found for spec in pagers if (found := spread_of(panel.points[-1], spec))}
    return SpansChart(
        key="fairness",
        title=panel.titled("Fairness between vCPUs"),
        y=Scale(label="a vCPU's time over the median vCPU's of its trial", spell=text.ratio),
        note="Every vCPU has the same work: 1 is what all would have if all were served alike. "
        "Each trial's fastest, 10 %, median, 90 % and slowest vCPU; of each, the median over "
        "rounds. Thin: all vCPUs; thick: the middle 80 %.",
        lines=tuple(
            ChartLine(
                key=spec, label=pagers[spec], dots=tuple(Dot.exact(0, value) for value in spread)
            )
            for spec, spread in spreads.items()
        ),
        absent="Not in this result: it takes two vCPUs and a sound trial.",
        table=Table(
            headers=("pager", "fastest", "p10", "median", "p90", "slowest"),
            rows=tuple(
                (pagers[spec], *map(text.ratio, spread)) for spec, spread in spreads.items()
            ),
        ),
    )


def spread_of(point: Result, spec: str) -> tuple[float, ...]:
    """Return the fastest, p10, median, p90 and slowest vCPU's time over its trial's median.

    Each is the median over usable trials; empty where none has two vCPUs.
    """
    trials = []
    for trial in usable_trials(point, spec):
        starts, ends = trial.per_vcpu.get("start_ns", ()), trial.per_vcpu.get("end_ns", ())
        times = sorted(end - start for start, end in zip(starts, ends, strict=False))
        middle = median(times)
        if len(times) > 1 and middle and times[0] > 0:
            fastest, p10, p90, slowest = (times[round(q * (len(times) - 1))] for q in _SPREAD)
            trials.append([at / middle for at in (fastest, p10, middle, p90, slowest)])
    return tuple(median(of_all) or 0.0 for of_all in zip(*trials, strict=True))


def timeline(panel: Panel, pagers: Mapping[str, str]) -> CurvesChart:
    """Return guest speed against time of each pager's median trial, at the last point.

    As a share of the guest's full speed where every one of those trials knows it.
    """
    point = panel.points[-1]
    trials = _median_trials(point, pagers)
    shared = all(FULL_SPEED.key in trial.metrics for trial in trials.values())
    courses = {
        spec: dots
        for spec, trial in trials.items()
        if (dots := _course(trial, trial.metrics[FULL_SPEED.key] if shared else None))
    }
    full = (
        " Full speed is that of further passes over memory that is there; a vCPU that has all its "
        "pages counts as at full speed. The scale is logarithmic."
    )
    return CurvesChart(
        key="timeline",
        title=panel.titled("Guest speed against time"),
        x=Scale(label="time from the gate", spell=text.duration),
        y=Scale(label="share of full speed", spell=text.percent, log=True)
        if shared
        else Scale(label="touches per second"),
        note="What a user of the guest feels while memory arrives, in each pager's median trial."
        + full * shared,
        lines=tuple(
            ChartLine(key=spec, label=pagers[spec], dots=dots) for spec, dots in courses.items()
        ),
        absent="Not in this result: kvmpc compare --passes 101 gives it; --timeline without a full "
        "speed to compare with.",
        table=Table(
            headers=(
                "pager",
                "all pages after",
                "half speed after",
                "95% after",
                "full speed, touches/s",
            ),
            rows=tuple(
                (pagers[spec], text.duration(trials[spec].elapsed_ns), *_speed_cells(point, spec))
                for spec in courses
            ),
        ),
    )


def _speed_cells(point: Result, spec: str) -> Iterator[str]:
    """Yield when a pager's guest had half and 95 % of its full speed, and that speed: medians."""
    for name, spell in (
        (TO_HALF_SPEED.key, text.duration),
        (TO_95_SPEED.key, text.duration),
        (FULL_SPEED.key, text.number),
    ):
        yield spell(median(metrics_by_round(point, spec, name).values()))


def _median_trials(point: Result, pagers: Iterable[str]) -> dict[str, TrialResult]:
    """Return of each pager that was sampled the trial of the median elapsed time."""
    trials = {spec: _median_sampled(usable_trials(point, spec)) for spec in pagers}
    return {spec: trial for spec, trial in trials.items() if trial is not None}


def _median_sampled(trials: Sequence[TrialResult]) -> TrialResult | None:
    """Return the trial of the median elapsed time among those that were sampled."""
    sampled = [trial for trial in trials if trial.timeline and trial.elapsed_ns]
    sampled.sort(key=lambda trial: trial.elapsed_ns or 0)
    return sampled[len(sampled) // 2] if sampled else None


def _course(trial: TrialResult, full_per_s: float | None) -> tuple[Dot, ...]:
    """Return the guest's speed between samples up to its last page; a share of `full_per_s` if any.

    A share counts vCPUs that have all their pages as at full speed, though they wait here for the
    others, and ends at 1. Intervals without a touch have no place on a logarithmic scale.
    """
    sampled = trial.timeline
    ends = trial.per_vcpu.get("end_ns", ())
    last = trial.elapsed_ns or 0
    times, touches = [0, *sampled.get("ns", ())], [0, *sampled.get("touches", ())]
    found = []
    for begin, end, before, after in zip(times, times[1:], touches, touches[1:], strict=False):
        if end > last or end <= begin:
            continue
        speed = (after - before) * 1e9 / (end - begin)
        if full_per_s is not None:
            ended = sum(at <= begin for at in ends) / len(ends) if ends else 0.0
            speed = min(1.0, speed / full_per_s + ended)
        if speed > 0 or full_per_s is None:
            found.append((float(end), speed))
    if found and full_per_s is not None:
        found.append((float(last), 1.0))
    return tuple(Dot.exact(*dot) for dot in found)
