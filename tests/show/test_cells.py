"""Cells in columns."""

from __future__ import annotations

from kvmpc.show.cells import ABSENT, columns, duration, number, percent, wrap_label


def test_cells_stand_below_each_other_and_a_rule_below_the_headers() -> None:
    assert columns([["pager", "fault\np50"], ["a", "1"], ["exit,\n uffds", "12.5"]], "lr") == [
        "pager   fault\n          p50",
        "------  -----",
        "a           1",
        "exit,    12.5\n uffds",
    ]


def test_a_heading_takes_its_place_and_the_rule_does_not_look_at_it() -> None:
    assert columns([["a", "b"], [""], ["vcpus=160"], ["x", "1"]], "lr") == [
        "a          b",
        "-          -",
        "",
        "vcpus=160",
        "x          1",
    ]


def test_numbers_are_rounded_with_their_units() -> None:
    assert [number(None), number(106_172.5), number(2.5)] == [ABSENT, "106,200", "2.5"]
    assert [duration(999.9), percent(0.265)] == ["1 us", "26.5%"]


def test_a_label_breaks_after_its_commas() -> None:
    assert wrap_label("uffd,readers=4,fetch=blocking", 16) == "uffd,readers=4,\n fetch=blocking"
