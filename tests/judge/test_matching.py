"""Which rows of two sides are the same thing measured twice, and what is said of the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from kvmpc.errors import MismatchError
from kvmpc.judge.matching import pair_cautions
from kvmpc.judge.regression import Check, check
from kvmpc.result.records import Point, Result, Skip

Make = Callable[..., Any]


def test_a_pager_on_one_side_only_is_listed(make_run: Make) -> None:
    draw = Random(1)
    old = make_run(draw, pagers=("none", "uffd"))
    found = check([old], [make_run(draw, pagers=("uffd", "exit"))])
    assert {(each.side, each.label, each.reason) for each in found.unmatched} == {
        ("new", "exit(sigbus)", "not in the baseline"),
        ("baseline", "none", "not in the result"),
    }


def test_providers_of_exits_are_never_mixed(make_run: Make) -> None:
    draw = Random(1)
    new = make_run(draw)
    other = replace(new, labels=("none", "uffd", "exit(bitmap)"), pager_infos=())
    found = check([make_run(draw)], [other])
    assert {(each.side, each.label) for each in found.unmatched} == {
        ("baseline", "exit(sigbus)"), ("new", "exit(bitmap)"),
    }  # fmt: skip
    assert {verdict.pair.spec for verdict in found.verdicts} == {"none", "uffd"}


def test_options_that_differ_are_named_with_both_values(make_run: Make) -> None:
    draw = Random(1)
    old = make_run(draw)
    new = replace(old, options={**old.options, "vcpus": 4, "mem_per_vcpu_bytes": 32 << 20})
    with pytest.raises(MismatchError, match="nothing matches") as caught:
        check([old], [new])
    assert "vcpus=4 against 2, mem_per_vcpu=32M against 64M" in str(caught.value)


def test_how_often_and_how_long_is_no_part_of_a_point(make_run: Make) -> None:
    draw = Random(1)
    old = make_run(draw)
    new = replace(old, options={**old.options, "rounds": 9, "warmup": 2, "watchdog_s": 1.0})
    assert check([old], [new]).unmatched == ()


def test_an_option_newer_than_the_baseline_matches_at_its_default(make_run: Make) -> None:
    draw = Random(1)
    old = make_run(draw)
    new = replace(old, options={**old.options, "seed": 1, "timed": True, "colour": None})
    assert check([old], [new]).unmatched == ()
    with pytest.raises(MismatchError, match="seed=2 against 1"):
        check([old], [replace(old, options={**old.options, "seed": 2})])
    with pytest.raises(MismatchError, match="colour"):
        check([old], [replace(old, options={**old.options, "colour": {"sky": "blue"}})])


def _sweep(make_run: Make, draw: Random, vcpus: Sequence[int], **changes: Any) -> Result:
    runs = [make_run(draw, **changes) for _ in vcpus]
    return replace(
        runs[0],
        points=tuple(Point(options={"vcpus": n}, pagers=runs[0].pagers) for n in vcpus),
        trials=tuple(
            replace(trial, point=at) for at, run in enumerate(runs) for trial in run.trials
        ),
    )


def test_points_are_compared_with_their_own_kind(make_run: Make) -> None:
    draw = Random(1)
    found = check([_sweep(make_run, draw, (1, 2, 4))], [_sweep(make_run, draw, (4, 2, 8))])
    assert {verdict.pair.point for verdict in found.verdicts} == {"vcpus=2", "vcpus=4"}
    assert [(each.side, each.point) for each in found.unmatched] == [
        ("baseline", "vcpus=1"), ("new", "vcpus=8"),
    ]  # fmt: skip
    assert "nearest: vcpus=8 against" in found.unmatched[1].reason


def test_a_skipped_pager_is_listed_with_its_reason(make_run: Make) -> None:
    draw = Random(1)
    new = make_run(draw)
    skipping = replace(
        new,
        trials=tuple(trial for trial in new.trials if trial.pager != "exit"),
        skipped=(Skip(point=0, pager="exit", reason="no userfaultfd"),),
    )
    (alone,) = check([make_run(draw)], [skipping]).unmatched
    assert (alone.side, alone.label) == ("baseline", "exit(sigbus)")
    assert alone.reason == "skipped in the result: no userfaultfd"


def test_an_empty_result_matches_nothing(make_run: Make, make_result: Make) -> None:
    draw = Random(1)
    for sides in (([make_run(draw)], [make_result()]), ([make_result()], [make_run(draw)])):
        with pytest.raises(MismatchError, match="nothing matches"):
            check(*sides)
    with pytest.raises(MismatchError, match="has no result"):
        check([], [make_run(draw)])


def _pair(found: Check, spec: str) -> Any:
    return next(verdict.pair for verdict in found.verdicts if verdict.pair.spec == spec)


def test_a_stand_in_row_is_marked_across_kernels(make_run: Make) -> None:
    draw = Random(1)
    old, new = (
        make_run(draw, host={"kernel": {"release": release}}) for release in ("6.1.0", "6.12.0")
    )
    found = check([old], [new])
    assert [caution.code for caution in pair_cautions(_pair(found, "exit"))] == [
        "exit-walks-unknown"
    ]
    assert not list(pair_cautions(_pair(found, "uffd")))
    assert not list(pair_cautions(_pair(check([old], [old]), "exit")))
    annotated = replace(
        new,
        trials=tuple(replace(trial, counts={"exits_annotated": 46}) for trial in new.trials),
    )
    (caution,) = pair_cautions(_pair(check([old], [annotated]), "exit"))
    assert caution.code == "exit-form-changed"
    assert "annotated exits" in caution.text
