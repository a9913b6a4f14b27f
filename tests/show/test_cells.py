"""Cells in columns."""

from __future__ import annotations

from kvmpc.show.cells import ABSENT, columns, duration, list_of, number, percent, wrap_label


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


def test_what_is_in_brackets_stands_below_where_there_is_no_room() -> None:
    rows = [["pager", "ratio"], ["a", "1.00 [0.90-1.10]"]]
    assert columns(rows, "lr", room=23)[-1] == "a      1.00 [0.90-1.10]"
    assert columns(rows, "lr", room=22)[-1] == "a             1.00\n       [0.90-1.10]"


def test_a_list_wraps_its_last_cell_to_what_is_left() -> None:
    lines = list_of(("name", "kernel"), [("lab1", "6.1.0, 6.12.0, 6.18.0-rc1\x1b[2J")], 24)
    assert "\n".join(lines).splitlines() == [
        "name  kernel", "----  --------------", "lab1  6.1.0, 6.12.0,", "      6.18.0-rc1?[2J",
    ]  # fmt: skip


def test_numbers_are_rounded_with_their_units() -> None:
    assert [number(None), number(106_172.5), number(2.5)] == [ABSENT, "106,200", "2.5"]
    assert [duration(999.9), percent(0.265)] == ["1 us", "26.5%"]


def test_a_label_breaks_after_its_commas() -> None:
    assert wrap_label("uffd,readers=4,fetch=blocking", 16) == "uffd,readers=4,\n fetch=blocking"
