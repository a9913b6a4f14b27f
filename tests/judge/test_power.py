"""The whole check, by simulation: how often it is wrong, what it finds, what it does not promise.

The noise and the runs are those of bench/check_power.py, whose table is longer; seeds are fixed.
"""

from __future__ import annotations

from random import Random
from types import ModuleType

import pytest

from kvmpc.judge.verdicts import Status
from tests.fakes.scripts import load_script

CHECKS = 100


@pytest.fixture(scope="module")
def power() -> ModuleType:
    """Return the script as a module."""
    return load_script("check_power")


def _count(power: ModuleType, name: str, status: Status | None, lost: float = 0.0) -> int:
    """Return how many of `CHECKS` checks come to a status; None is ok."""
    case, draw = power.CASES[name], Random(name)
    return sum(found.status is status for found in power.checks(draw, case, CHECKS, lost))


@pytest.mark.parametrize(
    "name",
    [
        "normal, 2 %",
        "normal, 5 %",
        "normal, 10 %",
        "heavy tails, 5 %",
        "run shift of 1 sd, 2 %, 7 runs of 3",
        "run shift of 1 sd, 5 %, 20 runs of 3",
    ],
)
def test_where_nothing_changed_it_turns_red_no_more_often_than_alpha(
    power: ModuleType, name: str
) -> None:
    # Binomial(100, 0.01): more than 5 has a probability below 0.001.
    assert _count(power, name, Status.WORSE) <= 5


@pytest.mark.parametrize(
    ("name", "lost", "least"),
    [
        ("normal, 2 %", 0.08, 95),
        ("normal, 3 %", 0.10, 95),
        ("normal, 5 %", 0.15, 90),
        ("normal, 10 %", 0.30, 90),
        ("heavy tails, 2 %", 0.15, 80),
        ("run shift of 1 sd, 2 %, 7 runs of 3", 0.15, 95),
    ],
)
def test_a_change_that_is_large_for_the_noise_is_found(
    power: ModuleType, name: str, lost: float, least: int
) -> None:
    assert _count(power, name, Status.WORSE, lost) >= least


@pytest.mark.parametrize(
    "name", ["normal, 2 %", "normal, 3 %", "normal, 10 %", "run shift of 1 sd, 5 %, 7 runs of 3"]
)
def test_a_change_as_large_as_it_says_it_can_see_is_found_four_times_in_five(
    power: ModuleType, name: str
) -> None:
    assert power.seen(Random(name), power.CASES[name], CHECKS) >= 80


def test_quiet_rounds_are_ok_and_noisy_ones_unsure(power: ModuleType) -> None:
    assert _count(power, "normal, 2 %", None) >= 95
    assert _count(power, "normal, 10 %", None) == 0
    assert _count(power, "normal, 10 %", Status.UNSURE) >= 95


@pytest.mark.parametrize("name", ["normal, 2 %", "normal, 5 %", "heavy tails, 5 %"])
def test_a_change_beyond_the_limit_does_not_pass_for_the_same(power: ModuleType, name: str) -> None:
    # Binomial(100, 0.025): more than 9 has a probability below 0.001.
    assert _count(power, name, None, lost=0.055) <= 9


@pytest.mark.parametrize("name", ["run shift of 1 sd, 5 %", "AR(1) 0.8, 5 %"])
def test_rounds_that_are_not_alike_on_both_sides_are_what_alpha_does_not_hold_for(
    power: ModuleType, name: str
) -> None:
    """README says one check in three; where it is less, README has to change."""
    assert _count(power, name, Status.WORSE) >= 33
