"""Published curves, to lay a host's own beside: shapes, never targets.

Each is divided by its own first point, as are the lines of the result: what is compared is where
a curve bends, not how high it stands. Figures are thousand pages/s of all vCPUs together unless a
comment says otherwise; only their course is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from kvmpc.result.metrics import RATE
from kvmpc.show.page import text
from kvmpc.show.page.chart import ChartLine, Dot, LinesChart, Scale
from kvmpc.show.page.panels import Panel, against_axis, of_metric, shown_pagers

__all__ = ["SHAPES", "Publication", "shape_chart"]


@dataclass(frozen=True, kw_only=True)
class Publication:
    """Curves of one publication: name -> (vCPUs, rate) pairs, and where they were printed.

    peaks: name -> vCPUs at which a curve is said to peak, where its height there is not known.
    """

    source: str
    curves: dict[str, tuple[tuple[int, float], ...]]
    peaks: Mapping[str, int] = field(default_factory=dict)


_DOUBLED: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def _doubled(*rates: float) -> tuple[tuple[int, float], ...]:
    return tuple(zip(_DOUBLED, rates, strict=True))


def _each(pairs: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """Return rates of a single vCPU as rates of all."""
    return tuple((vcpus, vcpus * rate) for vcpus, rate in pairs)


SHAPES: Final[dict[str, Publication]] = {
    "talk-2018": Publication(
        source="KVM Forum 2018, Demand Paging Performance with 160 vCPUs: a 4-socket host, 4 GiB "
        "per vCPU, one handler thread. Only its ends are known in numbers (about 220 MB/s at 1 "
        "vCPU, about 30 % more at 160); its peak is at 4 vCPUs, how high is not known",
        curves={"uffd": ((1, 1.0), (160, 1.3))},
        peaks={"uffd": 4},
    ),
    "moorthy-v7": Publication(
        source="A. Moorthy, KVM exit on missing, cover letter of v7, 2024-02-15: 256-core x86, "
        "64 MiB per vCPU, shmem, MINOR mode, one uffd, as many readers as vCPUs",
        curves={
            "uffd": _doubled(150, 191, 210, 155, 130, 108, 86, 62, 36),
            "exit": _doubled(340, 477, 809, 1239, 1595, 2299, 3482, 4134, 4012),
        },
    ),
    "moorthy-2023": Publication(
        source="A. Moorthy, 2023-04-24: one uffd per vCPU; printed per vCPU, here of all vCPUs",
        curves={
            "uffd,uffds=per-vcpu": _each(_doubled(180, 85, 80, 39, 18, 8, 4, 1, 1)),
            "exit": _each(_doubled(307, 220, 206, 163, 104, 73, 57, 37, 16)),
        },
    ),
    "houghton-v1": Publication(
        source="J. Houghton, KVM Userfault, cover letter of v1, 2024-12-04: 96-LPU x86, anonymous "
        "memory, one uffd; printed per vCPU, here of all vCPUs",
        curves={
            "none": _each(((2, 306_845), (8, 220_402), (64, 47_720))),
            "uffd, one reader": _each(((2, 90_724), (8, 26_059), (64, 3_029))),
            "uffd, n readers": _each(((2, 86_840), (8, 37_912), (64, 1_664))),
            "bitmap only": _each(((2, 160_326), (8, 128_247), (64, 39_913))),
        },
    ),
}


def shape_chart(panel: Panel, name: str) -> LinesChart:
    """Return the panel's rates and those published as `name`, each over its own first point."""
    publication = SHAPES[name]
    axis = panel.axis
    over_vcpus = axis is not None and axis.option == "vcpus"
    return LinesChart(
        key=f"shape-{name}",
        title=f"Shape: rates beside those of {name}",
        x=Scale(label="vCPUs", spell=lambda value: f"{value:.0f}", log=True),
        y=Scale(label="rate over the line's own first point", spell=text.ratio, log=True),
        note="Shapes only: every line is divided by its own first point, so heights say nothing "
        f"of one host against another. Grey, published: {publication.source}.",
        lines=(*_measured(panel), *_published(name)) if over_vcpus else (),
        marks=tuple(
            (float(vcpus), f"peak of {name}: {curve}") for curve, vcpus in publication.peaks.items()
        ),
        absent="No shape: it takes a sweep over vCPUs (kvmpc sweep, or --vcpus 1,2,4).",
    )


def _measured(panel: Panel) -> Iterator[ChartLine]:
    for line in against_axis(panel, shown_pagers(panel), of_metric(RATE.key)):
        if len(line.dots) > 1:
            yield _over_first(line)


def _published(name: str) -> Iterator[ChartLine]:
    for label, curve in SHAPES[name].curves.items():
        title = f"{name}: {label}"
        dots = tuple(Dot.exact(*pair) for pair in curve)
        yield _over_first(ChartLine(key=title, label=title, dots=dots, published=True))


def _over_first(line: ChartLine) -> ChartLine:
    first = line.dots[0].y
    dots = tuple(
        replace(dot, y=dot.y / first, low=dot.low / first, high=dot.high / first)
        for dot in line.dots
    )
    return replace(line, dots=dots)
