"""The table of counters."""

from __future__ import annotations

from kvmpc.show.page.chart import Table
from kvmpc.show.page.counters import counters
from kvmpc.show.page.panels import panels_of, shown_pagers
from tests.fakes.sweeps import complete, sweep


def test_counters_are_by_page_and_what_hardly_happens_is_left_out() -> None:
    (panel,) = panels_of(complete(sweep((8,), ("uffd", "exit"), rounds=2)))
    assert counters(panel, shown_pagers(panel)) == Table(
        headers=("counter", "uffd", "exit(sigbus)"),
        rows=(("exits", "2", "2"), ("pf_fixed", "1", "1")),
    )
