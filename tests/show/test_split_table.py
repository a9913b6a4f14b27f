"""The table that says where a fault's time goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kvmpc.judge.reading import read
from kvmpc.result.records import Point
from kvmpc.show.split_table import format_split

Make = Callable[..., Any]

PARTS = {"noticed_p50_ns": 14_000.0, "install_p50_ns": 3_000.0, "install_back_p50_ns": 17_000.0}


@pytest.fixture
def split_trial(make_trial: Make) -> Make:
    def made(pager: str, number: int = 1, **changes: Any) -> Any:
        plain = make_trial(pager, number)
        metrics = {**plain.metrics, **PARTS, "noticed_p99_ns": 28_000.0}
        return make_trial(pager, number, metrics=metrics, **changes)

    return made


def test_a_result_without_a_split_has_no_table(make_result: Make, make_trial: Make) -> None:
    assert format_split(read(make_result(make_trial("uffd")))) == ""


def test_a_part_that_was_not_had_is_absent_and_a_pager_without_parts_has_no_row(
    make_result: Make, make_trial: Make, split_trial: Make
) -> None:
    text = format_split(
        read(make_result(make_trial("none"), split_trial("uffd"), split_trial("exit")))
    )
    rows = [line.split() for line in text.splitlines() if "p50" in line]
    assert rows == [
        [label, "p50", "12.3", "us", "14", "us", "-", "3", "us", "-", "17", "us"]
        for label in ("uffd", "exit(sigbus)")
    ]
    assert "none " not in text.partition("medians over")[0]
    assert max(map(len, text.splitlines())) < 100


def test_the_rows_of_a_sweep_stand_below_their_point(make_result: Make, split_trial: Make) -> None:
    trials = [split_trial("uffd", point=point) for point in (0, 1)]
    points = tuple(Point(options={"vcpus": count}, pagers=("uffd",)) for count in (1, 8))
    lines = format_split(read(make_result(*trials, points=points))).splitlines()
    assert lines.index("vcpus=1") < lines.index("vcpus=8")
    assert sum("p99" in line for line in lines) == 2


def test_a_pager_with_a_failed_trial_has_no_split_as_it_has_no_row_in_the_table(
    make_result: Make, make_trial: Make, split_trial: Make
) -> None:
    failed = make_trial("exit", 2, status="failed")
    text = format_split(read(make_result(split_trial("uffd"), split_trial("exit"), failed)))
    assert "uffd" in text
    assert "exit" not in text.partition("medians over")[0]
