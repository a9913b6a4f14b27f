"""Charts of where CPU time went."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from kvmpc.result.records import Result
from tests.fakes.sweeps import complete, sweep, trial
from tests.show.page.charts import by_label, chart_of


def test_a_profile_gives_the_share_of_spin_locks_and_whose_they_are_but_no_rate() -> None:
    plain = sweep((1, 10), ("none", "uffd"), rounds=2)
    result = complete(plain)
    assert by_label(chart_of(result, "spin"))["uffd"] == pytest.approx({1: 0, 10: 0.81})
    spin = next(line for line in chart_of(result, "spin").lines if line.label == "uffd")
    # Wilson's, by hand: 1,234 samples, none of them spinning, or 81 %, and 6 % that cannot be told.
    assert [dot.low for dot in spin.dots] == pytest.approx([0, 0.787], abs=0.0005)
    assert [dot.high for dot in spin.dots] == pytest.approx([0.0747, 0.888], abs=0.0005)
    stack = by_label(chart_of(result, "locks"))
    assert stack["uffd queues"][1] == pytest.approx(0.81 * 0.7)
    assert stack["uffd queues, irqs off"][1] == pytest.approx(0.05)
    assert stack["run queues, irqs off"][1] == 0
    assert stack["other, irqs off"][1] == pytest.approx(0.01)
    [whole] = [
        end for end, row in zip(
            chart_of(result, "locks").ends, chart_of(result, "locks").table.rows, strict=True
        ) if row[0] == "uffd"
    ]  # fmt: skip
    assert (whole.y, whole.low, whole.high) == pytest.approx((0.87, 0.850, 0.888), abs=0.0005)
    assert chart_of(result, "rate").lines == chart_of(plain, "rate").lines


def with_samples(result: Result, spec: str, samples: int) -> Result:
    """Return `result` with other profiles of a pager."""
    trials = [
        replace(one, profile=replace(one.profile, samples=samples))
        if one.profile is not None and one.pager == spec
        else one
        for one in result.trials
    ]
    return replace(result, trials=tuple(trials))


def test_too_few_samples_are_no_share_but_said_beside_those_that_are_enough() -> None:
    result = with_samples(complete(sweep((2,), ("none", "uffd"), rounds=2)), "none", 199)
    spin, locks = chart_of(result, "spin"), chart_of(result, "locks")
    assert set(by_label(spin)) == {"uffd"}
    assert "none (199 samples)" in spin.note
    rows = {row[0]: row[1:] for row in locks.table.rows}
    assert rows["none"][-2] == "199\ncpu-clock\ntoo few"
    assert not [cell for cell in rows["none"] if "%" in cell]
    assert "56.7%" not in rows["uffd"]
    assert locks.said == ("199 samples: too few", "")
    assert [end is None for end in locks.ends] == [True, False]
    assert {dot.x for line in locks.lines for dot in line.dots} == {1}


def test_where_no_pager_has_samples_enough_there_is_no_chart_but_the_reason() -> None:
    result = with_samples(complete(sweep((2,), ("uffd",), rounds=2)), "uffd", 40)
    for key in ("spin", "locks"):
        assert chart_of(result, key).lines == ()
        assert "uffd (40 samples)" in chart_of(result, key).absent
    draws = with_samples(complete(sweep((1, 2), ("uffd", "exit"), rounds=1)), "uffd", 40)
    assert set(by_label(chart_of(draws, "spin"))) == {"exit(sigbus)"}
    assert "uffd at 1 vCPU (40 samples), uffd at 2 vCPUs (40" in chart_of(draws, "spin").note


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
    assert table.rows[0][1] == "57%\n[54-59%]\n+5.0%\n[3.9-6.4%]"
    assert table.rows[0][2] == "16%\n[14-18%]"
    assert table.rows[0][5] == "-", "a document of before there were run queues"
    assert table.rows[0][-5].startswith("10%\n")
    assert table.rows[0][-2] == "1,234\ncpu-clock"
