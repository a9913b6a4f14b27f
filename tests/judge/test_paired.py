"""Pairs, against what can be enumerated, and that they hold their level whatever the host does."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise, product
from random import Random

import pytest

from kvmpc.judge.intervals import CONFIDENCE
from kvmpc.judge.paired import Pairs, pairs_needed, smallest_paired_p

SAMPLES = 2000


def _pairs(differences: list[float]) -> Pairs:
    return Pairs([0.0] * len(differences), differences)


def _statistic(differences: list[float]) -> int:
    """Return the signed-rank sum by its textbook definition."""
    by_size = sorted(differences, key=abs)
    return sum(rank for rank, value in enumerate(by_size, start=1) if value > 0)


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_p_is_the_share_of_all_signs_with_so_high_a_rank_sum(n: int) -> None:
    draw = Random(n)
    for _ in range(20):
        seen = [draw.gauss(0.3, 1) for _ in range(n)]
        least = _statistic(seen)
        signs = list(product((-1, 1), repeat=n))
        alike = sum(
            _statistic([abs(value) * sign for value, sign in zip(seen, each, strict=True)]) >= least
            for each in signs
        )
        assert _pairs(seen).p(1) == pytest.approx(alike / len(signs))
        assert _pairs([-value for value in seen]).p(-1) == pytest.approx(alike / len(signs))


def test_ties_count_against_a_change() -> None:
    assert _pairs([0.0] * 9).p(1) == _pairs([0.0] * 9).p(-1) == 1
    assert _pairs([1.0, -1.0, 1.0, -1.0]).p(1) > 0.5
    # Equal differences of one sign are no ties that matter.
    assert _pairs([2.0] * 7).p(1) == 2**-7


@pytest.mark.parametrize(("level", "pairs"), [(0.5, 1), (0.05, 5), (0.01, 7), (0.01 / 15, 11)])
def test_the_fewest_pairs_that_reach_a_level(level: float, pairs: int) -> None:
    assert pairs_needed(level) == pairs
    assert smallest_paired_p(pairs) <= level < smallest_paired_p(pairs - 1)
    assert _pairs([float(k + 1) for k in range(pairs)]).p(1) == smallest_paired_p(pairs)


def test_six_pairs_are_the_fewest_that_have_an_interval() -> None:
    assert _pairs([1.0] * 5).interval() is None
    found = _pairs([1.0, 2, 3, 4, 5, 6]).interval()
    assert found is not None
    assert (found.low, found.high, found.coverage) == (1, 6, 31 / 32)


def test_p_and_interval_agree_on_zero() -> None:
    draw = Random(5)
    for _ in range(300):
        seen = [draw.gauss(0.5, 1) for _ in range(draw.randrange(6, 20))]
        found = _pairs(seen).interval()
        assert found is not None
        assert found.low <= _pairs(seen).shift <= found.high
        assert (found.low > 0) == (_pairs(seen).p(1) <= (1 - CONFIDENCE) / 2)


def test_an_interval_covers_as_often_as_it_says() -> None:
    draw = Random(6)
    for n in (6, 7, 12):
        covered = 0
        for _ in range(SAMPLES):
            found = _pairs([draw.gauss(2, 1) for _ in range(n)]).interval()
            assert found is not None
            covered += found.low <= 2 <= found.high
        assert covered / SAMPLES >= found.coverage - 3.5 * math.sqrt(0.05 * 0.95 / SAMPLES)


def test_an_outlier_moves_the_shift_no_further_than_its_neighbours_are() -> None:
    assert _pairs([1.0, 2, 3, 4, 5]).shift == 3
    assert _pairs([1.0, 2, 3, 4, 1e9]).shift <= 4


def test_many_pairs_are_merged_and_stay_fast() -> None:
    many = Pairs([0.0] * 1000, [1.0] * 1000)
    assert many.p(1) == many.smallest_p == 2**-32
    assert many.shift == 1
    assert many.interval() is not None


@pytest.mark.parametrize("sides", [([], []), ([1.0], []), ([1.0], [1.0, 2.0])])
def test_what_makes_no_pairs_is_a_defect(sides: tuple[list[float], list[float]]) -> None:
    with pytest.raises(ValueError, match="make no pairs"):
        Pairs(*sides)


Host = Callable[[Random, int], list[float]]


def _drift(draw: Random, blocks: int) -> list[float]:
    slope = draw.gauss(0, 0.2)
    return [slope * at for at in range(blocks)]


def _walk(draw: Random, blocks: int) -> list[float]:
    level, found = 0.0, []
    for _ in range(blocks):
        level += draw.gauss(0, 0.2)
        found.append(level)
    return found


def _step(draw: Random, blocks: int) -> list[float]:
    at = draw.randrange(blocks)
    return [0.5 * (block >= at) for block in range(blocks)]


def _shifts(draw: Random, blocks: int) -> list[float]:
    return [draw.gauss(0, 0.1) for _ in range(blocks)]


def _alternating(_: Random, blocks: int) -> list[float]:
    """Every second block is slower, as where a CPU cools while a pair is prepared."""
    return [0.3 * (block % 2) for block in range(blocks)]


def _nothing(_: Random, blocks: int) -> list[float]:
    return [0.0] * blocks


HOSTS: dict[str, Host] = {
    "quiet": _nothing, "drift": _drift, "walk": _walk, "step": _step, "shifts": _shifts,
    "second of a pair slower": _alternating,
}  # fmt: skip


def _measured(draw: Random, host: Host, pairs: int, effect: float, noise: float) -> Pairs:
    """Return pairs of a host that does `host` under its blocks, in an order that is drawn."""
    levels = host(draw, 2 * pairs)
    old, new = [], []
    for first, second in list(pairwise(levels))[::2]:
        one, other = (draw.gauss(level, noise) for level in (first, second))
        if draw.random() < 0.5:
            one, other = other, one
        old.append(one)
        new.append(other + effect)
    return Pairs(old, new)


@pytest.mark.parametrize("host", HOSTS)
def test_the_level_holds_whatever_the_host_does(host: str) -> None:
    """At 5 %: what it says exactly is missed by so much once in 4000."""
    draw = Random(host)
    red = sum(
        _measured(draw, HOSTS[host], 12, 0.0, 0.05).p(1) <= 0.05 for _ in range(SAMPLES)
    )  # fmt: skip
    assert red / SAMPLES <= 0.05 + 3.5 * math.sqrt(0.05 * 0.95 / SAMPLES)


def _steep(_: Random, blocks: int) -> list[float]:
    """From first to last block the host becomes half as fast again, and drifts on in pairs."""
    return [0.4 * block / blocks for block in range(blocks)]


@pytest.mark.parametrize("host", [_nothing, _steep], ids=["quiet", "steep drift"])
def test_ten_per_cent_is_seen_beside_noise_of_five(host: Host) -> None:
    """At 1 % for 15 tests, what a check of the default pagers asks of 16 pairs."""
    draw = Random(host.__name__)
    seen = sum(
        _measured(draw, host, 16, 0.1, 0.05).p(1) <= 0.01 / 15 for _ in range(400)
    )  # fmt: skip
    assert seen / 400 >= 0.8
