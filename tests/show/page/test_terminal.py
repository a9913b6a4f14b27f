"""Terminal and page say the same of one result, and nothing at all of a pager that failed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from kvmpc.judge.reading import read
from kvmpc.result.records import Result
from kvmpc.show.page import tables
from kvmpc.show.page.counters import counters
from kvmpc.show.page.panels import panels_of, shown_pagers
from kvmpc.show.page.rate_charts import charts_of
from kvmpc.show.profile_table import format_profiles
from kvmpc.show.split_table import format_split
from kvmpc.show.table import format_markdown, format_table
from tests.fakes.sweeps import complete, sweep, trial

PAGERS = ("none", "uffd", "exit")
FAILED = "exit(sigbus)"


def _failed(vcpus: tuple[int, ...], factor: float = 1.0) -> Result:
    """Return a result with all that trials may have; at every point a late one of exit failed.

    factor: of the rate of exit's other trials.
    """
    chance = random.Random(1)
    sound = complete(
        sweep(vcpus, PAGERS, rounds=3, factor=lambda spec: factor if spec == "exit" else 1.0)
    )
    late = [
        trial("exit", n, 4, chance, point=index, status="failed") for index, n in enumerate(vcpus)
    ]
    return replace(sound, trials=(*sound.trials, *late))


either = pytest.mark.parametrize("vcpus", [(4,), (2, 4)], ids=["one point", "sweep"])


def _on_page(result: Result, label: str) -> list[tuple[str, ...]]:
    (panel,) = panels_of(result)
    return [row for _, rows in tables.number_groups(panel) for row in rows if row[0] == label]


def _in_terminal(result: Result, label: str) -> list[list[str]]:
    lines = [line.split() for line in format_table(read(result), 99).splitlines()]
    return [
        cells for cells in lines if cells[:1] == [label] and cells[-1] in ("yes", "zeros", "FAILED")
    ]


@either
def test_the_failed_row_is_called_so_in_both_and_has_no_number(vcpus: tuple[int, ...]) -> None:
    result = _failed(vcpus)
    assert _on_page(result, FAILED) == [(FAILED, *"-" * 7, "FAILED", "3")] * len(vcpus)
    assert _in_terminal(result, FAILED) == [[FAILED, *"-" * 7, "FAILED"]] * len(vcpus)


@either
def test_sound_rows_have_the_same_rate_and_verdict_in_both(vcpus: tuple[int, ...]) -> None:
    result = _failed(vcpus)
    for label in ("none", "uffd"):
        on_page = [(row[1], row[-2]) for row in _on_page(result, label)]
        assert on_page == [(row[1], row[-1]) for row in _in_terminal(result, label)]
        assert len(on_page) == len(vcpus)


@either
def test_no_chart_has_a_line_or_a_row_of_a_pager_that_failed(vcpus: tuple[int, ...]) -> None:
    (panel,) = panels_of(_failed(vcpus))
    charts = {chart.key: chart for chart in charts_of(panel)}
    for key in ("rate", "split", "locks", "spin", "timeline", "fairness", "latency"):
        assert charts[key].lines, key
    for key, chart in charts.items():
        assert FAILED not in str([line.label for line in chart.lines]), key
        assert FAILED not in [row[0] for row in chart.table.rows], key
    assert FAILED not in counters(panel, shown_pagers(panel)).headers


@either
def test_no_number_of_a_pager_that_failed_is_anywhere_on_the_page_or_in_the_terminal(
    told: Callable[[Result], str], vcpus: tuple[int, ...]
) -> None:
    one, other = _failed(vcpus), _failed(vcpus, factor=7.0)
    assert one != other
    assert told(one) == told(other)
    for tell in (format_table, format_markdown, format_split, format_profiles):
        assert tell(read(one)) == tell(read(other))
    assert "FAILED" in told(one)
