"""The rate of the host's TSC, and what a record is given of it."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

import kvmpc.loops.tsc
import kvmpc.sources.delay
from kvmpc.errors import KernelError
from kvmpc.loops.records import ResolverRecord, Return, SharedRecord
from kvmpc.loops.tsc import host_cycles_per_ns
from kvmpc.pagers.pager import Supply
from kvmpc.work.tags import tag_rule


@pytest.fixture
def fresh() -> Iterator[None]:
    """Forget the rate before and after."""
    host_cycles_per_ns.cache_clear()
    yield
    host_cycles_per_ns.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_the_rate_is_measured_once_a_process() -> None:
    rate = host_cycles_per_ns()
    assert host_cycles_per_ns() == rate
    assert host_cycles_per_ns.__wrapped__() == pytest.approx(rate, rel=0.01)


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("late", [{0: "start"}, {1: "end"}, {0: "end", 2: "start"}])
def test_a_thread_pre_empted_between_clock_and_tsc_does_not_change_the_rate(
    monkeypatch: pytest.MonkeyPatch, late: dict[int, str]
) -> None:
    """Time passes between the two, once or twice in the three spans."""
    cycles = 10**10
    spans = 0

    def call(function: str, record: ResolverRecord) -> int:
        nonlocal cycles, spans
        waits = 9_000_000 if late.get(spans) == function.removeprefix("stamp_") else 0
        if function == "stamp_start":
            record.start_ns = cycles // 3
            cycles += waits
            record.start_cycles = cycles
            cycles += 21_000_000
        else:
            record.end_cycles = cycles
            cycles += waits
            record.end_ns = cycles // 3
            spans += 1
        return Return.OK

    monkeypatch.setattr(kvmpc.loops.tsc, "load", lambda _: SimpleNamespace(call=call))
    assert host_cycles_per_ns() == pytest.approx(3.0, rel=1e-6)
    assert spans == 3


@pytest.mark.usefixtures("fresh")
def test_a_clock_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def call(function: str, record: ResolverRecord) -> int:
        assert function == "stamp_start"
        record.error = errno.EINVAL
        return Return.FAILED

    monkeypatch.setattr(kvmpc.loops.tsc, "load", lambda _: SimpleNamespace(call=call))
    with pytest.raises(KernelError, match="clock_gettime") as caught:
        host_cycles_per_ns()
    assert caught.value.errno == errno.EINVAL


def _equipped(delay_ns: int) -> ResolverRecord:
    record = ResolverRecord()
    scene = SimpleNamespace(
        work=SimpleNamespace(fetch_delay_ns=delay_ns, verify="words"),
        memory=SimpleNamespace(data_hva=0x7000),
        bitmap=SimpleNamespace(missing_address=0x1000, claimed_address=0x2000),
        shared=SharedRecord(),
        tags=tag_rule(1),
    )
    Supply(scene).equip(record, 0x3000)  # type: ignore[arg-type]
    assert record.shared == ctypes.addressof(scene.shared)
    return record


@pytest.mark.parametrize("rate", [0.024, 1.0, 2.6, 5.7])
@pytest.mark.parametrize("delay_ns", [1, 200_000, 10**10])
def test_a_delay_is_given_in_cycles_which_come_back_as_the_same_nanoseconds(
    monkeypatch: pytest.MonkeyPatch, rate: float, delay_ns: int
) -> None:
    monkeypatch.setattr(kvmpc.sources.delay, "host_cycles_per_ns", lambda: rate)
    record = _equipped(delay_ns)
    assert record.fetch_delay_ns == delay_ns
    assert record.fetch_delay_cycles == round(delay_ns * rate)
    back_ns = record.fetch_delay_cycles * record.ns_per_cycle_q32 / 2**32
    assert back_ns == pytest.approx(delay_ns, rel=1e-8, abs=0.5 / rate)


def test_without_a_delay_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> float:
        raise AssertionError("20 ms for nothing")

    monkeypatch.setattr(kvmpc.sources.delay, "host_cycles_per_ns", refuse)
    record = _equipped(0)
    found = record.fetch_delay_ns, record.fetch_delay_cycles, record.ns_per_cycle_q32
    assert found == (0, 0, 0)
