"""A real trial under the real perf: what it finds, and what it leaves."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from kvmpc.kernel.kvm import Kvm
from kvmpc.pagers import parse_pager
from kvmpc.result.records import PROFILED, WAITERS, TrialResult
from kvmpc.trial.profiled import run_profiled
from kvmpc.trial.signals import Interrupt
from kvmpc.units import PAGE_BYTES
from kvmpc.work.work import Work

pytestmark = pytest.mark.kvm

RunProfiled = Callable[..., TrialResult]


@pytest.fixture
def profiled(kvm: Kvm, interrupt: Interrupt, run: Callable[..., TrialResult]) -> RunProfiled:
    """Profile a trial, after one of the same pager; skipped where perf cannot."""
    if shutil.which("perf") is None:
        pytest.skip("there is no perf (linux-perf, linux-tools)")

    def profiled(spec: str, *, pages: int) -> TrialResult:
        run(spec)
        work = Work(vcpus=2, mem_per_vcpu_bytes=pages * PAGE_BYTES)
        result = run_profiled(kvm, work, parse_pager(spec), interrupt=interrupt)
        absent = [w for w in result.warnings if w.code == "profile-absent"]
        if absent:
            pytest.skip(str(absent[0]))
        return result

    return profiled


@pytest.mark.parametrize("spec", ["uffd", "exit"])
def test_a_profile_says_where_the_time_went(profiled: RunProfiled, spec: str) -> None:
    result = profiled(spec, pages=9973)
    assert (result.error, result.round, result.verified) == (None, PROFILED, "yes")
    profile = result.profile
    assert profile is not None
    assert profile.event in ("cycles", "cpu-clock")
    assert sum(profile.modes.values()) == pytest.approx(1.0)
    assert sum(profile.roles.values()) == pytest.approx(1.0)
    assert ("readers" in profile.roles) == (spec == "uffd")
    if not profile.spin:
        pytest.skip("the kernel's functions have no names here")
    assert set(profile.spin) == set(WAITERS)
    assert profile.tells
    assert not any(name.startswith("_Py") for name in profile.top), "after the last page"
    assert 0 <= sum(profile.spin.values()) <= profile.modes["kernel"]
    spent = [share for function, share in profile.top.items() if function != "[unknown]"]
    assert sum(spent) > 0.1


def test_the_samples_are_about_as_many_as_the_cpu_time_has_room_for(profiled: RunProfiled) -> None:
    """Neither what came before the gate nor other threads: that would be more."""
    result = profiled("exit", pages=9973)
    assert result.profile is not None
    assert result.profile.trials == 1
    if result.profile.event != "cpu-clock":
        pytest.skip("cycles are not sampled at a constant rate of time")
    room = result.metrics["cpu_vcpus_s"] * result.profile.frequency_hz
    assert 0.5 * room < result.profile.samples < 1.1 * room + 20


def test_what_is_too_short_is_run_again_until_there_are_samples_enough(
    profiled: RunProfiled,
) -> None:
    result = profiled("none", pages=997)
    assert result.profile is not None
    assert result.profile.trials > 1
    assert result.profile.tells
    assert result.expected_pages == 2 * 997


def test_what_mostly_sleeps_is_not_run_again_for_minutes(
    profiled: RunProfiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvmpc.trial.profiled._LONGEST_S", 0.0)
    result = profiled("none", pages=997)
    trials = 0 if result.profile is None else result.profile.trials
    assert trials <= 1
    codes = [caution.code for caution in result.warnings]
    assert "profile-short" in codes or "profile-absent" in codes


def test_nothing_is_left(profiled: RunProfiled, held: Callable[[], Any]) -> None:
    profiled("uffd", pages=997)
    before = held()
    profiled("uffd", pages=997)
    after = held()
    assert (after.fds, after.threads) == (before.fds, before.threads)
    assert after.children == before.children
    assert not os.path.exists(f"/tmp/perf-{os.getpid()}.map")
