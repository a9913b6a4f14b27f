"""Charts of where CPU time went."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.fakes.sweeps import complete, sweep, trial
from tests.show.page.charts import by_label, chart_of


def test_a_profile_gives_the_share_of_spin_locks_and_whose_they_are_but_no_rate() -> None:
    plain = sweep((1, 10), ("none", "uffd"), rounds=2)
    result = complete(plain)
    assert by_label(chart_of(result, "spin"))["uffd"] == pytest.approx({1: 0, 10: 0.81})
    spin = next(line for line in chart_of(result, "spin").lines if line.label == "uffd")
    assert [dot.high - dot.low for dot in spin.dots] == pytest.approx([0.06, 0.06])
    stack = by_label(chart_of(result, "locks"))
    assert stack["uffd queues"][1] == pytest.approx(0.81 * 0.7)
    assert stack["held or waited for, interrupts off"][1] == pytest.approx(0.06)
    assert chart_of(result, "rate").lines == chart_of(plain, "rate").lines


def test_a_pager_that_failed_is_in_no_chart_of_profiles() -> None:
    sound = complete(sweep((2,), ("uffd", "exit")))
    late = trial("exit", 2, 7, random.Random(1), status="failed")
    for result, wanted in (
        (sound, {"uffd", "exit(sigbus)"}),
        (replace(sound, trials=(*sound.trials, late)), {"uffd"}),
    ):
        assert {row[0] for row in chart_of(result, "locks").table.rows} == wanted
        assert set(by_label(chart_of(result, "spin"))) == wanted


def test_a_table_of_locks_puts_what_a_clock_cannot_tell_below_with_a_plus() -> None:
    table = chart_of(complete(sweep((10,), ("uffd",), rounds=1)), "locks").table
    assert table.headers[:3] == ("pager", "uffd queues", "mmu_lock")
    assert table.rows[0][1:3] == ("56.7%\n+5%", "16.2%")
    assert table.rows[0][-5:-1] == ("10%", "85%", "5%", "1,234 cpu-clock")
