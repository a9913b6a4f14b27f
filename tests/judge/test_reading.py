"""What a result says, worked out once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kvmpc.caution import Caution
from kvmpc.judge.reading import read
from kvmpc.judge.rows import Outcome
from kvmpc.result.records import Point, Skip

Make = Callable[..., Any]


def test_points_have_names_options_and_rows(make_result: Make, make_trial: Make) -> None:
    pagers = ("none", "uffd", "exit")
    result = make_result(
        *(make_trial(name, point=at) for at in (0, 1) for name in pagers[: 2 + (at == 0)]),
        points=tuple(Point(options={"vcpus": n}, pagers=pagers) for n in (2, 160)),
        skipped=(Skip(point=1, pager="exit", reason="no room"),),
    )
    first, second = read(result).points
    assert (first.name, second.name) == ("vcpus=2", "vcpus=160")
    assert second.options["vcpus"] == 160
    assert [row.outcome for row in second.rows] == [Outcome.ZEROS, Outcome.YES, Outcome.SKIPPED]
    assert second.rows[2].skips == ("no room",)
    assert first.ratio_base is first.rows[1]
    assert first.share_base is first.rows[0]


def test_a_base_that_failed_is_named_and_gives_no_ratio(
    make_result: Make, make_trial: Make
) -> None:
    (point,) = read(make_result(make_trial("uffd", status="failed"), make_trial("exit"))).points
    assert point.name == ""
    assert point.ratio_base is point.rows[0]
    assert point.ratio_base.outcome is Outcome.FAILED
    assert point.rows[1].ratio is None
    assert point.share_base is None


def test_cautions_are_told_each_once(make_result: Make, make_trial: Make) -> None:
    given = Caution("ksm", "KSM is on", "stop it")
    reading = read(make_result(make_trial("uffd"), warnings=(given, given)))
    assert [told.code for told in reading.cautions] == ["few-rounds", "ksm"]


def test_a_row_nobody_measured_is_absent(make_result: Make, make_trial: Make) -> None:
    result = make_result(make_trial("uffd", verified="presence only"), pagers=("uffd", "exit"))
    (point,) = read(result).points
    assert [row.outcome for row in point.rows] == [Outcome.NO, Outcome.ABSENT]
