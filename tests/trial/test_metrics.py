"""What real trials measure is what `kvmpc.result.metrics` defines."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kvmpc.result.metrics import CPU_LATENCY, METRICS, THROTTLED
from kvmpc.result.records import TrialResult

Make = Callable[..., TrialResult]
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
    # A TSC that differs between guest and host, or goes back (an emulated one), gives no split.
    no_split = {"split-clock", "split-order"}
    if not any(caution.code in no_split for trial in split for caution in trial.warnings):
        # Not every host has groups with quotas.
        assert METRICS.keys() - emitted <= {CPU_LATENCY.key, THROTTLED.key}


@pytest.mark.parametrize("spec", ["none", "uffd", "exit"])
def test_made_up_trials_have_nothing_that_a_trial_has_not(
    run: Run, make_trial: Make, spec: str
) -> None:
    real, made_up = run(spec), make_trial(spec)
    for name in ("metrics", "counts", "per_vcpu", "per_reader"):
        assert getattr(made_up, name).keys() <= getattr(real, name).keys(), name
    for name in ("pager", "label", "fetches", "verified", "guest_tsc_is_host_tsc"):
        assert type(getattr(made_up, name)) is type(getattr(real, name)), name
    assert (made_up.pager, made_up.label, made_up.verified) == (
        real.pager, real.label, real.verified,
    )  # fmt: skip
