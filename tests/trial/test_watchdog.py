"""The watchdog: what ends a wait, what does not, and whom it names. No VM, no threads."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from kvmpc.errors import Interrupted, TrialError, WatchdogError
from kvmpc.loops.records import SharedRecord, VcpuRecord
from kvmpc.trial import watchdog
from kvmpc.trial.crew import Event, Worker
from kvmpc.trial.signals import Interrupt
from kvmpc.trial.watchdog import Watchdog
from kvmpc.units import PAGE_BYTES
from kvmpc.vm.record import GuestRecord
from kvmpc.work.layout import Layout
from kvmpc.work.work import Work

POLL_S = 0.1


class FakeRig:
    """3 vCPUs of 23 pages; `script` gives an event, or None after a poll without one."""

    def __init__(self) -> None:
        self.now = 100.0
        self.script: list[Event | Callable[[], None] | None] = []
        self.work = Work(vcpus=3, mem_per_vcpu_bytes=23 * PAGE_BYTES)
        self.layout = Layout(self.work)
        self.gate = SharedRecord()
        self.passes = SimpleNamespace(shared=SharedRecord())
        self.records = [GuestRecord(touches=23) for _ in range(3)]
        self.guest = SimpleNamespace(record=lambda vcpu: self.records[vcpu])
        self.filled = 0
        self.supply = SimpleNamespace(progress=lambda: self.filled)
        self.vcpus = [self._worker(index) for index in range(3)]
        self.crew = SimpleNamespace(events=self.events)
        self.polled_at: list[float] = []

    def _worker(self, index: int) -> Any:
        worker: Any = Worker(name=f"vcpu{index}", record=VcpuRecord())
        worker.index = index
        return worker

    def events(self, poll_s: float) -> Iterator[Event | None]:
        """Give what the script has, then nothing for ever."""
        self.polled_at.append(poll_s)
        for step in self.script:
            if isinstance(step, Event):
                yield step
            else:
                if step is not None:
                    step()
                self.now += poll_s
                yield None
        while True:
            self.now += poll_s
            yield None


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> FakeRig:
    """A rig whose clock goes on only while somebody polls."""
    rig = FakeRig()

    def sleep(seconds: float) -> None:
        rig.now += seconds

    clock = SimpleNamespace(monotonic=lambda: rig.now, sleep=sleep)
    monkeypatch.setattr(watchdog, "time", clock)
    return rig


def watch(rig: FakeRig, limit_s: float = 10.0, interrupt: Interrupt | None = None) -> Watchdog:
    """Make a watchdog for it."""
    return Watchdog(rig, interrupt or Interrupt(), limit_s)  # type: ignore[arg-type]


def event(rig: FakeRig, vcpu: int, kind: str = "done", error: BaseException | None = None) -> Event:
    """Make an event of a vCPU's thread."""
    return Event(kind, rig.vcpus[vcpu], error)


def test_it_waits_for_as_many_events_of_the_kind_and_no_others(rig: FakeRig) -> None:
    rig.script = [event(rig, 0), event(rig, 1, "ready"), None, event(rig, 1), event(rig, 2)]
    watch(rig).wait("done", 3)
    assert rig.now == pytest.approx(100 + POLL_S)


def test_it_does_not_wait_for_no_thread(rig: FakeRig) -> None:
    watch(rig).wait("ready", 0)
    assert rig.polled_at == []


def test_a_thread_that_fails_ends_the_wait_with_its_error(rig: FakeRig) -> None:
    error = TrialError("reader0.0 read nonsense")
    rig.script = [event(rig, 0), event(rig, 1, "failed", error)]
    with pytest.raises(TrialError) as raised:
        watch(rig).wait("done", 3)
    assert raised.value is error


def test_a_thread_that_dies_of_anything_else_fails_the_trial_by_name(rig: FakeRig) -> None:
    rig.script = [event(rig, 1, "failed", ZeroDivisionError("oh"))]
    with pytest.raises(TrialError, match=r"vcpu1 died: ZeroDivisionError\('oh'\)"):
        watch(rig).wait("done", 3)


def test_a_request_ends_the_wait_at_the_next_poll(rig: FakeRig) -> None:
    interrupt = Interrupt()

    def ask() -> None:
        interrupt.signal_name = signal.SIGINT.name

    rig.script = [None, ask, event(rig, 0), event(rig, 1), event(rig, 2)]
    with pytest.raises(Interrupted, match="SIGINT"):
        watch(rig, interrupt=interrupt).wait("done", 3)
    assert rig.now == pytest.approx(100 + 2 * POLL_S)


@pytest.mark.parametrize("what", ["touched", "again", "filled"])
def test_progress_of_any_kind_keeps_it_waiting_however_long(rig: FakeRig, what: str) -> None:
    def get_on() -> None:
        if what == "filled":
            rig.filled += 1
        else:
            setattr(rig.records[1], what, getattr(rig.records[1], what) + 1)

    quiet: list[Event | Callable[[], None] | None] = [None] * 80  # 8 s
    rig.script = [get_on, *quiet] * 5 + [event(rig, n) for n in range(3)]
    watch(rig).wait("done", 3)
    assert rig.now > 140


@pytest.mark.parametrize("limit_s", [0.5, 10.0])
def test_without_progress_it_gives_up_soon_after_its_limit(rig: FakeRig, limit_s: float) -> None:
    with pytest.raises(WatchdogError, match=f"no page arrived for {limit_s:g} s"):
        watch(rig, limit_s).wait("done", 3)
    assert limit_s < rig.now - 100 < limit_s + min(1.0, limit_s / 4) + 3 * POLL_S


@pytest.mark.parametrize("timeline", [False, True])
def test_time_in_which_it_could_not_watch_is_not_held_against_anybody(
    rig: FakeRig, timeline: bool
) -> None:
    def be_stopped() -> None:
        rig.now += 1000

    quiet: list[Event | Callable[[], None] | None] = [None] * 30
    rig.script = [*quiet, be_stopped, *quiet, *(event(rig, n) for n in range(3))]
    sampled: Any = SimpleNamespace(interval_s=0.1, sample=lambda: None) if timeline else None
    watch(rig).wait("done", 3, sampled)
    rig.script = [*quiet, be_stopped]
    with pytest.raises(WatchdogError, match="no page arrived for 10 s"):
        watch(rig).wait("done", 3, sampled)


def test_a_stop_before_the_gate_is_not_held_against_anybody(rig: FakeRig) -> None:
    gate = SharedRecord(parked=2)
    polls = 0

    def be_stopped() -> None:
        nonlocal polls
        polls += 1
        if polls == 1:
            rig.now += 1000
        elif polls == 5:
            gate.parked = 3

    rig.script = [be_stopped]
    watch(rig).wait_parked(gate)
    assert polls == 5


def test_it_names_who_waits_for_what_and_nobody_who_has_left(rig: FakeRig) -> None:
    rig.gate.gate = 1
    rig.records[0].touched = 7
    rig.vcpus[1].left.set()
    with pytest.raises(WatchdogError, match=r"waiting: vcpu0 for page 7, vcpu2 for page 46$"):
        watch(rig).wait("done", 3)


def test_before_the_gate_it_says_so(rig: FakeRig) -> None:
    with pytest.raises(WatchdogError, match="vcpu0 before the gate, vcpu1 before the gate"):
        watch(rig).wait("ready", 3)


def test_in_a_further_pass_it_names_the_page_of_that_pass(rig: FakeRig) -> None:
    rig.gate.gate = rig.passes.shared.gate = 1
    for record in rig.records:
        record.touched = 23
    rig.records[2].again = 2 * 23 + 5
    with pytest.raises(WatchdogError, match="vcpu2 for page 51 in a further pass"):
        watch(rig).wait("again", 3)


def test_a_timeline_is_sampled_at_its_own_interval(rig: FakeRig) -> None:
    samples: list[float] = []
    timeline: Any = SimpleNamespace(interval_s=0.005, sample=lambda: samples.append(rig.now))
    rig.script = [None, None, *(event(rig, n) for n in range(3))]
    watch(rig).wait("done", 3, timeline)
    assert rig.polled_at == [0.005]
    assert len(samples) == 5


def test_it_waits_until_all_are_parked(rig: FakeRig) -> None:
    gate = SharedRecord(parked=3)
    watch(rig).wait_parked(gate)
    gate.parked = 2
    with pytest.raises(WatchdogError, match="vcpu2 before the gate"):
        watch(rig, 0.5).wait_parked(gate)
    assert rig.now - 100 == pytest.approx(0.5, abs=0.01)


def test_a_request_ends_the_wait_for_those_that_are_not_parked(rig: FakeRig) -> None:
    interrupt = Interrupt()
    interrupt.signal_name = "SIGTERM"
    with pytest.raises(Interrupted, match="SIGTERM"):
        watch(rig, interrupt=interrupt).wait_parked(SharedRecord())
