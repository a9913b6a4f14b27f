"""Shares of a profile with their intervals: Wilson's, against published values and its level."""

from __future__ import annotations

from math import exp, lgamma, log, log1p

import pytest

from kvmpc.judge.profiles import proportion, spin
from kvmpc.result.records import FEWEST_SAMPLES, Profile


def profile(samples: int, **changes: object) -> Profile:
    fields: dict[str, object] = {
        "event": "cycles", "frequency_hz": 1999, "samples": samples, "modes": {"kernel": 1.0},
        "roles": {"vcpus": 1.0}, "spin": {}, "irqs_off": {}, "top": {},
    }  # fmt: skip
    return Profile(**(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        # R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_an_interval_is_the_one_that_is_published(
    hits: int, n: int, low: float, high: float
) -> None:
    found = proportion(profile(n), hits / n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.00005)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999, 1.0, 1.0000001, 40.0])
@pytest.mark.parametrize("samples", [0, 1, 200, 10**9])
def test_ends_lie_around_the_share_and_inside_of_0_and_1(samples: int, share: float) -> None:
    found = proportion(profile(samples), share)
    assert 0 <= found.low <= found.share <= found.high <= 1


def test_what_the_samples_weigh_counts_and_not_their_number() -> None:
    few = proportion(profile(10_000, effective_samples=200), 0.1)
    assert few == proportion(profile(200), 0.1)
    assert profile(10_000, effective_samples=FEWEST_SAMPLES).tells
    assert not profile(10_000, effective_samples=FEWEST_SAMPLES - 1).tells
    # A file may claim what it likes.
    assert profile(10, effective_samples=10**6).weight == 10


@pytest.mark.parametrize("samples", [FEWEST_SAMPLES, 500, 2000])
def test_it_covers_what_it_says_on_the_whole(samples: int) -> None:
    """Summed exactly over all that could be sampled, at shares from one in a hundred on."""
    found = [proportion(profile(samples), hits / samples) for hits in range(samples + 1)]
    covered = [
        sum(
            _chance(hits, samples, share)
            for hits, each in enumerate(found)
            if each.low <= share <= each.high
        )
        for share in (n / 200 for n in range(2, 199))
    ]
    assert sum(covered) / len(covered) == pytest.approx(0.95, abs=0.004)
    assert min(covered) > 0.92


def _chance(hits: int, samples: int, share: float) -> float:
    """Return the binomial probability of so many hits."""
    ways = lgamma(samples + 1) - lgamma(hits + 1) - lgamma(samples - hits + 1)
    return exp(ways + hits * log(share) + (samples - hits) * log1p(-share))


def test_without_names_there_is_no_share_of_spin() -> None:
    assert spin(profile(500)) is None
    found = spin(profile(500, spin={"userfaultfd": 0.25, "other": 0.25}))
    assert found is not None
    assert found.share == 0.5
