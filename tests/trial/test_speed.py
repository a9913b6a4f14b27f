"""The host's speed beside a trial: where it is measured, and that every trial has it."""

from __future__ import annotations

import os

import pytest

import kvmpc.trial.speed
from kvmpc.kernel.kvm import Kvm
from kvmpc.pagers import parse_pager
from kvmpc.result.metrics import HOST_SPEED
from kvmpc.trial.seats import Seat
from kvmpc.trial.signals import interruptible
from kvmpc.trial.speed import host_speed
from kvmpc.trial.trial import run_trial
from kvmpc.work.work import Work


@pytest.mark.parametrize("fails", [False, True])
def test_it_is_measured_on_the_seat_and_the_thread_goes_back(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    before = os.sched_getaffinity(0)
    seen = []

    def steps_per_s() -> float:
        seen.append(os.sched_getaffinity(0))
        if fails:
            raise MemoryError
        return 5.0

    monkeypatch.setattr(kvmpc.trial.speed, "steps_per_s", steps_per_s)
    last = frozenset({max(before)})
    for cpus in (last, None):
        if fails:
            with pytest.raises(MemoryError):
                host_speed(Seat(cpus))
        else:
            assert host_speed(Seat(cpus)).metrics == {HOST_SPEED.key: 5.0}
        assert os.sched_getaffinity(0) == before
    assert seen == [last, before]


@pytest.mark.kvm
def test_every_trial_has_it(kvm: Kvm) -> None:
    work = Work(vcpus=1, mem_per_vcpu_bytes=92 * 1024)
    for spec in ("none", "uffd", "exit"):
        with interruptible():
            found = run_trial(kvm, work, parse_pager(spec))
        assert found.metrics[HOST_SPEED.key] > 1e6
