"""The tables and the chart of two results beside each other."""

from __future__ import annotations

import pytest

from kvmpc.judge.change import change_between
from kvmpc.show.page.chart import LinesChart
from kvmpc.show.page.compare import (
    change_chart,
    changed_table,
    panels_of_both,
    unmatched_table,
)
from kvmpc.show.page.panels import panels_of
from tests.fakes.sweeps import sweep


def test_a_chart_shows_after_over_before_at_each_point() -> None:
    before = sweep((1, 2, 4), ("uffd",), rounds=4)
    after = sweep((2, 4), ("uffd",), rounds=4, factor=lambda _: 0.5, seed=3)
    ((first, second),) = panels_of_both(before, after)
    chart = change_chart(first, second)
    assert isinstance(chart, LinesChart)
    assert [dot.x for dot in chart.lines[0].dots] == [2, 4]
    assert all(dot.y == pytest.approx(0.5, rel=0.1) for dot in chart.lines[0].dots)
    assert panels_of(before) == [first]
    assert sorted(second) == [1, 2]


def test_tables_say_where_a_row_is_and_which_result_lacks_it() -> None:
    change = change_between(
        sweep((1, 2), ("uffd", "exit"), rounds=1), sweep((1, 4), ("exit",), rounds=1)
    )
    assert [row[:2] for row in changed_table(change).rows] == [("exit(sigbus)", "vcpus=1")]
    assert [row[:3] for row in unmatched_table(change).rows] == [
        ("uffd", "vcpus=1", "before"),
        ("all pagers", "vcpus=2", "before"),
        ("all pagers", "vcpus=4", "after"),
    ]
