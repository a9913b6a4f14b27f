"""The table of counters."""

from __future__ import annotations

from dataclasses import replace

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


def test_what_readers_count_of_their_waiting_is_by_page_too() -> None:
    result = complete(sweep((8,), ("uffd", "exit"), rounds=2))
    trials = tuple(
        replace(
            t, counts={"reads": 30 * t.expected_pages, "spins": 28 * t.expected_pages, "polls": 0}
        )
        if t.pager == "uffd"
        else t
        for t in result.trials
    )
    (panel,) = panels_of(replace(result, trials=trials))
    shown = {name: rest for name, *rest in counters(panel, shown_pagers(panel)).rows}
    assert shown["reads of messages"][0] == "30"
    assert shown["looks for a message instead of a sleep"][0] == "28"
    assert "sleeps for a message" not in shown
