"""The guest's clock is doubted for what is wrong with it, and for nothing that a wait can do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from kvmpc.loops.records import ReaderRecord, VcpuRecord
from kvmpc.trial import clocks
from kvmpc.vm.record import GuestRecord

PER_NS = 2
TOLD_KHZ = PER_NS * 1_000_000
BOOT_NS = 3_600_000_000_000
"""When the trial begins, by clocks that began together."""

LASTS_NS = 100_000_000


class FakeGuest:
    """Records of a guest that is not there."""

    def __init__(self, records: Sequence[GuestRecord]) -> None:
        self.records = records

    def record(self, vcpu: int) -> GuestRecord:
        """Return vCPU `vcpu`'s record."""
        return self.records[vcpu]


def _vcpu(
    *, lasts_ns: int = LASTS_NS, before_tsc_ns: int = 0, preempted: int = 1, **changed: int
) -> VcpuRecord:
    """Make a thread's record; it waited `before_tsc_ns` between its clock and its TSC at the end.

    That its first stamp is the one between is the same: its span in cycles is short.
    """
    record = VcpuRecord()
    fields = {
        "start_ns": BOOT_NS,
        "end_ns": BOOT_NS + lasts_ns + before_tsc_ns,
        "start_cycles": PER_NS * BOOT_NS,
        "end_cycles": PER_NS * (BOOT_NS + lasts_ns),
    }
    for name, value in (fields | changed).items():
        setattr(record, name, value)
    record.usage_end.ru_nivcsw = preempted
    return record


def _guest(
    *, rate: float = 1.0, after_ns: int = 1000, lasts_ns: int = LASTS_NS, **changed: int
) -> GuestRecord:
    """Make the record of a vCPU that began `after_ns` late, its clock `rate` times the host's."""
    record = GuestRecord()
    fields = {
        "start_cycles": int(rate * PER_NS * (BOOT_NS + after_ns)),
        "end_cycles": int(rate * PER_NS * (BOOT_NS + lasts_ns - 1000)),
    }
    for name, value in (fields | changed).items():
        setattr(record, name, value)
    return record


def _codes(
    vcpus: Sequence[VcpuRecord],
    guests: Sequence[GuestRecord],
    *,
    told_khz: int | None = TOLD_KHZ,
    shared: bool = True,
) -> list[str]:
    guest: Any = FakeGuest(guests)
    found = clocks.clock_cautions(guest, vcpus, [], told_khz=told_khz, shared=shared)
    return [caution.code for caution in found]


@pytest.fixture(autouse=True)
def host_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the host's TSC run at `PER_NS`."""
    monkeypatch.setattr(clocks, "host_cycles_per_ns", lambda: float(PER_NS))


@pytest.mark.parametrize("shared", [True, False])
def test_a_sound_clock_is_not_doubted(shared: bool) -> None:
    assert _codes([_vcpu(), _vcpu()], [_guest(), _guest()], shared=shared) == []


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("waited_ns", [2_000_000, 53_000_000, 99_000_000])
def test_vcpus_that_all_waited_before_the_guest_began_cast_no_doubt(
    waited_ns: int, shared: bool
) -> None:
    guests = [_guest(after_ns=waited_ns)] * 2
    assert _codes([_vcpu(), _vcpu()], guests, shared=shared) == []


@pytest.mark.parametrize("shared", [True, False])
def test_threads_that_all_waited_between_two_of_the_hosts_clocks_cast_no_doubt(
    shared: bool,
) -> None:
    vcpus = [_vcpu(before_tsc_ns=60_000_000)] * 2
    assert _codes(vcpus, [_guest()] * 2, shared=shared) == []


@pytest.mark.parametrize("rate", [0.9, 0.999, 0.999999, 1.000001, 1.5, 2.0])
def test_a_clock_that_should_be_the_hosts_and_counts_otherwise_is_seen(rate: float) -> None:
    # What is off is its share of all the time since boot, of which the trial is a small part.
    assert _codes([_vcpu()], [_guest(rate=rate)]) == ["tsc-outside"]


@pytest.mark.parametrize(
    "changed",
    [
        {"end_cycles": 0},
        {"end_cycles": 1 << 63},
        {"end_cycles": PER_NS * BOOT_NS},
        {"start_cycles": 0},
        {"start_cycles": PER_NS * (BOOT_NS + LASTS_NS)},
    ],
)
def test_a_guests_stamp_that_is_wrong_altogether_is_seen(changed: dict[str, int]) -> None:
    assert _codes([_vcpu(), _vcpu()], [_guest(), _guest(**changed)]) == ["tsc-outside"]


@pytest.mark.parametrize(
    ("told_khz", "codes"),
    [(TOLD_KHZ, []), (TOLD_KHZ * 1000 // 1009, []), (TOLD_KHZ // 2, ["tsc-rate"]),
     (TOLD_KHZ * 11 // 10, ["tsc-rate"]), (None, [])],
)  # fmt: skip
def test_what_kvm_says_of_the_hosts_clock_is_held_against_it(
    told_khz: int | None, codes: list[str]
) -> None:
    assert _codes([_vcpu()], [_guest()], told_khz=told_khz) == codes


def test_a_wait_does_not_hide_what_kvm_says_wrongly() -> None:
    guest: Any = FakeGuest([_guest()])
    vcpus, half_khz = [_vcpu(before_tsc_ns=30_000_000)], TOLD_KHZ // 2
    (caution,) = clocks.clock_cautions(guest, vcpus, [], told_khz=half_khz, shared=True)
    assert f"runs at {TOLD_KHZ / 1000:.1f} MHz" in caution.text
    assert caution.size == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("rate", "preempted", "codes"),
    [
        (1.02, 1, ["tsc-rate"]),
        (2.0, 1, ["tsc-rate"]),
        (0.97, 0, []),
        (0.5, 1, []),
        (0.5, 0, ["tsc-rate"]),
    ],
)
def test_a_clock_of_the_guests_own_is_doubted_if_too_fast_or_slow_without_a_wait(
    rate: float, preempted: int, codes: list[str]
) -> None:
    vcpus = [_vcpu(preempted=preempted), _vcpu(preempted=1)]
    assert _codes(vcpus, [_guest(rate=rate)] * 2, shared=False) == codes


@pytest.mark.parametrize("shared", [True, False])
def test_a_short_trial_says_nothing_of_a_rate(shared: bool) -> None:
    vcpus, guests = [_vcpu(lasts_ns=20_000_000)], [_guest(lasts_ns=20_000_000)]
    assert _codes(vcpus, guests, told_khz=TOLD_KHZ // 2, shared=shared) == []


@pytest.mark.parametrize("waited_ns", [0, 20_000_000])
def test_a_thread_that_waited_between_clock_and_tsc_does_not_change_the_hosts_rate(
    waited_ns: int,
) -> None:
    never_ran = VcpuRecord()
    rate = clocks.cycles_per_ns([_vcpu(before_tsc_ns=waited_ns), _vcpu(), never_ran])
    assert rate == pytest.approx(PER_NS)


@pytest.mark.parametrize(
    ("told_khz", "shared", "expected"),
    [(123, True, 123.0), (123, False, 123.0), (None, True, TOLD_KHZ), (None, False, TOLD_KHZ / 2)],
)
def test_the_guests_rate_is_kvms_word_or_the_hosts_or_what_its_stamps_say(
    told_khz: int | None, shared: bool, expected: float
) -> None:
    guest: Any = FakeGuest([_guest(after_ns=LASTS_NS // 2)])
    readers = [ReaderRecord()]
    found = clocks.guest_tsc_khz(guest, [_vcpu()], readers, told_khz=told_khz, shared=shared)
    assert found == pytest.approx(expected, rel=1e-3)
