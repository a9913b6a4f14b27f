"""The timeline: when samples are taken, and how they are thinned out."""

from __future__ import annotations

import ctypes

import pytest

from kvmpc.loops.records import ResolverRecord
from kvmpc.trial import timeline
from kvmpc.trial.timeline import MAX_SAMPLES, Timeline
from kvmpc.units import PAGE_BYTES
from kvmpc.vm.record import GuestRecord
from kvmpc.work.work import Work


class FakeGuest:
    """Records a page apart, as they are in the low slot."""

    def __init__(self, vcpus: int) -> None:
        self._memory = (ctypes.c_uint8 * (vcpus * PAGE_BYTES))()

    def record(self, vcpu: int) -> GuestRecord:
        """Return vCPU `vcpu`'s record."""
        return GuestRecord.from_buffer(self._memory, vcpu * PAGE_BYTES + 128)


def make(vcpus: int = 3, **options: int) -> tuple[FakeGuest, list[ResolverRecord], Timeline]:
    """Make a timeline of a guest that is not there, with two resolvers."""
    guest, resolvers = FakeGuest(vcpus), [ResolverRecord(), ResolverRecord()]
    work = Work(vcpus=vcpus, mem_per_vcpu_bytes=23 * PAGE_BYTES, **options)  # type: ignore[arg-type]
    return guest, resolvers, Timeline(work, guest, resolvers)  # type: ignore[arg-type]


@pytest.mark.parametrize("vcpus", [1, 3, 160])
def test_a_sample_sums_over_vcpus_and_resolvers(vcpus: int) -> None:
    guest, resolvers, found = make(vcpus)
    for index in range(vcpus):
        guest.record(index).touched = index + 1
        guest.record(index).again = 1000
    resolvers[0].installs, resolvers[1].installs = 5, 8
    found.sample(now=True)
    columns = found.columns(0)
    assert columns["touches"] == (vcpus * (vcpus + 1) // 2,)
    assert columns["installs"] == (13,)


def test_touches_of_further_passes_count_where_there_are_some() -> None:
    guest, _, found = make(2, passes=3)
    guest.record(1).touched, guest.record(1).again = 23, 7
    found.sample(now=True)
    assert found.columns(0)["touches"] == (30,)


def test_samples_before_the_gate_are_left_out() -> None:
    _, _, found = make()
    found.sample(now=True)
    assert found.columns(1 << 62) == {}
    assert len(found.columns(0)["ns"]) == 1


def test_a_sample_is_taken_when_it_is_due_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(timeline.time, "monotonic", lambda: now)
    _, _, found = make()
    for step in range(10):
        now = 100.0 + step * found.interval_s / 2
        found.sample()
    assert len(found.columns(0)["ns"]) == 5


def test_however_long_a_trial_is_its_samples_are_bounded_and_evenly_spread() -> None:
    guest, _, found = make(1)
    for index in range(10 * MAX_SAMPLES):
        guest.record(0).touched = index
        found.sample(now=True)
    touches = found.columns(0)["touches"]
    assert MAX_SAMPLES // 2 <= len(touches) < MAX_SAMPLES
    assert found.interval_s > timeline.FIRST_INTERVAL_S
    assert touches[0] == 0


def test_a_closed_timeline_holds_no_memory_of_the_guest() -> None:
    guest, _, found = make()
    found.sample(now=True)
    found.close()
    found.close()
    assert found.columns(0)["touches"] == (0,)
    del guest
