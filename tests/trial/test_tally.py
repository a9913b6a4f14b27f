"""From records to numbers: sums, what is absent, and what is cautioned about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kvmpc.caution import Caution
from kvmpc.loops.records import ReaderRecord, VcpuRecord
from kvmpc.trial import tally
from kvmpc.units import PAGE_BYTES
from kvmpc.vm.record import GuestRecord
from kvmpc.work.work import Work

GATE_NS = 1_000_000


class FakeGuest:
    """Records of a guest that is not there."""

    def __init__(self, vcpus: int) -> None:
        self.records = [GuestRecord() for _ in range(vcpus)]

    def record(self, vcpu: int) -> GuestRecord:
        """Return vCPU `vcpu`'s record."""
        return self.records[vcpu]


def make_vcpu(start_ns: int, end_ns: int, **fields: int) -> VcpuRecord:
    """Make a vCPU's record, times from the gate, at 3 cycles to a nanosecond."""
    return _filled(VcpuRecord(), start_ns, end_ns, fields)


def make_reader(start_ns: int, end_ns: int, **fields: int) -> ReaderRecord:
    """Make a reader's record in the same way."""
    return _filled(ReaderRecord(), start_ns, end_ns, fields)


def _filled(record: Any, start_ns: int, end_ns: int, fields: dict[str, int]) -> Any:
    times = {
        "start_ns": GATE_NS + start_ns,
        "end_ns": GATE_NS + end_ns,
        "start_cycles": 3 * (GATE_NS + start_ns),
        "end_cycles": 3 * (GATE_NS + end_ns),
        "returns": 1,
    }
    for name, value in (times | fields).items():
        setattr(record, name, value)
    return record


@pytest.fixture
def measured() -> Callable[..., dict[str, float]]:
    """Return the metrics of a trial of 2 vCPUs with 23 pages each and one reader."""

    def measured(
        vcpus: list[VcpuRecord] | None = None, guest: FakeGuest | None = None, **options: Any
    ) -> dict[str, float]:
        work = Work(vcpus=2, mem_per_vcpu_bytes=23 * PAGE_BYTES, **options)
        if guest is None:
            guest = FakeGuest(2)
            for record in guest.records:
                record.histogram[20] = 23
                record.longest_cycles = 20
        if vcpus is None:
            vcpus = [
                make_vcpu(100, 46_000_000, cpu_start_ns=5, cpu_end_ns=1_000_005),
                make_vcpu(300, 23_000_000, cpu_start_ns=0, cpu_end_ns=2_000_000),
            ]
        reader = make_reader(
            -500, 46_500_000, cpu_end_ns=4_000_000, fetches=46, installs=45, eexist=1,
            install_cycles=46 * 3 * 700, fetch_cycles=46 * 3 * 50_000,
        )  # fmt: skip
        return tally.metrics(
            work,
            gate_ns=GATE_NS,
            vcpus=vcpus,
            readers=[reader],
            guest=guest,  # type: ignore[arg-type]
            guest_tsc_khz=2_000_000.0,
        )

    return measured


def test_a_rate_is_the_pages_by_the_time_from_the_gate_to_the_last_vcpus_end(
    measured: Callable[..., dict[str, float]],
) -> None:
    metrics = measured()
    assert metrics["pages_per_s"] == pytest.approx(1000.0)
    assert metrics["mib_per_s"] == pytest.approx(1000 / 256)
    assert metrics["start_skew_ns"] == 300


def test_pages_of_overlapping_vcpus_count_once(measured: Callable[..., dict[str, float]]) -> None:
    assert measured(overlap=True)["pages_per_s"] == pytest.approx(500.0)


def test_cpu_time_is_summed_over_threads_and_set_against_the_memory(
    measured: Callable[..., dict[str, float]],
) -> None:
    metrics = measured()
    assert metrics["cpu_vcpus_s"] == pytest.approx(0.003)
    assert metrics["cpu_readers_s"] == pytest.approx(0.004)
    assert metrics["cpu_s_per_gib"] == pytest.approx(0.007 * 2**30 / (46 * 4096))


def test_install_and_fetch_times_are_means_in_ns(
    measured: Callable[..., dict[str, float]],
) -> None:
    metrics = measured(fetch_delay_ns=50_000)
    assert metrics["install_ns_per_page"] == pytest.approx(700)
    assert metrics["fetch_ns_per_page"] == pytest.approx(50_000)


def test_a_fetch_that_was_not_simulated_has_no_metric(
    measured: Callable[..., dict[str, float]],
) -> None:
    assert "fetch_ns_per_page" not in measured()


@pytest.mark.parametrize("options", [{"overlap": True}, {"timed": False}])
def test_fault_times_are_absent_where_they_would_be_none(
    measured: Callable[..., dict[str, float]], options: dict[str, bool]
) -> None:
    assert not [key for key in measured(**options) if key.startswith("fault_")]


def test_fault_times_are_in_ns_of_the_guests_clock(
    measured: Callable[..., dict[str, float]],
) -> None:
    metrics = measured()
    assert metrics["fault_max_ns"] == pytest.approx(10)
    assert metrics["fault_p50_ns"] == pytest.approx(10, rel=0.1)


def test_no_quantile_is_longer_than_the_longest_touch(
    measured: Callable[..., dict[str, float]],
) -> None:
    guest = FakeGuest(2)
    for record in guest.records:
        record.histogram[400] = 23
        record.longest_cycles = tally.bucket_bounds(400)[0]
    metrics = measured(guest=guest)
    keys = [f"fault_{key}_ns" for key in ("p50", "p90", "p99", "p999", "max")]
    assert len({metrics[key] for key in keys}) == 1


def test_counts_are_sums_over_threads_and_repeats_the_most_of_any() -> None:
    vcpus = [
        make_vcpu(0, 1, kvm_runs=24, installs=23, exits_registers=23, repeats_most=3, repeats=3),
        make_vcpu(0, 1, kvm_runs=25, installs=22, exits_annotated=23, repeats_most=7, returns=4),
    ]
    readers = [make_reader(0, 1, received=5, installs=1), make_reader(0, 1, received=6)]
    counts = tally.counts(vcpus, readers)
    assert counts["kvm_runs"] == 49
    assert counts["installs"] == 46
    assert counts["exits_registers"] == counts["exits_annotated"] == 23
    assert counts["received"] == 11
    assert counts["repeats_most"] == 7
    assert "repeats" not in counts
    # Each thread's last return is no rare path.
    assert counts["returns"] == 3


def test_without_readers_nothing_of_readers_is_counted() -> None:
    counts = tally.counts([make_vcpu(0, 1)], [])
    assert "received" not in counts
    assert counts["returns"] == 0


def test_the_histogram_sums_vcpus_and_leaves_empty_buckets_out() -> None:
    guest = FakeGuest(3)
    for record in guest.records:
        record.histogram[33] = 7
    guest.records[1].histogram[0] = 2
    work = Work(vcpus=3, mem_per_vcpu_bytes=23 * PAGE_BYTES)
    assert tally.histogram(guest, work) == ((0, 0, 2), (34, 35, 21))  # type: ignore[arg-type]


def _cautions(**options: Any) -> list[Caution]:
    work = Work(
        vcpus=10, mem_per_vcpu_bytes=100 * PAGE_BYTES, overlap=options.pop("overlap", False)
    )
    sound = {
        "elapsed_ns": 100_000_000,
        "start_skew_ns": 1_000_000,
        "returns": 1,
    }
    return tally.cautions(work, **(sound | options))


def test_a_sound_trial_has_no_caution() -> None:
    assert _cautions() == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"start_skew_ns": 1_000_001}, "the last vCPU started 1.0% of the trial after the gate"),
        ({"returns": 2}, "2 returns to Python on rare paths, more than 1 per 1000 pages"),
    ],
)
def test_what_makes_a_trial_less_trustworthy_is_said(options: dict[str, Any], text: str) -> None:
    (caution,) = _cautions(**options)
    assert text in caution.text


@pytest.mark.parametrize(
    ("end_ns", "told"),
    [
        ((1000,), ""),
        ((0,), ""),
        ((905, 1000), ""),
        ((890, 1000), "vCPU 0 had its pages after 89% of the trial, vCPU 1 at its end"),
        ((1000, 540), "vCPU 1 had its pages after 54% of the trial, vCPU 0 at its end"),
        ((1000, 540), "waited for the last 23.0% of their time"),
        ((0, 0), ""),
        ((*(1000,) * 159, 10), ""),
        ((*(10,) * 159, 1000), "waited for the last 98.4% of their time"),
    ],
)
def test_vcpus_that_waited_for_the_last_are_said_with_how_much_the_rate_lost(
    end_ns: tuple[int, ...], told: str
) -> None:
    found = tally.stragglers(end_ns)
    assert len(found) == bool(told)
    for caution in found:
        assert told in caution.text
        assert caution.size > 0.05
    assert tally.speeds({}, end_ns, None).cautions == found


def test_returns_are_set_against_every_vcpus_touches_also_with_overlap() -> None:
    assert _cautions(overlap=True) == []
    assert len(_cautions(overlap=True, returns=2)) == 1


def test_context_switches_are_summed_by_role_without_the_sleep_at_the_gate() -> None:
    vcpus = [make_vcpu(0, 1, gate_sleeps=1), make_vcpu(0, 1, gate_sleeps=2)]
    reader = make_reader(0, 1)
    for record, voluntary, involuntary in ((vcpus[0], 24, 5), (vcpus[1], 25, 7), (reader, 997, 11)):
        record.usage_start.ru_nvcsw, record.usage_start.ru_nivcsw = 100, 200
        record.usage_end.ru_nvcsw = 100 + voluntary
        record.usage_end.ru_nivcsw = 200 + involuntary
    counts = tally.counts(vcpus, [reader])
    assert counts["switches_voluntary_vcpus"] == 23 + 23
    assert counts["switches_involuntary_vcpus"] == 12
    assert counts["switches_voluntary_readers"] == 997
    assert counts["switches_involuntary_readers"] == 11


def test_a_thread_that_never_came_to_its_end_switched_no_negative_times() -> None:
    record = make_vcpu(0, 1)
    record.usage_start.ru_nvcsw = 23
    assert tally.switches(record) == (0, 0)


def test_switches_of_readers_are_absent_without_readers() -> None:
    assert not [key for key in tally.counts([make_vcpu(0, 1)], []) if key.endswith("_readers")]


def line(*points: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Make a timeline of (ns, touches)."""
    return {"ns": tuple(p[0] for p in points), "touches": tuple(p[1] for p in points)}


def test_a_guest_that_is_slow_to_its_last_page_is_fast_only_then() -> None:
    slow = line((100, 1), (200, 2), (300, 3), (400, 4))
    assert tally.time_to_speed_ns(slow, [400, 400], 1e9, 0.5) == 400


def test_a_vcpu_that_has_its_pages_counts_as_running_at_full_speed() -> None:
    slow = line((100, 1), (200, 2), (300, 3), (400, 4))
    assert tally.time_to_speed_ns(slow, [200, 400], 1e9, 0.5) == 200
    assert tally.time_to_speed_ns(slow, [200, 400], 1e9, 0.95) == 400


def test_a_guest_that_comes_to_speed_while_it_touches_is_seen_to() -> None:
    found = line((100, 10), (200, 90), (300, 170), (400, 250))
    assert tally.time_to_speed_ns(found, [400, 400], 1e9, 0.5) == 100
    assert tally.time_to_speed_ns(found, [400, 400], 1e9, 0.95) == 400


def test_a_speed_that_was_lost_again_was_not_reached() -> None:
    found = line((100, 90), (200, 91), (300, 180), (400, 270))
    assert tally.time_to_speed_ns(found, [400, 400], 1e9, 0.5) == 200


@pytest.mark.parametrize("points", [(), ((100, 5),), ((500, 46), (600, 92))])
def test_without_two_samples_in_the_first_pass_there_is_no_time(
    points: tuple[tuple[int, int], ...],
) -> None:
    assert tally.time_to_speed_ns(line(*points), [400, 400], 1e9, 0.5) is None


@pytest.mark.parametrize(
    ("end_ns", "expected"),
    [([100], 1.0), ([100] * 160, 1.0), ([1, 10**9, 10**9, 10**9], 0.25), ([100, 200], 0.9)],
)
def test_fairness_is_one_where_all_fare_alike_and_one_nth_where_one_has_it_all(
    end_ns: list[int], expected: float
) -> None:
    assert tally.fairness(end_ns) == pytest.approx(expected, rel=1e-3)
