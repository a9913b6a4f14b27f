"""Every way to end a trial early: each thread leaves, wherever it sleeps, and says why.

A thread that does not is a StuckError after ten seconds.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from kvmpc.errors import Interrupted
from kvmpc.kernel import syscalls
from kvmpc.loops.records import Return
from kvmpc.pagers.pager import Supply
from kvmpc.result.records import TrialResult
from kvmpc.trial.signals import Interrupt
from kvmpc.vm.presence import Presence

pytestmark = pytest.mark.kvm

Run = Callable[..., TrialResult]


def _forget_readers(supply: Supply) -> None:
    """Leave the userfaultfds without anybody who reads them."""
    supply.readers.clear()


@pytest.fixture
def stopped_after(run: Run, interrupt: Interrupt) -> Callable[..., None]:
    """Run a trial, and ask for its end after some seconds."""

    def stopped_after(seconds: float, spec: str, **options: Any) -> None:
        timer = threading.Timer(seconds, setattr, (interrupt, "signal_name", "SIGINT"))
        timer.start()
        try:
            with pytest.raises(Interrupted, match="SIGINT"):
                run(spec, watchdog_s=60, **options)
        finally:
            timer.join()

    return stopped_after


@pytest.mark.parametrize("vcpus", [1, 32])
def test_a_vcpu_asleep_in_a_fault_that_nobody_answers_leaves(
    stopped_after: Callable[..., None], vcpus: int
) -> None:
    stopped_after(0.3, "uffd,uffds=per-vcpu", vcpus=vcpus, on_supply=_forget_readers)


@pytest.mark.parametrize(
    "spec",
    ["exit", "exit,uffds=3", "uffd", "uffd,fetch=blocking", "uffd,readers=3,fetch=blocking"],
)
@pytest.mark.parametrize("overlap", [False, True])
def test_a_thread_in_the_middle_of_a_long_fetch_leaves(
    stopped_after: Callable[..., None], spec: str, overlap: bool
) -> None:
    # With overlap, vCPUs that lost the claim wait for the one that sleeps.
    stopped_after(0.3, spec, vcpus=32, fetch_delay_ns=10**10, overlap=overlap)


def test_unregistering_alone_frees_a_vcpu_that_no_signal_reaches(
    stopped_after: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As before Linux 6.2, where a signal does not end the sleep in a userfault.
    monkeypatch.setattr(syscalls, "tgkill", lambda *_: True)
    stopped_after(0.3, "uffd,uffds=3", on_supply=_forget_readers)


@pytest.mark.parametrize("spec", ["none", "none,host=populated", "uffd,readers=3", "exit"])
def test_a_trial_at_full_speed_leaves_when_asked(run: Run, interrupt: Interrupt, spec: str) -> None:
    stopped = 0
    for wait_s in (0.01, 0.03, 0.1, 0.2):
        timer = threading.Timer(wait_s, setattr, (interrupt, "signal_name", "SIGTERM"))
        timer.start()
        try:
            # The last ones may be over before they are asked to.
            assert run(spec, pages=49999, vcpus=4).error is None
        except Interrupted:
            stopped += 1
        timer.join()
        interrupt.signal_name = None
    assert stopped > 0


@pytest.mark.parametrize("spec", ["none", "none,host=populated", "uffd", "exit"])
def test_a_request_before_the_trial_keeps_it_from_beginning(
    run: Run, interrupt: Interrupt, spec: str
) -> None:
    opened: list[Any] = []
    interrupt.signal_name = "SIGTERM"
    with pytest.raises(Interrupted, match="SIGTERM"):
        run(spec, on_scene=opened.append)
    assert opened == []


def test_a_request_while_memory_is_verified_to_be_empty_ends_that(
    run: Run, interrupt: Interrupt, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = []

    def look(_: Presence, first_page: int, __: int) -> bool:
        looked_at.append(first_page)
        interrupt.signal_name = "SIGINT"
        return False

    monkeypatch.setattr(Presence, "any_resident", look)
    with pytest.raises(Interrupted, match="SIGINT"):
        run("exit")
    assert looked_at == [0]


def test_a_fill_that_begins_after_the_stop_ends_at_once(run: Run, interrupt: Interrupt) -> None:
    """A thread that is slow to begin is not seen by the stop, and must see it itself."""
    begun = threading.Event()

    def slow(supply: Supply) -> None:
        before_ready, stop = supply.before_ready, supply.stop
        stopped = threading.Event()

        def begin_late(vcpu: int) -> int:
            begun.set()
            assert stopped.wait(10)
            code = before_ready(vcpu)
            codes.append(code)
            return code

        def stop_and_tell() -> None:
            stop()
            stopped.set()

        supply.before_ready, supply.stop = begin_late, stop_and_tell

    codes: list[int] = []

    def ask() -> None:
        begun.wait(10)
        interrupt.signal_name = "SIGINT"

    thread = threading.Thread(target=ask)
    thread.start()
    with pytest.raises(Interrupted):
        run("none,host=populated", on_supply=slow)
    thread.join()
    assert codes == [Return.STOPPED] * 3


def test_the_watchdog_names_each_stuck_vcpu_with_its_page(run: Run) -> None:
    result = run("uffd", on_supply=_forget_readers, watchdog_s=2)
    assert result.status == "failed"
    assert result.error == (
        "no page arrived for 2 s; waiting: vcpu0 for page 0, vcpu1 for page 23, vcpu2 for page 46"
    )


def test_the_watchdog_names_the_page_that_is_missing_in_the_middle(run: Run) -> None:
    def claim(supply: Supply) -> None:
        # As if somebody had begun to fetch page 40 and had never come back.
        byte = ctypes.c_uint8.from_address(supply.scene.bitmap.claimed_address + 40 // 8)
        byte.value |= 1 << 40 % 8

    for spec in ("uffd", "exit"):
        result = run(spec, on_supply=claim, watchdog_s=2)
        assert result.error == "no page arrived for 2 s; waiting: vcpu1 for page 40"


def test_the_watchdog_lets_a_slow_trial_go_on(run: Run) -> None:
    # It takes several times as long as the watchdog waits, but pages keep coming.
    result = run("exit", vcpus=1, pages=61, fetch_delay_ns=10**8, watchdog_s=2)
    assert result.error is None


def test_the_watchdog_ends_what_never_gets_to_the_gate(run: Run) -> None:
    release = threading.Event()

    def hang(_: Supply, vcpu: int) -> None:
        if vcpu == 1:
            release.wait(10)

    def release_at_stop(supply: Supply) -> None:
        stop = supply.stop

        def stop_and_release() -> None:
            stop()
            release.set()

        supply.stop = stop_and_release

    result = run("exit", before_ready=hang, on_supply=release_at_stop, watchdog_s=0.5)
    assert result.status == "failed"
    assert "vcpu1 before the gate" in str(result.error)


@pytest.mark.parametrize("last", ["vcpu0", "vcpu2", "reader0.1"])
def test_a_thread_that_cannot_start_releases_those_that_wait(
    run: Run, monkeypatch: pytest.MonkeyPatch, held: Callable[[], Any], last: str
) -> None:
    run("uffd,readers=3")
    before = held()
    start = threading.Thread.start

    def start_until(thread: threading.Thread) -> None:
        if thread.name == last:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_until)
    result = run("uffd,readers=3")
    assert result.status == "failed"
    assert f"thread {last}: the system starts no more threads" in str(result.error)
    assert "ulimit -u" in str(result.error)
    after = held()
    assert (after.fds, after.threads) == (before.fds, before.threads)


@pytest.mark.parametrize(
    ("spec", "who"), [("uffd", "reader0.0"), ("uffd,readers=3", "reader0."), ("exit", "vcpu")]
)
def test_an_install_that_the_kernel_refuses_fails_the_trial(run: Run, spec: str, who: str) -> None:
    # Another userfaultfd would not do: the kernel installs through any, though it wakes nobody.
    with open(os.devnull, "rb") as stranger:

        def misdirect(supply: Supply) -> None:
            supply._shares.fds[0] = stranger.fileno()

        result = run(spec, on_supply=misdirect)
    assert result.status == "failed"
    assert str(result.error).startswith(who)
    assert ": UFFDIO_COPY of page " in str(result.error)
    assert "ENOTTY" in str(result.error)
    assert result.metrics == {}


def test_a_reader_that_dies_fails_the_trial_and_is_named(run: Run) -> None:
    def blind(supply: Supply) -> None:
        supply.readers[1].record.uffd = 0xFFFFFFFF

    result = run("uffd,uffds=3", on_supply=blind)
    assert result.status == "failed"
    assert str(result.error).startswith("reader1.0: READ: EBADF")


def test_a_trial_after_a_failed_one_is_not_disturbed(run: Run) -> None:
    assert run("uffd", on_supply=_forget_readers, watchdog_s=0.2).status == "failed"
    assert run("uffd").error is None
    assert run("exit").error is None
