"""How long the trials that are left will take."""

from __future__ import annotations

import pytest

from kvmpc.run.estimate import Estimate
from tests.fakes.schedules import make_schedule


def test_time_left_is_that_of_the_nearest_size_of_the_same_pager() -> None:
    estimate = Estimate()
    left = list(make_schedule(("uffd", "exit"), rounds=1, vcpus="1,2,16").trials())
    assert estimate.left_s(left) is None
    by_key = {(s.point, s.round, s.pager.spec): s for s in left}
    estimate.add(by_key[0, 1, "uffd"], 2.5, 2.0)
    assert estimate.left_s([by_key[1, 1, "uffd"]]) == pytest.approx(4.5, abs=0.01)
    # For want of one of its own.
    assert estimate.left_s([by_key[1, 1, "exit"]]) == pytest.approx(4.5, abs=0.01)
    estimate.add(by_key[1, 1, "exit"], 11.0, 10.0)
    left_s = estimate.left_s([by_key[2, 1, "exit"], by_key[2, 1, "uffd"]])
    assert left_s == pytest.approx(80 + 1 + 32 + 0.5, abs=0.1)
    # Set-up does not shrink with the pages.
    assert estimate.left_s([by_key[0, 0, "uffd"]]) == pytest.approx(0.25 + 0.5, abs=0.01)
