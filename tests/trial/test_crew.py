"""The crew: how its threads start, how they are got out, and what is heard of them meanwhile."""

from __future__ import annotations

import errno
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from kvmpc.errors import HostError, KernelError
from kvmpc.kernel import syscalls
from kvmpc.loops.records import ResolverRecord, SharedRecord
from kvmpc.trial import crew as crew_module
from kvmpc.trial.crew import Crew, Event, Report, Worker
from kvmpc.trial.signals import KICK_SIGNAL, Interrupt


@dataclass(eq=False, kw_only=True)
class FakeWorker(Worker):
    """A thread that sleeps until `wake` is set; `journal` has what happened to all, in order."""

    journal: list[str]
    record: ResolverRecord = field(default_factory=ResolverRecord)
    wake: threading.Event = field(default_factory=threading.Event)
    does: Callable[[FakeWorker], None] = lambda _: None
    masked: set[int] = field(default_factory=set)

    def run(self, report: Report) -> None:
        """Report, and sleep."""
        self.masked = {int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())}
        report("ready")
        self.does(self)
        assert self.wake.wait(20)

    def interrupt(self) -> None:
        """Note it, with the stop flag, which has to be set by then."""
        self.journal.append(f"interrupt {self.name} {self.record.stop}")


class Setting:
    """A crew whose gate, kicks and unregistering are noted and do what a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.journal: list[str] = []
        self.shared = SharedRecord()
        self.crew = Crew(self.shared, self)  # type: ignore[arg-type]
        self.workers: list[FakeWorker] = []
        self.gate_result = 0
        self.on_kick: Callable[[FakeWorker, int], None] = lambda *_: None
        self.on_free: Callable[[], None] = lambda: None
        monkeypatch.setattr(syscalls, "tgkill", self.tgkill)

    def call(self, function: str, shared: SharedRecord) -> int:
        """Open the gate, as the loops' program does."""
        assert (function, shared) == ("open_gate", self.shared)
        self.journal.append("gate")
        shared.gate = 1
        return self.gate_result

    def tgkill(self, tid: int, number: int) -> bool:
        """Note a kick instead of sending it."""
        assert number == KICK_SIGNAL
        (worker,) = (worker for worker in self.workers if worker.tid == tid)
        self.journal.append(f"kick {worker.name}")
        self.on_kick(worker, self.journal.count(f"kick {worker.name}"))
        return True

    def free(self) -> None:
        """Note the unregistering, and do what the test says."""
        self.journal.append("free")
        self.on_free()

    def start(self, count: int, **options: Any) -> list[FakeWorker]:
        """Start so many workers and wait until each has said that it is ready."""
        made = [FakeWorker(name=f"vcpu{n}", journal=self.journal, **options) for n in range(count)]
        self.workers += made
        self.crew.start(made)
        events = self.crew.events(10)
        assert [getattr(next(events), "kind", None) for _ in made] == ["ready"] * count
        return made

    def stop(self) -> list[str]:
        """Stop all; return the names of those that are still there."""
        return self.crew.stop(self.crew.workers, self.free)


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch, interrupt: Interrupt) -> Iterator[Setting]:
    """A crew to start and to stop; whatever a test leaves behind ends with it."""
    del interrupt
    setting = Setting(monkeypatch)
    yield setting
    for worker in setting.workers:
        worker.wake.set()
        if worker.thread is not None and worker.thread.ident is not None:
            worker.thread.join(10)


@pytest.fixture
def slow_handler() -> Iterator[None]:
    """A signal 30 ms from now, whose handler takes longer than any poll here."""
    previous = signal.signal(signal.SIGALRM, lambda *_: time.sleep(0.2))
    signal.setitimer(signal.ITIMER_REAL, 0.03)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, previous)


# Starting, and what is heard


@pytest.mark.usefixtures("slow_handler")
def test_a_signal_handled_past_the_deadline_does_not_turn_a_poll_into_waiting_for_ever() -> None:
    nothing: Any = None
    crew = Crew(nothing, nothing)
    late = Event("done", Worker(name="vcpu0", record=ResolverRecord()))
    # Only so that the test ends where it fails.
    rescue = threading.Timer(5, crew._events.put, (late,))
    rescue.start()
    try:
        assert next(crew.events(0.1)) is None
    finally:
        rescue.cancel()
        rescue.join()


def test_threads_are_named_daemons_that_no_signal_but_the_kick_reaches(setting: Setting) -> None:
    workers = setting.start(3)
    for worker in workers:
        assert worker.thread is not None
        assert (worker.thread.name, worker.thread.daemon) == (worker.name, True)
        assert KICK_SIGNAL not in worker.masked
        assert {signal.SIGINT, signal.SIGTERM, signal.SIGALRM} <= worker.masked
    assert len({worker.tid for worker in workers}) == 3
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_thread_that_raises_is_out_and_its_error_is_heard(setting: Setting) -> None:
    def fail(worker: FakeWorker) -> None:
        raise SystemExit(f"{worker.name} has enough")

    (worker,) = setting.start(1, does=fail)
    event = next(setting.crew.events(10))
    assert event is not None
    assert (event.kind, event.worker) == ("failed", worker)
    assert isinstance(event.error, SystemExit)
    assert worker.left.wait(10)
    assert setting.stop() == []
    assert "kick vcpu0" not in setting.journal


def test_a_poll_without_an_event_is_none(setting: Setting) -> None:
    setting.start(1)
    begin = time.monotonic()
    assert next(setting.crew.events(0.05)) is None
    assert time.monotonic() - begin >= 0.05


def test_without_a_handler_for_the_kick_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "getsignal", lambda _: signal.SIG_DFL)
    journal: list[str] = []
    worker = FakeWorker(name="vcpu0", journal=journal)
    with pytest.raises(RuntimeError, match="interruptible"):
        Crew(SharedRecord(), None).start([worker])  # type: ignore[arg-type]
    assert worker.thread is None


def test_a_thread_that_cannot_start_leaves_those_before_it_to_be_stopped(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def start_until(thread: threading.Thread) -> None:
        if thread.name == "vcpu2":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_until)
    with pytest.raises(HostError, match="thread vcpu2"):
        setting.start(4)
    assert [worker.name for worker in setting.crew.workers] == ["vcpu0", "vcpu1"]
    setting.on_kick = lambda worker, _: worker.wake.set()
    assert setting.stop() == []


# The gate


def test_a_gate_that_does_not_open_is_a_kernel_error(setting: Setting) -> None:
    setting.gate_result = -errno.EFAULT
    with pytest.raises(KernelError, match="opening the gate"):
        setting.crew.open_gate()


# Stopping


def test_flags_come_first_then_the_gate_then_the_kick(setting: Setting) -> None:
    setting.start(3)
    setting.on_kick = lambda worker, _: worker.wake.set()
    assert setting.stop() == []
    assert setting.journal == [
        *(f"interrupt vcpu{n} 1" for n in range(3)),
        "gate",
        *(f"kick vcpu{n}" for n in range(3)),
    ]
    assert not any(w.thread.is_alive() for w in setting.workers if w.thread is not None)


def test_a_gate_that_is_open_is_not_opened_again(setting: Setting) -> None:
    setting.start(1)
    setting.crew.open_gate()
    setting.on_kick = lambda worker, _: worker.wake.set()
    assert setting.stop() == []
    assert setting.journal.count("gate") == 1


def test_a_kick_that_came_too_early_is_repeated_until_the_thread_is_out(setting: Setting) -> None:
    setting.start(3)

    def leave_late(worker: FakeWorker, kicks: int) -> None:
        if kicks == (1 if worker.name != "vcpu1" else 7):
            worker.wake.set()

    setting.on_kick = leave_late
    assert setting.stop() == []
    assert setting.journal.count("kick vcpu1") == 7
    # Those that are out are left alone: a thread's id may be another one's by then.
    assert setting.journal.count("kick vcpu0") == setting.journal.count("kick vcpu2") == 1


def test_sleepers_are_freed_once_and_only_after_the_kicks_had_their_time(setting: Setting) -> None:
    setting.start(2)
    freed_after: list[int] = []
    setting.on_free = lambda: freed_after.append(setting.journal.count("kick vcpu0"))

    def leave_once_freed(worker: FakeWorker, kicks: int) -> None:
        if freed_after and kicks == freed_after[0] + 3:
            worker.wake.set()

    setting.on_kick = leave_once_freed
    assert setting.stop() == []
    assert setting.journal.count("free") == 1
    assert freed_after[0] >= 1
    # And the kicks went on.
    assert setting.journal.count("kick vcpu0") == freed_after[0] + 3


def test_threads_that_leave_when_kicked_need_not_be_freed(setting: Setting) -> None:
    setting.start(3)
    setting.on_kick = lambda worker, _: worker.wake.set()
    assert setting.stop() == []
    assert "free" not in setting.journal


def test_sleepers_that_cannot_be_freed_are_kicked_all_the_same(setting: Setting) -> None:
    setting.start(1)

    def fail() -> None:
        raise KernelError("UFFDIO_UNREGISTER", errno.ENOMEM)

    setting.on_free = fail
    setting.on_kick = lambda worker, kicks: worker.wake.set() if kicks == 5 else None
    assert setting.stop() == []
    assert setting.journal.count("free") == 1


def test_who_never_leaves_is_named_after_a_while_and_the_others_are_out(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew_module, "_GIVE_UP_S", 0.3)
    workers = setting.start(3)
    setting.on_kick = lambda worker, _: worker.wake.set() if worker.name != "vcpu1" else None
    assert setting.stop() == ["vcpu1"]
    assert [worker.left.is_set() for worker in workers] == [True, False, True]
    assert "free" in setting.journal


def test_a_thread_that_is_not_running_yet_is_waited_for_and_not_kicked(setting: Setting) -> None:
    (worker,) = setting.start(1)
    tid, worker.tid = worker.tid, None

    def begin_late() -> None:
        worker.tid = tid
        worker.wake.set()

    timer = threading.Timer(0.12, begin_late)
    timer.start()
    kicked: list[int | None] = []
    setting.on_kick = lambda worker, _: kicked.append(worker.tid)
    assert setting.stop() == []
    timer.join()
    assert setting.journal[:2] == ["interrupt vcpu0 1", "gate"]
    assert None not in kicked


def test_some_may_be_stopped_before_the_others_and_stopping_again_does_no_harm(
    setting: Setting,
) -> None:
    first, second = setting.start(2)
    setting.on_kick = lambda worker, _: worker.wake.set()
    assert setting.crew.stop([second], setting.free) == []
    assert (first.record.stop, second.record.stop) == (0, 1)
    assert not first.left.is_set()
    assert setting.stop() == []
    assert setting.journal.count("kick vcpu1") == 1
    assert setting.stop() == []
