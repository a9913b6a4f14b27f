"""What real trials counted of their competition, beside others that were made to be there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from kvmpc.result.metrics import LOST, OTHERS, WAIT_READERS, WAIT_VCPUS
from kvmpc.result.records import TrialResult
from kvmpc.trial import competition, workers
from kvmpc.trial.rig import Rig

Run = Callable[..., TrialResult]

pytestmark = pytest.mark.kvm

BURN = "print(flush=True)\nwhile True: pass"


@contextmanager
def burners(count: int) -> Iterator[None]:
    """Keep the CPUs of this process busy with `count` others for the block."""
    with ExitStack() as held:
        for _ in range(count):
            burner = held.enter_context(
                subprocess.Popen([sys.executable, "-c", BURN], stdout=subprocess.PIPE)
            )
            held.callback(burner.kill)
            assert burner.stdout is not None
            burner.stdout.readline()
        yield


@contextmanager
def on_one_cpu() -> Iterator[None]:
    """Keep this process and what it starts on one CPU for the block."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize("spec", ["none", "uffd", "exit"])
def test_what_each_thread_waited_is_in_the_result(run: Run, spec: str) -> None:
    trial = run(spec, pages=997)
    waited = trial.per_vcpu["waited_ns"]
    assert len(waited) == trial.vcpus
    assert trial.metrics[WAIT_VCPUS.key] == pytest.approx(sum(waited) / 1e9)
    assert len(trial.per_reader.get("waited_ns", ())) == len(trial.per_reader.get("received", ()))
    assert 0 <= trial.metrics[LOST.key] < 1
    assert trial.metrics[WAIT_READERS.key] >= 0


@pytest.mark.parametrize("spec", ["none", "exit", "uffd"])
def test_beside_two_others_on_its_cpu_a_trial_is_seen_to_lose(run: Run, spec: str) -> None:
    with on_one_cpu(), burners(2):
        # Longer than a scheduler's slice, however fast the host: a shorter one may lose nothing.
        trial = run(spec, pages=20_000 if spec == "none" else 4000, vcpus=1)
    # Two thirds, did all three always run; a thread that sleeps is let in sooner.
    assert trial.metrics[LOST.key] > 0.10
    assert trial.metrics[OTHERS.key] > 0
    (caution,) = (caution for caution in trial.warnings if caution.code == "starved")
    assert "others had" in caution.text
    assert "vcpu0 waited" in caution.text or "reader" in caution.text


def test_threads_that_crowd_out_each_other_alone_lose_nothing(run: Run) -> None:
    if os.geteuid():
        pytest.skip("needs root, for a policy that keeps others away")
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    try:
        trial = run("exit", pages=500, vcpus=8)
    finally:
        os.sched_setscheduler(0, *before)
    assert trial.metrics[WAIT_VCPUS.key] > 0.5 * (trial.elapsed_ns or 0) / 1e9
    assert trial.metrics[LOST.key] < 0.10


def test_where_the_kernel_does_not_count_what_a_thread_waited_its_cpu_time_tells(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object) -> None:
        return None

    monkeypatch.setattr(competition, "thread_times", unknown)
    monkeypatch.setattr(workers, "thread_times", unknown)
    with on_one_cpu(), burners(2):
        trial = run("none", pages=20_000, vcpus=1)
    assert "waited_ns" not in trial.per_vcpu
    assert WAIT_VCPUS.key not in trial.metrics
    assert trial.metrics[LOST.key] > 0.10


def test_cpus_that_went_away_in_the_middle_are_told(run: Run) -> None:
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("needs two CPUs")

    def fewer(_: Any) -> None:
        os.sched_setaffinity(0, {min(allowed)})

    try:
        trial = run("exit", pages=997, vcpus=1, before_gate=lambda rig: _at_gate(rig, fewer))
    finally:
        os.sched_setaffinity(0, allowed)
    (caution,) = (caution for caution in trial.warnings if caution.code == "cpus-changed")
    assert f"to {min(allowed)} during the trial" in caution.text


def _at_gate(rig: Rig, do: Callable[[Any], None]) -> None:
    """Do something between the first look at the CPUs and the gate."""
    begin = rig.stats.begin

    def begin_too() -> None:
        begin()
        do(rig)

    rig.stats.begin = begin_too  # type: ignore[method-assign]
