"""Every way for a reader to wait: all pages come, the counts agree, it ends when it is asked."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator

import pytest

from kvmpc.errors import Interrupted, UsageError
from kvmpc.pagers.pager import Supply
from kvmpc.result.records import TrialResult
from kvmpc.trial.signals import Interrupt

pytestmark = pytest.mark.kvm

Run = Callable[..., TrialResult]

WAITS = ("epoll", "poll", "read", "spin", "adaptive", "adaptive,spin=1us", "adaptive,spin=1s")
DELAY_NS = 50_000
LONG_NS = 10**10


VCPUS = pytest.mark.parametrize("vcpus", [1, pytest.param(8, marks=pytest.mark.large)])
READERS = pytest.mark.parametrize("readers", [1, 4])
EACH_WAIT = pytest.mark.parametrize("wait", WAITS)


def _cases() -> Iterator[object]:
    for wait, readers in itertools.product(WAITS, (1, 4)):
        yield f"uffd,readers={readers},wait={wait}", 0
        yield f"uffd,readers={readers},wait={wait},fetch=blocking,drain=1", DELAY_NS
        if wait != "read":
            yield f"uffd,readers={readers},wait={wait},uffds=per-vcpu", DELAY_NS


@VCPUS
@pytest.mark.parametrize(("spec", "delay_ns"), list(_cases()))
def test_every_page_comes_once_and_each_empty_read_has_been_waited_after(
    run: Run, spec: str, vcpus: int, delay_ns: int
) -> None:
    result = run(spec, pages=97, vcpus=vcpus, order="scattered", fetch_delay_ns=delay_ns)
    assert result.error is None
    assert result.verified == "yes"
    counts = result.counts
    assert counts["installs"] == 97 * vcpus
    assert counts["received"] == counts["fetches"] + counts["lost_claims"]
    # No sleep and no spin without a read that found nothing, and none of those without the other.
    assert counts["reads_empty"] == counts["polls"] + counts["spins"]
    assert counts["wakeups_empty"] <= counts["wakeups"] <= counts["polls"]
    readers = len(result.per_reader["received"])
    if "wait=read" in spec:
        assert counts["polls"] + counts["spins"] == 0
    elif "wait=spin" in spec:
        assert counts["spins"] > 0
        assert counts["polls"] <= readers, "it sleeps before its first message only"
    elif "wait=adaptive" not in spec:
        assert counts["spins"] == 0
        assert counts["polls"] > 0


@pytest.mark.large
@pytest.mark.parametrize("wait", ["poll", "read"])
def test_a_message_wakes_every_reader_but_those_of_an_exclusive_epoll(run: Run, wait: str) -> None:
    """It shows in context switches only: the kernel looks again, and puts those to sleep that find
    nothing, without a return."""

    def sleeps(spec: str) -> float:
        """Return how often readers slept for each read that brought messages."""
        result = run(spec, pages=997, vcpus=1)
        assert result.error is None
        counts = result.counts
        brought = counts["reads"] - counts["reads_empty"] - counts["interrupts"]
        return counts["switches_voluntary_readers"] / brought

    # A reader that has no CPU is not asleep when the next message comes: a busy host hides it.
    assert any(
        sleeps(f"uffd,readers=8,wait={wait}") > 1.5 * sleeps("uffd,readers=8") for _ in range(8)
    )


@pytest.mark.parametrize("drain", [1, 2, 1024])
@READERS
def test_a_reader_takes_no_more_messages_at_once_than_it_may(
    run: Run, drain: int, readers: int
) -> None:
    result = run(f"uffd,readers={readers},drain={drain}", pages=97, vcpus=8)
    assert result.error is None
    with_messages = result.counts["reads"] - result.counts["reads_empty"]
    assert result.counts["received"] <= drain * with_messages


@VCPUS
@READERS
@EACH_WAIT
def test_a_trial_is_stopped_in_the_middle(
    run: Run, interrupt: Interrupt, wait: str, readers: int, vcpus: int
) -> None:
    begun = threading.Event()

    def ask() -> None:
        begun.wait(10)
        interrupt.signal_name = "SIGINT"

    thread = threading.Thread(target=ask)
    thread.start()
    # Seconds of it, of which the first page is enough.
    spec = f"uffd,readers={readers},wait={wait},fetch=blocking"
    with pytest.raises(Interrupted, match="SIGINT"):
        run(
            spec,
            pages=9973,
            vcpus=vcpus,
            fetch_delay_ns=10**6,
            before_gate=lambda _: begun.set(),
        )
    thread.join()


@VCPUS
@READERS
@EACH_WAIT
def test_a_source_that_never_answers_is_found_by_the_watchdog(
    run: Run, wait: str, readers: int, vcpus: int
) -> None:
    fetch = ",fetch=blocking" if wait == "read" else ""
    spec = f"uffd,readers={readers},wait={wait}{fetch}"
    result = run(spec, vcpus=vcpus, fetch_delay_ns=LONG_NS, watchdog_s=0.3)
    assert result.status == "failed"
    assert str(result.error).startswith("no page arrived for 0.3 s; waiting: vcpu0 for page 0")


@READERS
@EACH_WAIT
def test_readers_leave_a_trial_in_which_no_message_ever_comes(
    run: Run, interrupt: Interrupt, wait: str, readers: int
) -> None:
    """They are asleep before their first message when a vCPU keeps the gate from opening."""
    asked = threading.Timer(0.3, setattr, (interrupt, "signal_name", "SIGTERM"))
    released = threading.Event()

    def hang(_: Supply, __: int) -> None:
        asked.start()
        released.wait(10)

    def release_at_stop(supply: Supply) -> None:
        stop = supply.stop

        def stop_and_release() -> None:
            stop()
            released.set()

        supply.stop = stop_and_release

    with pytest.raises(Interrupted, match="SIGTERM"):
        run(
            f"uffd,readers={readers},wait={wait}",
            vcpus=1,
            before_ready=hang,
            on_supply=release_at_stop,
        )
    asked.join()


def test_a_read_that_cannot_wake_for_a_page_is_refused_before_anything_is_opened(run: Run) -> None:
    opened: list[object] = []
    with pytest.raises(UsageError, match="wait=read with --fetch-delay"):
        run("uffd,wait=read", fetch_delay_ns=1, on_scene=opened.append)
    assert opened == []


@EACH_WAIT
def test_further_passes_find_no_reader_that_still_waits(run: Run, wait: str) -> None:
    left: list[bool] = []
    result = run(
        f"uffd,readers=4,wait={wait}",
        passes=3,
        before_passes=lambda rig: left.extend(reader.left.is_set() for reader in rig.readers),
    )
    assert result.error is None
    assert left == [True] * 4


@EACH_WAIT
def test_a_page_can_be_followed_whatever_its_reader_does_meanwhile(run: Run, wait: str) -> None:
    result = run(f"uffd,readers=4,wait={wait}", split=True, vcpus=2)
    assert result.error is None
    assert result.verified == "yes"
