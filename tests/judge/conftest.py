"""Runs to judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest

from kvmpc.result.records import Result

Make = Callable[..., Any]

PAGERS = ("none", "uffd", "exit")
RATES = {
    "none": 400_000.0,
    "uffd": 100_000.0,
    "exit": 150_000.0,
    "uffd,uffds=per-vcpu": 120_000.0,
    "exit,uffds=per-vcpu": 160_000.0,
}


@pytest.fixture
def make_run(make_trial: Make, make_result: Make) -> Make:
    """Make a run of `rounds` of each pager, with noise on everything, correlated within a trial."""

    def make(
        draw: Random,
        *,
        rounds: int = 10,
        noise: float = 0.03,
        pagers: Sequence[str] = PAGERS,
        slower: dict[str, float] | None = None,
        whole: float = 1.0,
        slow_host: float = 1.0,
        host_speed: float | None = 2e8,
        **changes: object,
    ) -> Result:
        """Make it; whole: how much slower every pager is, slow_host: and with it the host itself.

        host_speed: of the host, in each trial; None of an older kvmpc.
        """
        trials = []
        for number in range(1, rounds + 1):
            for pager in pagers:
                speed = draw.lognormvariate(0, noise) / (slower or {}).get(pager, 1.0)
                speed /= whole * slow_host
                metrics = {
                    "pages_per_s": RATES[pager] * speed,
                    "fault_p99_ns": 1e5 / speed * draw.lognormvariate(0, noise / 3),
                    "cpu_s_per_gib": 5 / speed * draw.lognormvariate(0, noise / 3),
                }
                if host_speed is not None:
                    metrics["host_steps_per_s"] = (
                        host_speed / slow_host * draw.lognormvariate(0, 0.003)
                    )
                trials.append(make_trial(pager, number, metrics=metrics))
        return make_result(*trials, **changes)  # type: ignore[no-any-return]

    return make
