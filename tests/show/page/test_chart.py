"""What a chart says beside its picture: its table and its words."""

from __future__ import annotations

import pytest

from kvmpc.judge.summary import Spread
from kvmpc.show.page import text
from kvmpc.show.page.chart import (
    ChartLine,
    Dot,
    LinesChart,
    RowsChart,
    Scale,
    SpansChart,
    Table,
    far_apart,
)


def _line(*dots: Dot, label: str = "uffd") -> ChartLine:
    return ChartLine(key=label, label=label, dots=dots)


def _lines(*lines: ChartLine) -> LinesChart:
    return LinesChart(
        key="rate", title="Rate", x=Scale(label="vCPUs"), y=Scale(label="pages/s"),
        lines=lines, absent="no trial gave a rate",
    )  # fmt: skip


def test_lines_have_a_column_for_each_x_and_a_cell_that_one_lacks_is_absent() -> None:
    chart = _lines(
        _line(Dot(x=1, y=100, low=90, high=110, n=3), Dot.exact(8, 2000)),
        _line(Dot(x=2, y=50, low=50, high=50, n=2), label="exit"),
    )
    assert chart.table == Table(
        headers=("pages/s, by vCPUs", "1", "2", "8"),
        rows=(("uffd", "100\n(range 90-110)", "-", "2k"), ("exit", "-", "50\n(range 50-50)", "-")),
    )


def _rows(*dots: Dot) -> RowsChart:
    lines = (_line(dot, label=label) for dot, label in zip(dots, ("uffd", "exit"), strict=True))
    return RowsChart(
        key="ratio", title="Ratio", y=Scale(label="ratio of rates", spell=text.ratio),
        lines=tuple(lines), absent="",
    )  # fmt: skip


def test_rows_have_value_interval_and_rounds_and_one_round_has_no_interval() -> None:
    chart = _rows(Dot(x=0, y=2, low=1.5, high=2.5, n=6, spread=Spread.INTERVAL), Dot.exact(0, 1))
    assert chart.table == Table(
        headers=("pager", "ratio of rates", "interval", "rounds"),
        rows=(("uffd", "2.00", "[1.50-2.50]", "6"), ("exit", "1.00", "", "1")),
    )
    assert chart.spoken() == "Ratio, ratio of rates. uffd: 2.00; exit: 1.00."


@pytest.mark.parametrize(
    ("spreads", "header", "cells", "bars"),
    [
        (("interval", "interval"), "interval", ("[1.50-2.50]", "[1.50-2.50]"),
         "Bars are 95% intervals."),
        (("range", "range"), "range", ("(range 1.50-2.50)", "(range 1.50-2.50)"),
         "Bars are ranges: fewer than 6 rounds, too few for an interval."),
        (("interval", "range"), "spread", ("[1.50-2.50]", "(range 1.50-2.50)"),
         "Bars are 95% intervals, or the range of fewer than 6 rounds, too few for an interval."),
        (("bounds", "bounds"), "bounds", ("(bounds 1.50-2.50)", "(bounds 1.50-2.50)"), ""),
    ],
)  # fmt: skip
def test_bars_are_called_what_they_are(
    spreads: tuple[str, str], header: str, cells: tuple[str, str], bars: str
) -> None:
    dots = [Dot(x=0, y=2, low=1.5, high=2.5, n=3, spread=Spread(spread)) for spread in spreads]
    chart = _rows(*dots)
    assert chart.table.headers[2] == header
    assert tuple(row[2] for row in chart.table.rows) == cells
    assert chart.bars == _lines(_line(*dots)).bars == bars


def test_dots_without_bars_say_nothing_of_bars() -> None:
    assert _lines(_line(Dot.exact(0, 1))).bars == ""


def test_in_words_a_line_is_told_by_its_ends() -> None:
    chart = _lines(_line(Dot.exact(1, 10), Dot.exact(4, 30), Dot.exact(8, 20)))
    assert chart.spoken() == "Rate, pages/s. uffd: 10 at 1 to 20 at 8."
    assert _lines(_line(Dot.exact(1, 10))).spoken() == "Rate, pages/s. uffd: 10."


def test_what_is_no_single_number_is_told_by_its_name() -> None:
    chart = SpansChart(
        key="fairness", title="Fairness", y=Scale(label="time"), absent="",
        lines=(_line(*(Dot.exact(0, n) for n in range(5))),), table=Table(headers=(), rows=()),
    )  # fmt: skip
    assert chart.spoken() == "Fairness, time. uffd."


@pytest.mark.parametrize(
    ("values", "far"), [([], False), ([1, 20], False), ([1, 21], True), ([0, 21], False)]
)
def test_values_far_apart_ask_for_a_log_scale_and_a_zero_forbids_it(
    values: list[float], far: bool
) -> None:
    assert far_apart([_line(*(Dot.exact(n, y) for n, y in enumerate(values)))]) is far
