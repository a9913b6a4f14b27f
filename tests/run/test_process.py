"""A program that is run to its end, or to ours: it ends, and what it said is known."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmpc.errors import HostError
from kvmpc.run.process import Ended, run_process
from kvmpc.trial.signals import NEVER, Interrupt, interruptible

BOUND_S = 30.0


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """Fail a test that takes longer than any of these may."""
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < BOUND_S


def _sh(text: str, interrupt: Interrupt = NEVER, **options: float) -> Ended:
    return run_process(["/bin/sh", "-c", text], interrupt, **options)


def _is_there(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def _gone(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while _is_there(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _asked_after(seconds: float, interrupt: Interrupt) -> threading.Timer:
    timer = threading.Timer(seconds, lambda: setattr(interrupt, "signal_name", "SIGTERM"))
    timer.start()
    return timer


def test_what_it_says_and_how_it_ends_is_known() -> None:
    ended = _sh("echo out; echo err >&2; exit 3")
    assert ended == Ended(3, True, "out\n", "err\n")
    assert ended.how == "ended with exit code 3"
    assert _sh("true").code == 0


def test_one_that_a_signal_ends_says_which() -> None:
    assert _sh("kill -KILL $$").how == "was ended by SIGKILL"
    assert Ended(-int(signal.SIGRTMAX) + 1, True, "", "").how == (
        f"was ended by signal {signal.SIGRTMAX - 1}"
    )


def test_megabytes_and_bytes_that_are_no_text_arrive() -> None:
    ended = _sh("head -c 3000000 /dev/zero; printf '\\377'")
    assert len(ended.stdout) == 3_000_000 + len("\\xff")


def test_nobody_answers_it() -> None:
    program = "import os, sys; print(repr(sys.stdin.read())); open('/dev/tty')"
    ended = run_process([sys.executable, "-c", program], NEVER)
    assert ended.stdout == "''\n"
    assert "No such device or address" in ended.stderr


def test_what_it_leaves_in_the_background_is_left_there_and_not_waited_for() -> None:
    ended = _sh("sleep 600 & echo $!")
    child = int(ended.stdout)
    try:
        assert ended.code == 0
        assert _is_there(child)
    finally:
        os.kill(child, signal.SIGKILL)


def test_one_that_takes_too_long_is_ended_with_what_it_has_started() -> None:
    ended = _sh("sleep 600 & echo $!; wait", within_s=0.5)
    assert (ended.in_time, ended.code) == (False, -signal.SIGTERM)
    assert _gone(int(ended.stdout))


def test_one_that_will_not_hear_is_killed() -> None:
    ended = _sh("trap '' TERM; echo there; while :; do sleep 0.1; done", within_s=0.5, grace_s=0.5)
    assert (ended.in_time, ended.code, ended.stdout) == (False, -signal.SIGKILL, "there\n")


def test_one_may_clean_up_when_it_is_asked_for_its_end() -> None:
    ended = _sh("trap 'echo cleaned; exit 7' TERM; while :; do sleep 0.1; done", within_s=0.5)
    assert (ended.in_time, ended.code, ended.stdout) == (False, 7, "cleaned\n")


def test_it_ends_when_somebody_asks_for_the_end() -> None:
    interrupt = Interrupt()
    timer = _asked_after(0.3, interrupt)
    ended = _sh("sleep 600", interrupt)
    timer.join()
    assert (ended.in_time, ended.code) == (False, -signal.SIGTERM)


def test_it_is_killed_at_once_when_somebody_insists() -> None:
    with interruptible(patient=True) as interrupt:
        pid, program = os.getpid(), "trap '' TERM; {}; sleep 0.5; {}; while :; do sleep 1; done"
        kill = f"kill -TERM {pid}"
        begin = time.monotonic()
        ended = _sh(program.format(kill, kill), interrupt, grace_s=20)
        assert ended.code == -signal.SIGKILL
        assert time.monotonic() - begin < 10
        assert (interrupt.signal_name, interrupt.insisted) == ("SIGTERM", 1)


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(HostError, match="/nowhere/sh: cannot be started: ENOENT"):
        run_process(["/nowhere/sh"], NEVER)


def test_no_descriptor_is_left_or_given_away(tmp_path: Path) -> None:
    with (tmp_path / "open").open("w") as file:
        before = sorted(os.listdir("/proc/self/fd"))
        listed = _sh("ls -l /proc/self/fd").stdout
        assert sorted(os.listdir("/proc/self/fd")) == before
        assert file.name not in listed
