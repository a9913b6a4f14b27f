"""What real trials measure is what `kvmpc.result.metrics` defines."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kvmpc.result.metrics import CPU_LATENCY, METRICS
from kvmpc.result.records import TrialResult

Run = Callable[..., TrialResult]

pytestmark = pytest.mark.kvm


def test_trials_emit_all_known_metrics_and_no_other(run: Run) -> None:
    split = [
        run(spec, pages=997, split=True, passes=3, fetch_delay_ns=20_000)
        for spec in ("none", "uffd", "exit")
    ]
    long = run("uffd", pages=20_011, passes=50)  # whose way to full speed was seen
    emitted = {key for trial in (*split, long) for key in trial.metrics}
    assert emitted <= METRICS.keys()
    if not any(caution.code == "split-clock" for trial in split for caution in trial.warnings):
        assert METRICS.keys() - emitted <= {CPU_LATENCY.key}
