"""Trials under perf: where their CPU time went. They are no part of any rate."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final

from kvmpc.caution import Caution
from kvmpc.kernel.kvm import Kvm
from kvmpc.pagers import Pager
from kvmpc.result.metrics import CPU_READERS, CPU_VCPUS
from kvmpc.result.records import FEWEST_SAMPLES, OK, PROFILED, TrialResult
from kvmpc.trial.perf import Recorder, not_allowed
from kvmpc.trial.samples import cautions, summarise
from kvmpc.trial.signals import NEVER, Interrupt
from kvmpc.trial.trial import run_trial
from kvmpc.trial.watchdog import WATCHDOG_S
from kvmpc.work.work import Work

__all__ = ["run_profiled"]

_WANTED_SAMPLES: Final = 2 * FEWEST_SAMPLES
"""That of a quarter of the time is then known to 4 points of a hundred either way."""

_MOST_TRIALS: Final = 24

_LONGEST_S: Final = 10.0
"""After so long no further trial begins: what mostly sleeps (a long fetch) gives few samples."""


def run_profiled(
    kvm: Kvm,
    work: Work,
    pager: Pager,
    *,
    watchdog_s: float = WATCHDOG_S,
    interrupt: Interrupt = NEVER,
) -> TrialResult:
    """Run a trial of round `PROFILED` and say where its time went, or why that cannot be said.

    Where one is too short for samples enough, several: what is returned is the last of them, with
    the profile of all.
    After another trial of `pager`: perf knows only code that was there when it started, and that
    one assembled the loops. perf starts before the trial has any memory, and its samples are read
    after that is gone.
    Raises: Interrupted, StuckError. Everything else that goes wrong is in the result.
    """
    trials, sampled_s, begin_s = 0, 0.0, time.monotonic()
    with Recorder(interrupt) as recorder:
        while True:
            result = run_trial(
                kvm,
                work,
                pager,
                round_number=PROFILED,
                watchdog_s=watchdog_s,
                interrupt=interrupt,
                recorder=recorder,
            )
            if result.status != OK:
                return result
            trials += 1
            sampled_s += _cpu_s(result)
            enough = sampled_s * recorder.frequency_hz >= _WANTED_SAMPLES
            late = trials == _MOST_TRIALS or time.monotonic() - begin_s > _LONGEST_S
            if enough or late or recorder.problem is not None:
                break
        with recorder.samples() as samples:
            found = summarise(
                samples, recorder.windows, frequency_hz=recorder.frequency_hz, trials=trials
            )
    if found is not None and not found.modes.get("kernel"):
        # What is left, the host's loops, would pass for all there is.
        found = None
        recorder.problem = Caution(
            "profile-absent",
            "not profiled: perf was not allowed to sample the kernel",
            not_allowed(),
        )
    if found is not None:
        weakened = cautions(found)
    elif recorder.problem is not None:
        weakened = [recorder.problem]
    else:
        text = "not profiled: perf gave no sample of the trial's threads"
        weakened = [Caution("profile-absent", text, "give each vCPU more pages (--mem-per-vcpu)")]
    return replace(result, profile=found, warnings=(*result.warnings, *weakened))


def _cpu_s(result: TrialResult) -> float:
    return sum(result.metrics.get(metric.key, 0.0) for metric in (CPU_VCPUS, CPU_READERS))
