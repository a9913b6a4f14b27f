"""Charts of what lies within one point: fault times, their parts, a trial's course, fairness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Final

from kvmpc.judge.rows import usable_trials
from kvmpc.judge.summary import median
from kvmpc.result.histogram import cycles_to_ns
from kvmpc.result.records import Result, TrialResult
from kvmpc.show.page import text
from kvmpc.show.page.panels import Chart, Dot, Line, Panel, metrics_by_round

__all__ = ["fairness", "latency", "split", "spreads_of", "survival", "timeline"]

_QUANTILES: Final = (0.1, 0.5, 0.9, 0.99, 0.999)
_FULL: Final = "full_speed_touches_per_s"
_PARTS: Final = ("noticed", "fetch", "install", "back", "install_back")


def latency(panel: Panel, pagers: Mapping[str, str]) -> list[Chart]:
    """Return the fault times' distribution at the first and at the last point of the panel."""
    indices = dict.fromkeys((0, len(panel.points) - 1))
    return [_latency(panel, pagers, index) for index in indices]


def _latency(panel: Panel, pagers: Mapping[str, str], index: int) -> Chart:
    point = panel.points[index]
    lines, rows = [], []
    for spec, label in pagers.items():
        buckets = _buckets_ns(usable_trials(point, spec))
        if not buckets or point.options.get("overlap"):
            continue
        lines.append(Line(key=spec, label=label, dots=tuple(survival(buckets))))
        cells = [text.duration(_quantile(buckets, q)) for q in _QUANTILES]
        touches = sum(count for _, count in buckets)
        rows.append((label, *cells, text.duration(buckets[-1][0]), f"{touches:,}"))
    place = panel.at(index)
    return Chart(
        key=f"latency-{index}" if index else "latency",
        title=f"Distribution of fault times {place}".strip(),
        kind="curves",
        y_label="share of touches that took longer",
        x_label="time of a touch, by the guest's clock",
        note="Survival: the share of touches that took longer than x; both scales are "
        "logarithmic, so the tail shows. Farther left is better. Of all measured rounds.",
        lines=tuple(lines),
        spell=text.percent,
        spell_x=text.duration,
        x_log=True,
        y_log=True,
        absent=""
        if lines
        else "Not in this result: no fault was timed (with overlap most touches are no faults).",
        table=(("pager", "p10", "p50", "p90", "p99", "p99.9", "longest", "touches"), *rows),
    )


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
    return [Dot(x=ns, y=share, low=share, high=share) for ns, share in dots]


def _quantile(buckets: Sequence[tuple[float, int]], quantile: float) -> float:
    rank = max(1.0, quantile * sum(count for _, count in buckets))
    for ns, count in buckets:
        rank -= count
        if rank <= 0:
            return ns
    return buckets[-1][0]


def split(panel: Panel, pagers: Mapping[str, str]) -> Chart:
    """Return where a fault's time goes at the last point, by `_PARTS`."""
    point = panel.points[-1]
    lines = []
    table: list[tuple[str, ...]] = [
        ("pager", *(f"{_part(part)} {q}" for part in _PARTS for q in ("p50", "p99")))
    ]
    medians = {
        (spec, part, q): median(metrics_by_round(point, spec, f"{part}_{q}_ns").values())
        for spec in pagers
        for part in _PARTS
        for q in ("p50", "p99")
    }
    for part in _PARTS:
        dots = [
            Dot(x=row, y=found, low=found, high=high if high is not None else found)
            for row, spec in enumerate(pagers)
            if (found := medians[spec, part, "p50"]) is not None
            for high in [medians[spec, part, "p99"]]
        ]
        if dots:
            lines.append(Line(key=f"part-{part}", label=_part(part), dots=tuple(dots)))
    for spec, label in pagers.items():
        cells = [medians[spec, part, q] for part in _PARTS for q in ("p50", "p99")]
        if any(cell is not None for cell in cells):
            table.append((label, *map(text.duration, cells)))
    return Chart(
        key="split",
        title=f"Where a fault's time goes {panel.at(len(panel.points) - 1)}".strip(),
        kind="parts",
        y_label="time, from p50 (marker) to p99 (end of the bar)",
        x_label=", ".join(pagers.values()),
        note="noticed: from the guest's touch until the page's number is with the resolver; fetch; "
        "install; back: until the guest goes on. uffd's vCPU is woken before the install returns, "
        "so it has only both together, install+back. Medians of parts do not add up to the median "
        "of the whole. A part that cannot be had honestly for a pager is absent.",
        lines=tuple(lines),
        spell=text.duration,
        absent="" if lines else "Not in this result: kvmpc compare --split gives it.",
        table=tuple(table),
    )


def _part(name: str) -> str:
    return name.replace("_", "+")


def fairness(panel: Panel, pagers: Mapping[str, str]) -> Chart:
    """Return how far apart the vCPUs of a trial end, at the last point."""
    point = panel.points[-1]
    lines, rows = [], []
    for spec, label in pagers.items():
        spread, slowest = spreads_of(point, spec)
        if len(spread) < 2 or slowest is None:
            continue
        at = [spread[round(q * (len(spread) - 1))] for q in (0, 0.1, 0.5, 0.9, 1)]
        dots = tuple(Dot(x=0, y=value, low=value, high=value, n=len(spread)) for value in at)
        lines.append(Line(key=spec, label=label, dots=dots))
        rows.append((label, *map(text.ratio, at), text.ratio(slowest)))
    return Chart(
        key="fairness",
        title=f"Fairness between vCPUs {panel.at(len(panel.points) - 1)}".strip(),
        kind="spans",
        y_label="a vCPU's time over the median vCPU's of its trial",
        note="Every vCPU has the same work: 1 is what all would have if all were served alike. "
        "Thin: all vCPUs; thick: the middle 80 %.",
        lines=tuple(lines),
        spell=text.ratio,
        one=True,
        absent="" if lines else "Not in this result: it takes two vCPUs and a sound trial.",
        table=(
            ("pager", "fastest", "p10", "median", "p90", "slowest", "slowest over fastest"),
            *rows,
        ),
    )


def spreads_of(point: Result, spec: str) -> tuple[list[float], float | None]:
    """Return each vCPU's time over its trial's median, sorted, and slowest over fastest.

    Of all usable trials; the second is the median over trials.
    """
    spread: list[float] = []
    slowest = []
    for trial in usable_trials(point, spec):
        starts, ends = trial.per_vcpu.get("start_ns", ()), trial.per_vcpu.get("end_ns", ())
        times = sorted(end - start for start, end in zip(starts, ends, strict=False))
        middle = median(times)
        if len(times) > 1 and middle and times[0] > 0:
            spread += [time / middle for time in times]
            slowest.append(times[-1] / times[0])
    return sorted(spread), median(slowest)


def timeline(panel: Panel, pagers: Mapping[str, str]) -> Chart:
    """Return guest speed against time of each pager's median trial, at the last point.

    As a share of the guest's full speed where every one of those trials knows it.
    """
    point = panel.points[-1]
    chosen = {
        spec: trial
        for spec in pagers
        if (trial := _median_sampled(usable_trials(point, spec))) is not None
    }
    shared = all(_FULL in trial.metrics for trial in chosen.values())
    lines, rows = [], []
    for spec, trial in chosen.items():
        course = _course(trial, trial.metrics[_FULL] if shared else None)
        if not course:
            continue
        lines.append(Line(key=spec, label=pagers[spec], dots=course))
        half, most, full = (
            median(metrics_by_round(point, spec, name).values())
            for name in ("to_half_speed_ns", "to_95_speed_ns", _FULL)
        )
        elapsed = text.duration(trial.elapsed_ns)
        times = map(text.duration, (half, most))
        rows.append((pagers[spec], elapsed, *times, text.number(full)))
    return Chart(
        key="timeline",
        title=f"Guest speed against time {panel.at(len(panel.points) - 1)}".strip(),
        kind="curves",
        y_label="share of full speed" if shared else "touches per second",
        x_label="time from the gate",
        note="What a user of the guest feels while memory arrives, in each pager's median trial."
        + (
            " Full speed is that of further passes over memory that is there; a vCPU that has all "
            "its pages counts as at full speed. The scale is logarithmic."
            if shared
            else ""
        ),
        lines=tuple(lines),
        spell=text.percent if shared else text.short,
        spell_x=text.duration,
        y_log=shared,
        absent=""
        if lines
        else "Not in this result: kvmpc compare --passes 101 gives it; --timeline without a full "
        "speed to compare with.",
        table=(
            ("pager", "all pages after", "half speed after", "95% after", "full speed, touches/s"),
            *rows,
        ),
    )


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
    return tuple(Dot(x=x, y=y, low=y, high=y) for x, y in found)
