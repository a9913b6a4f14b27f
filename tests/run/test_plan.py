"""What a plan refuses before any trial."""

from __future__ import annotations

import pytest

from kvmpc.errors import UsageError
from tests.fakes.schedules import make_schedule


@pytest.mark.parametrize("rounds", [0, -1, 1001])
def test_rounds_out_of_range_are_refused(rounds: int) -> None:
    with pytest.raises(UsageError) as caught:
        make_schedule(rounds=rounds)
    assert (caught.value.option, caught.value.allowed) == ("--rounds", "1 to 1000")


@pytest.mark.parametrize("warmup", [-1, 1001])
def test_warm_ups_out_of_range_are_refused(warmup: int) -> None:
    with pytest.raises(UsageError) as caught:
        make_schedule(warmup=warmup)
    assert (caught.value.option, caught.value.allowed) == ("--warmup", "0 to 1000")


@pytest.mark.parametrize("again", ["uffd", "uffd,readers=1", "uffd,uffds=1"])
def test_a_pager_given_twice_is_refused_however_it_is_written(again: str) -> None:
    with pytest.raises(UsageError, match="each pager once; for more trials, --rounds"):
        make_schedule(("uffd", "exit", again))


def test_a_pager_that_cannot_be_measured_on_the_work_is_refused_before_any_trial() -> None:
    with pytest.raises(UsageError, match="one shared zero page"):
        make_schedule(access="read")
