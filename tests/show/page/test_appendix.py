"""What a reader needs to judge a page's numbers."""

from __future__ import annotations

import random
from dataclasses import replace

from kvmpc.host.facts import fact_names
from kvmpc.show.page.appendix import SHOWN_FACTS, failures_of
from kvmpc.show.page.panels import panels_of
from tests.fakes.sweeps import skipped, sweep, trial


def test_failed_and_skipped_rows_come_with_place_and_reason() -> None:
    chance = random.Random(1)
    failed = trial("exit", 2, 1, chance, point=1, status="failed")
    result = sweep((1, 2), ("uffd", "exit"), rounds=1)
    result = replace(
        result, trials=(*result.trials, failed), skipped=(skipped(0, "uffd", "no memory"),)
    )
    assert failures_of(panels_of(result)[0]) == [
        ("1 vCPU", "uffd", "skipped", "no memory"),
        (
            "2 vCPUs",
            "exit(sigbus)",
            "failed (1 of 2 trials)",
            "vcpu1: page 22 holds the wrong tag",
        ),
    ]


def test_every_fact_that_is_shown_at_once_is_one_that_a_host_has() -> None:
    assert set(SHOWN_FACTS) <= fact_names()
