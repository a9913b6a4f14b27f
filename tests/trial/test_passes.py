"""Further passes and the timeline, on real KVM: full speed, and pages that changed meanwhile."""

from __future__ import annotations

import mmap
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from kvmpc.errors import Interrupted
from kvmpc.kernel import syscalls
from kvmpc.result.records import TrialResult
from kvmpc.trial.rig import Rig
from kvmpc.trial.signals import Interrupt
from kvmpc.units import PAGE_BYTES
from kvmpc.vm.record import HISTOGRAM_BUCKETS

pytestmark = pytest.mark.kvm

Run = Callable[..., TrialResult]
SPECS = pytest.mark.parametrize("spec", ["none", "none,host=populated", "uffd", "exit"])


@SPECS
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"vcpus": 1, "pages": 1},
        {"vcpus": 160, "touch_pages": 7, "order": "scattered"},
        {"overlap": True, "order": "scattered"},
        {"timed": False, "checked": False},
    ],
)
def test_every_vcpu_makes_every_pass_and_pass_one_is_what_is_measured(
    run: Run, spec: str, options: dict[str, Any]
) -> None:
    result = run(spec, passes=5, **options)
    assert result.error is None
    vcpus, touches = result.vcpus, options.get("touch_pages", options.get("pages", 23))
    assert result.timeline["touches"][-1] == 5 * touches * vcpus
    assert set(result.per_vcpu["touched"]) == {touches}
    if options.get("timed", True):
        assert sum(n for *_, n in result.histogram_cycles) == touches * vcpus
        assert len(result.histogram_cycles) < HISTOGRAM_BUCKETS
    assert result.elapsed_ns == max(result.per_vcpu["end_ns"])
    assert result.timeline["ns"][-1] > result.elapsed_ns
    assert result.metrics["full_speed_touches_per_s"] > 0


def test_reads_are_repeated_too(run: Run) -> None:
    assert run("uffd", passes=3, access="read").error is None


@pytest.mark.parametrize("spec", ["uffd", "exit"])
def test_full_speed_is_far_above_the_speed_on_missing_pages(run: Run, spec: str) -> None:
    result = run(spec, pages=997, passes=101)
    assert result.error is None
    assert result.metrics["full_speed_touches_per_s"] > 10 * result.metrics["pages_per_s"]
    for name in ("to_half_speed_ns", "to_95_speed_ns"):
        assert 0 < result.metrics[name] <= result.elapsed_ns


def test_without_further_passes_nothing_is_sampled_unless_asked_for(run: Run) -> None:
    result = run("uffd")
    assert result.timeline == {}
    assert not [name for name in result.metrics if "speed" in name]
    assert 0 < result.metrics["fairness_share"] <= 1
    assert result.metrics["finish_spread_ns"] >= 0


@pytest.mark.parametrize("spec", ["none", "uffd", "exit"])
def test_a_timeline_never_goes_back_and_ends_with_every_page(run: Run, spec: str) -> None:
    result = run(spec, pages=997, timeline=True)
    assert result.error is None
    line = result.timeline
    assert len({len(column) for column in line.values()}) == 1
    for column in line.values():
        assert list(column) == sorted(column)
    assert line["touches"][-1] == 3 * 997
    assert line["installs"][-1] == (0 if spec == "none" else 3 * 997)


@pytest.mark.parametrize("spec", ["uffd", "exit"])
@pytest.mark.parametrize("word", [0, 1, 511])
def test_a_page_that_lost_what_it_held_is_found_in_a_further_pass(
    run: Run, spec: str, word: int
) -> None:
    def damage(rig: Rig) -> None:
        hva = rig.memory.hva_of_page(23 + 7) + word * 8
        syscalls.write_own_memory(hva, bytes(8))

    result = run(spec, before_passes=damage, passes=2)
    assert result.status == "failed"
    assert result.error is not None
    assert "vcpu1 found 1 pages changed in a further pass, first page 30" in result.error


def test_a_page_that_went_missing_meanwhile_ends_the_trial(run: Run) -> None:
    def drop(rig: Rig) -> None:
        hva = rig.memory.hva_of_page(7)
        syscalls.madvise(hva, PAGE_BYTES, mmap.MADV_DONTNEED, call="madvise")

    result = run("uffd", before_passes=drop, passes=2, watchdog_s=2)
    assert result.status == "failed"
    assert result.error is not None
    assert "vcpu0 for page 7 in a further pass" in result.error


@pytest.mark.parametrize("spec", ["uffd", "exit"])
def test_an_interrupt_ends_further_passes(run: Run, interrupt: Interrupt, spec: str) -> None:
    timers: list[threading.Timer] = []

    def interrupt_soon(_: Rig) -> None:
        timers.append(threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)))
        timers[0].start()

    # To their end it would be minutes, and the watchdog is patient as long as they get on.
    with pytest.raises(Interrupted):
        run(spec, before_passes=interrupt_soon, pages=997, passes=1_000_000)
    timers[0].join()
    assert interrupt.signal_name == "SIGINT"
