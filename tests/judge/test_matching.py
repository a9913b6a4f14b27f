"""Which rows of two sides are the same thing measured twice, and what is said of the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from kvmpc.errors import MismatchError, UsageError
from kvmpc.judge.criteria import Criteria
from kvmpc.judge.matching import pair_cautions
from kvmpc.judge.regression import Check, check
from kvmpc.judge.verdicts import Missing, Status
from kvmpc.result.records import Point, Result, Skip

Make = Callable[..., Any]


def _missing(found: Check) -> set[tuple[str, str, str]]:
    """Return point, label and reason of what is missing."""
    return {
        (each.pair.point, each.pair.label, each.reason)
        for each in found.verdicts
        if isinstance(each, Missing)
    }


def test_a_pager_on_one_side_only_is_listed(make_run: Make) -> None:
    draw = Random(1)
    old = make_run(draw, pagers=("none", "uffd"))
    found = check([old], [make_run(draw, pagers=("uffd", "exit"))])
    assert {(each.side, each.label, each.reason) for each in found.unmatched} == {
        ("new", "exit(sigbus)", "not in the baseline"),
    }
    assert _missing(found) == {("", "none", "not in the result")}
    allowed = check(
        [old], [make_run(draw, pagers=("uffd", "exit"))], Criteria(allow_missing=("none",))
    )
    assert [(each.side, each.label) for each in allowed.unmatched] == [
        ("baseline", "none"), ("new", "exit(sigbus)"),
    ]  # fmt: skip
    assert _missing(allowed) == set()


def test_providers_of_exits_are_never_mixed(make_run: Make) -> None:
    draw = Random(1)
    new = make_run(draw)
    other = replace(new, labels=("none", "uffd", "exit(bitmap)"), pager_infos=())
    found = check([make_run(draw)], [other])
    assert [(each.side, each.label) for each in found.unmatched] == [("new", "exit(bitmap)")]
    assert _missing(found) == {("", "exit(sigbus)", "not in the result")}
    compared = [verdict for verdict in found.verdicts if not isinstance(verdict, Missing)]
    assert {verdict.pair.spec for verdict in compared} == {"none", "uffd"}


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
    compared = [verdict for verdict in found.verdicts if not isinstance(verdict, Missing)]
    assert {verdict.pair.point for verdict in compared} == {"vcpus=2", "vcpus=4"}
    assert [(each.side, each.point) for each in found.unmatched] == [("new", "vcpus=8")]
    assert "nearest: vcpus=8 against" in found.unmatched[0].reason
    missing = _missing(found)
    assert {(point, label) for point, label, _ in missing} == {
        ("vcpus=1", "none"), ("vcpus=1", "uffd"), ("vcpus=1", "exit(sigbus)"),
    }  # fmt: skip
    assert all("no such point in the result" in reason for _, _, reason in missing)


@pytest.mark.parametrize(
    ("names", "left"),
    [
        (["vcpus=1"], set()),
        (["vcpus=1: uffd", "exit"], {"none"}),
        (["exit(sigbus)"], {"none", "uffd"}),
    ],
    ids=str,
)
def test_what_may_be_missing_is_named_by_point_or_pager(
    make_run: Make, names: list[str], left: set[str]
) -> None:
    draw = Random(1)
    sides = _sweep(make_run, draw, (1, 2, 4)), _sweep(make_run, draw, (4, 2))
    found = check([sides[0]], [sides[1]], Criteria(allow_missing=tuple(names)))
    assert {label for _, label, _ in _missing(found)} == left


def test_a_name_that_nothing_has_is_refused_with_those_there_are(make_run: Make) -> None:
    draw = Random(1)
    with pytest.raises(UsageError, match=r"--allow-missing.*exti.*none, uffd, exit"):
        check([make_run(draw)], [make_run(draw)], Criteria(allow_missing=("exti",)))


def test_what_the_baseline_did_not_measure_either_is_not_missing(make_run: Make) -> None:
    draw = Random(1)
    old = make_run(draw)
    without = replace(
        old,
        trials=tuple(trial for trial in old.trials if trial.pager != "exit"),
        skipped=(Skip(point=0, pager="exit", reason="no userfaultfd"),),
    )
    for new in (without, make_run(draw, pagers=("none", "uffd"))):
        found = check([without], [new])
        assert _missing(found) == set()
        assert [each.label for each in found.unmatched] == ["exit(sigbus)"]


def test_a_metric_that_is_gone_is_missing_and_a_new_one_is_not(make_run: Make) -> None:
    draw = Random(1)
    old = make_run(draw)
    without = replace(
        old,
        trials=tuple(
            replace(t, metrics={k: v for k, v in t.metrics.items() if k != "cpu_s_per_gib"})
            for t in old.trials
        ),
    )
    found = check([old], [without])
    gone = [(each.pair.label, each.metric) for each in found.verdicts if each.status.red]
    assert gone == [("none", "cpu"), ("uffd", "cpu"), ("exit(sigbus)", "cpu")]
    assert found.status is Status.MISSING
    allowed = check([old], [without], Criteria(allow_missing=("none", "uffd", "exit")))
    assert [each.reason for each in allowed.unmatched] == ["cpu not measured in the result"] * 3
    assert check([without], [old]).status is not Status.MISSING


def test_pagers_that_are_all_gone_are_missing_and_not_another_comparison(make_run: Make) -> None:
    draw = Random(1)
    new = make_run(draw, pagers=("none",))
    found = check([make_run(draw, pagers=("uffd", "exit"))], [new])
    assert found.status is Status.MISSING
    assert {label for _, label, _ in _missing(found)} == {"uffd", "exit(sigbus)"}


def test_a_skipped_pager_is_listed_with_its_reason(make_run: Make) -> None:
    draw = Random(1)
    new = make_run(draw)
    skipping = replace(
        new,
        trials=tuple(trial for trial in new.trials if trial.pager != "exit"),
        skipped=(Skip(point=0, pager="exit", reason="no userfaultfd"),),
    )
    found = check([make_run(draw)], [skipping])
    assert found.unmatched == ()
    assert _missing(found) == {("", "exit(sigbus)", "skipped in the result: no userfaultfd")}
    (alone,) = check([skipping], [make_run(draw)]).unmatched
    assert (alone.side, alone.label) == ("new", "exit(sigbus)")
    assert alone.reason == "skipped in the baseline: no userfaultfd"


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
