"""What a block that can be interrupted holds of signals, and gives back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from kvmpc.trial.signals import KICK_SIGNAL, block_signals, interruptible

ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU)
SYNCHRONOUS = {
    signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS,
    signal.SIGABRT,
}  # fmt: skip


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Put back what a test changes."""
    numbers = (*ENDS, KICK_SIGNAL, signal.SIGCHLD, signal.SIGCONT)
    handlers = {number: signal.getsignal(number) for number in numbers}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def blocked() -> set[int]:
    """Return what the calling thread blocks."""
    return {int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())}


def test_the_kick_needs_no_entry_in_a_queue_and_does_no_harm_by_default() -> None:
    assert signal.SIGRTMIN > KICK_SIGNAL
    done = subprocess.run(
        [sys.executable, "-c", f"import os; os.kill(os.getpid(), {int(KICK_SIGNAL)})"],
        check=False,
        preexec_fn=lambda: signal.signal(KICK_SIGNAL, signal.SIG_DFL),
    )
    assert done.returncode == 0


@pytest.mark.parametrize("number", ENDS)
def test_an_end_is_asked_for_by_name(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_DFL)
    with interruptible() as interrupt:
        os.kill(os.getpid(), number)
        assert interrupt.signal_name == number.name
    assert signal.getsignal(number) == signal.SIG_DFL


@pytest.mark.parametrize("number", ENDS)
def test_an_end_that_is_ignored_stays_ignored(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_IGN)
    with interruptible() as interrupt:
        os.kill(os.getpid(), number)
        assert interrupt.signal_name is None
    assert signal.getsignal(number) == signal.SIG_IGN


def test_an_end_that_was_blocked_is_heard_and_blocked_again_afterwards() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, ENDS)
    before = blocked()
    os.kill(os.getpid(), signal.SIGTERM)
    with interruptible() as interrupt:
        assert blocked() == set()
        assert interrupt.signal_name == "SIGTERM"
    assert blocked() == before


def test_children_start_with_nothing_blocked_and_are_told_of() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    status = "import sys; text = open('/proc/self/status').read(); "
    with interruptible():
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                status + "sys.exit(23 if 'SigBlk:\\t' + 16 * '0' in text else 1)",
            ],
            check=False,
        )
    assert done.returncode == 23
    assert signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN


def test_being_continued_is_counted_even_where_that_was_ignored() -> None:
    signal.signal(signal.SIGCONT, signal.SIG_IGN)
    with interruptible() as interrupt:
        assert interrupt.continued == 0
        os.kill(os.getpid(), signal.SIGCONT)
        assert interrupt.continued == 1
        assert interrupt.signal_name is None


def test_whoever_is_patient_is_told_of_a_second_wish_and_not_ended() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with interruptible(patient=True) as interrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # so soon it is an echo
        assert (interrupt.signal_name, interrupt.insisted) == ("SIGTERM", 0)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)
        assert (interrupt.signal_name, interrupt.insisted) == ("SIGTERM", 1)


def test_threads_block_all_but_the_kick_and_what_they_do_to_themselves() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, {KICK_SIGNAL, signal.SIGSEGV, signal.SIGUSR1})
    before = blocked()
    with block_signals():
        here = blocked()
        assert not here & {int(number) for number in SYNCHRONOUS | {KICK_SIGNAL}}
        assert {int(n) for n in (*ENDS, signal.SIGALRM, signal.SIGUSR1, signal.SIGCONT)} <= here
    assert blocked() == before
