"""A starved trial says who took its CPU time, and what helps against that."""

from __future__ import annotations

import pytest

from kvmpc.result.metrics import CPU_READERS, CPU_VCPUS, LOST, OTHERS, STOLEN, THROTTLED
from kvmpc.result.takers import taker_of


@pytest.mark.parametrize(
    ("metrics", "had", "remedy"),
    [
        ({}, "others had", "stop what runs beside"),
        # Of 0.3 s it ran 0.1 s, and lost 0.2 s.
        ({THROTTLED.key: 0.09, STOLEN.key: 0.05}, "others had", "chrt"),
        ({THROTTLED.key: 0.11, OTHERS.key: 9.0}, "quota withheld", "cpu.max"),
        ({STOLEN.key: 0.15, OTHERS.key: 0.3}, "a hypervisor gave others", "CPUs of its own"),
    ],
)
def test_who_took_most_is_named_with_what_helps(
    metrics: dict[str, float], had: str, remedy: str
) -> None:
    ran = {LOST.key: 2 / 3, CPU_VCPUS.key: 0.06, CPU_READERS.key: 0.04}
    taker = taker_of(ran | metrics)
    assert had in taker.had
    assert remedy in taker.remedy
