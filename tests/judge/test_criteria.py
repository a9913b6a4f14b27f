"""What may be asked of a check."""

from __future__ import annotations

from typing import Any

import pytest

from kvmpc.errors import UsageError
from kvmpc.judge.criteria import JUDGED, Criteria


@pytest.mark.parametrize(
    "wrong",
    [
        {"alpha": 0.0},
        {"alpha": 0.6},
        {"alpha": float("nan")},
        {"limits": {"rate": -0.1}},
        {"limits": {"rate": float("nan")}},
        {"limits": {"speed": 0.1}},
        {"alphas": {"speed": 0.1}},
        {"allow_host": ("colour",)},
        {"limits": dict.fromkeys(JUDGED)},
    ],
)
def test_criteria_that_make_no_sense_are_refused(wrong: Any) -> None:
    with pytest.raises(UsageError):
        Criteria(**wrong)
