"""What a chart is: six forms, each with what its picture needs and the table that stands below it.

Numbers and texts only; `kvmpc.show.page.draw` makes pictures of them. A chart that has no lines is
told instead of drawn: it says why there are none, and what would give them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from kvmpc.judge.intervals import CONFIDENCE, FEWEST_FOR_INTERVAL
from kvmpc.judge.summary import Spread
from kvmpc.show.page import text

__all__ = [
    "Chart",
    "ChartLine",
    "CurvesChart",
    "Dot",
    "LinesChart",
    "PartsChart",
    "RowsChart",
    "Scale",
    "SpansChart",
    "StackChart",
    "Table",
    "far_apart",
]

_MOST_SPOKEN: Final = 12
_FAR: Final = 20


@dataclass(frozen=True, kw_only=True)
class Scale:
    """One direction of a chart: what it shows, how a value of it is written, whether it is log."""

    label: str
    spell: Callable[[float], str] = text.short
    log: bool = False


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A median at `x` of `n` values, from `low` to `high`, which are what `spread` says."""

    x: float
    y: float
    low: float
    high: float
    n: int = 1
    spread: Spread = Spread.RANGE

    @classmethod
    def exact(cls, x: float, y: float) -> Dot:
        """Return a dot of a value that is all there is, so without an interval."""
        return cls(x=x, y=y, low=y, high=y)


@dataclass(frozen=True, kw_only=True)
class ChartLine:
    """What has one colour in a chart. key: what decides on it, the same in every chart."""

    key: str
    label: str
    dots: tuple[Dot, ...]
    published: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells as text; the first of a row is its heading. A cell's further lines are set small."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class _Head:
    """What every chart has.

    key: its name in the page. note: how to read it. y: of the values shown, which lie on the
    horizontal where pagers have rows. absent: what to say where there are no lines.
    """

    key: str
    title: str
    y: Scale
    lines: tuple[ChartLine, ...]
    absent: str
    note: str = ""

    def spoken(self) -> str:
        """Return the chart in words, for who cannot see it; its numbers are in the table."""
        lines = "; ".join(map(self._spoken_line, self.lines[:_MOST_SPOKEN]))
        return f"{self.title}, {self.y.label}. {lines}."

    def _spoken_line(self, line: ChartLine) -> str:
        return line.label

    @property
    def bars(self) -> str:
        """What the bars of its dots are, in a sentence; "" where it has none, or its note says."""
        return ""

    def _with_ends(self, dot: Dot) -> tuple[str, str]:
        """Return a value and its ends, "" where there are none."""
        known = dot.n > 1 or dot.low < dot.high
        ends = text.ends(dot.low, dot.high, dot.spread, self.y.spell) if known else ""
        return self.y.spell(dot.y), ends


@dataclass(frozen=True, kw_only=True)
class LinesChart(_Head):
    """A few measured dots with bars a line, against `x`. one: whether 1 is marked.

    marks: values of x at which something is known to be, and what; no value of y goes with them.
    """

    x: Scale
    one: bool = False
    marks: tuple[tuple[float, str], ...] = ()

    @property
    def bars(self) -> str:
        """What the bars of its dots are."""
        return _bars(self.lines)

    @property
    def table(self) -> Table:
        """A row for each line, a column for each x."""
        xs = sorted({dot.x for line in self.lines for dot in line.dots})
        rows = []
        for line in self.lines:
            dots = {dot.x: dot for dot in line.dots}
            cells = [
                "\n".join(self._with_ends(dots[x])).strip() if x in dots else text.ABSENT
                for x in xs
            ]
            rows.append((line.label, *cells))
        corner = f"{self.y.label}, by {self.x.label}"
        return Table(headers=(corner, *map(self.x.spell, xs)), rows=tuple(rows))

    def _spoken_line(self, line: ChartLine) -> str:
        first, last = line.dots[0], line.dots[-1]
        start = f"{line.label}: {self.y.spell(first.y)}"
        if len(line.dots) == 1:
            return start
        return (
            f"{start} at {self.x.spell(first.x)} to "
            f"{self.y.spell(last.y)} at {self.x.spell(last.x)}"
        )


@dataclass(frozen=True, kw_only=True)
class RowsChart(_Head):
    """One dot a line, each on a row of its own. one: whether 1 is marked.

    counted: what the table calls what a dot is of n of.
    """

    one: bool = False
    counted: str = "rounds"

    @property
    def bars(self) -> str:
        """What the bars of its dots are."""
        return _bars(self.lines)

    @property
    def table(self) -> Table:
        """A row for each line."""
        spreads = _spreads(self.lines)
        return Table(
            headers=(
                "pager",
                self.y.label,
                spreads.pop() if len(spreads) == 1 else "spread",
                self.counted,
            ),
            rows=tuple(
                (line.label, *self._with_ends(line.dots[0]), f"{line.dots[0].n:,}")
                for line in self.lines
            ),
        )

    def _spoken_line(self, line: ChartLine) -> str:
        return f"{line.label}: {self.y.spell(line.dots[0].y)}"


@dataclass(frozen=True, kw_only=True)
class CurvesChart(_Head):
    """Dots so dense that they make a curve, against `x`."""

    x: Scale
    table: Table


@dataclass(frozen=True, kw_only=True)
class SpansChart(_Head):
    """A spread a line, on a row of its own: dots are lowest, low, middle, high, highest."""

    table: Table


@dataclass(frozen=True, kw_only=True)
class PartsChart(_Head):
    """Several lines beside each other on the table's rows; a dot's x is its row's number."""

    table: Table


@dataclass(frozen=True, kw_only=True)
class StackChart(_Head):
    """Lines end to end on the table's rows: each has a dot for a row that has any, x its number.

    ends: where each row ends and its interval; None for one that has no dots. said: what stands
    there instead.
    """

    table: Table
    ends: tuple[Dot | None, ...]
    said: tuple[str, ...]


Chart = LinesChart | RowsChart | CurvesChart | SpansChart | PartsChart | StackChart


def _spreads(lines: Sequence[ChartLine]) -> set[Spread]:
    """Return what the bars of several dots are; empty where none of them has any."""
    return {dot.spread for line in lines for dot in line.dots if dot.n > 1 or dot.low < dot.high}


def _bars(lines: Sequence[ChartLine]) -> str:
    spreads = _spreads(lines)
    few = f"fewer than {FEWEST_FOR_INTERVAL} rounds, too few for an interval"
    if spreads == {Spread.INTERVAL}:
        return f"Bars are {CONFIDENCE:.0%} intervals."
    if spreads == {Spread.RANGE}:
        return f"Bars are ranges: {few}."
    if spreads == {Spread.INTERVAL, Spread.RANGE}:
        return f"Bars are {CONFIDENCE:.0%} intervals, or the range of {few}."
    return ""


def far_apart(lines: Sequence[ChartLine]) -> bool:
    """Return whether values lie so far apart that a linear scale would show the largest only."""
    values = [dot.y for line in lines for dot in line.dots]
    return bool(values) and min(values) > 0 and max(values) > _FAR * min(values)
