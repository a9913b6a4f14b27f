"""Published curves beside measured ones."""

from __future__ import annotations

import pytest

from kvmpc.show.page.panels import panels_of
from kvmpc.show.page.published import SHAPES, shape_chart
from tests.fakes.sweeps import sweep
from tests.show.page.charts import by_label


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_divided_by_its_own_first_point_and_names_its_source(name: str) -> None:
    (panel,) = panels_of(sweep((1, 2, 4), ("uffd",), rounds=1))
    chart = shape_chart(panel, name)
    assert all(line.dots[0].y == 1 for line in chart.lines)
    assert sum(line.published for line in chart.lines) == len(SHAPES[name].curves)
    assert SHAPES[name].source in chart.note


def test_published_rates_of_one_vcpu_become_those_of_all() -> None:
    (panel,) = panels_of(sweep((1, 2, 4), ("uffd",), rounds=1))
    curves = by_label(shape_chart(panel, "moorthy-2023"))
    assert curves["moorthy-2023: exit"][256] == pytest.approx(16 * 256 / 307)


def test_a_peak_of_unknown_height_is_marked_where_it_is_and_adds_no_point() -> None:
    (panel,) = panels_of(sweep((1, 2, 4), ("uffd",), rounds=1))
    chart = shape_chart(panel, "talk-2018")
    assert chart.marks == ((4.0, "peak of talk-2018: uffd"),)
    assert set(by_label(chart)["talk-2018: uffd"]) == {1, 160}


def test_a_shape_takes_a_sweep_over_vcpus() -> None:
    (panel,) = panels_of(sweep((4,), ("uffd",), rounds=1))
    assert "sweep over vCPUs" in shape_chart(panel, "moorthy-v7").absent
