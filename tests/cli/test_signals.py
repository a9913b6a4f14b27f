"""Stopped from outside, at any moment: exit code 130, a whole document, nothing left behind."""

from __future__ import annotations

import fcntl
import os
import random
import resource
import signal
import sys
import termios
import time
from pathlib import Path

import pytest

from kvmpc.trial.signals import KICK_SIGNAL

pytestmark = pytest.mark.kvm

PAGERS = ("none,host=populated", "uffd", "uffd,readers=2,uffds=3", "exit", "exit,uffds=per-vcpu")
ENDLESS = ("--rounds", "1000", "--warmup", "0")
WORKS = {
    "plain": ("--vcpus", "3", "--mem-per-vcpu", "3988K"),
    "overlap": ("--vcpus", "5", "--mem-per-vcpu", "3988K", "--overlap", "--order", "scattered"),
    "delayed": ("--vcpus", "3", "--mem-per-vcpu", "3988K", "--fetch-delay", "200us"),
    "asleep": ("--vcpus", "3", "--mem-per-vcpu", "3988K", "--fetch-delay", "900ms"),
    "many": ("--vcpus", "23", "--mem-per-vcpu", "92K", "--overlap", "--fetch-delay", "1ms"),
}
RLIMIT_SIGPENDING = 11  # include/uapi/asm-generic/resource.h; Python has no name for it
STOPS_EACH = 10
BOUND_S = 10.0


def _stopped(kvmpc, process, number):
    """Check what must hold after the end that a signal asked for."""
    finished = process.finish(within_s=BOUND_S)
    assert finished.code == 130
    told, _, stopped = finished.error.rpartition(" kvmpc: ")
    assert told.startswith(f"kvmpc: {number.name}: stopping; ")
    assert stopped == f"stopped by {number.name}"
    assert "UNFINISHED: this run was stopped" in finished.told
    result = kvmpc.result()
    assert not result.finished
    assert {trial.status for trial in result.trials} <= {"ok"}
    assert list(kvmpc.folder.iterdir()) == [kvmpc.json]
    return result


def _start_endless(kvmpc, **options):
    """Start a run that goes on until it is stopped, and wait until it has begun."""
    process = kvmpc.start(
        "compare", *PAGERS, *WORKS["plain"], *ENDLESS, "--json", str(kvmpc.json), **options
    )
    kvmpc.wait_for_json(process)
    return process


def _alone_at_real_time_priority(cpu):
    os.sched_setaffinity(0, {cpu})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def test_a_reader_that_spins_at_real_time_priority_lets_the_end_be_asked_for(kvmpc):
    """On one CPU with the thread that would tell it: without giving way that one never runs."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("there is no other CPU for whoever asks for the end")
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError as error:
        pytest.skip(f"no real-time priority: {error}")
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    process = kvmpc.start(
        "run", "uffd,wait=spin", "--vcpus", "1", "--mem-per-vcpu", "92K", "--fetch-delay", "9s",
        "--watchdog", "90", "--warmup", "0", "--json", str(kvmpc.json),
        before=lambda: _alone_at_real_time_priority(cpus[-1]),
    )  # fmt: skip
    kvmpc.wait_for_json(process)
    time.sleep(0.5)  # the first page is asked for; the reader spins until it comes in
    process.send(signal.SIGTERM)
    assert process.finish(within_s=BOUND_S).code == 130


@pytest.mark.parametrize("work", WORKS)
def test_a_signal_at_any_moment_of_a_run_ends_it_in_order(kvmpc, work):
    moments = random.Random(f"kvmpc {work}")
    trials = 0
    for count in range(STOPS_EACH):
        number = (signal.SIGINT, signal.SIGTERM)[count % 2]
        kvmpc.json.unlink(missing_ok=True)
        process = kvmpc.start(
            "compare", *PAGERS, *WORKS[work], *ENDLESS, "--watchdog", "60",
            "--json", str(kvmpc.json),
        )  # fmt: skip
        kvmpc.wait_for_json(process)
        time.sleep(moments.uniform(0, 0.7))
        process.send(number)
        trials += len(_stopped(kvmpc, process, number).trials)
    if work != "asleep":
        assert trials > 0, "no signal came later than in the first trial"


def test_a_signal_at_any_moment_of_the_start_ends_it_without_a_trace(kvmpc, tiny):
    """Before kvmpc runs, the default action is what one sees; Python may say where it was."""
    moments = random.Random("kvmpc start")
    for _ in range(8):
        process = kvmpc.start("run", "uffd", *tiny, *ENDLESS)
        time.sleep(moments.uniform(0, 0.3))
        process.send(signal.SIGTERM)
        finished = process.finish(within_s=BOUND_S)
        assert finished.code in (130, -signal.SIGTERM)


def _start_silent(kvmpc):
    """Start a run whose vCPUs sleep in userfaults that nobody reads, with a patient watchdog."""
    process = kvmpc.start_injected(
        "silent-reader", "compare", "uffd", "exit", *WORKS["plain"], "--rounds", "1",
        "--warmup", "0", "--watchdog", "600", "--json", str(kvmpc.json),
    )  # fmt: skip
    kvmpc.wait_for_json(process)
    _wait_asleep(process, threads=3)
    return process


def _wait_asleep(process, threads):
    """Wait until as many threads of a process sleep in a userfault."""
    deadline = time.monotonic() + BOUND_S
    while time.monotonic() < deadline:
        tasks = Path(f"/proc/{process.pid}/task").iterdir()
        if sum(_waits_in(task) == "handle_userfault" for task in tasks) >= threads:
            return
        time.sleep(0.02)
    # A kernel may hide where threads wait; they have had the time to get there.


def _waits_in(task):
    try:
        return (task / "wchan").read_text()
    except OSError:
        return ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_vcpus_asleep_in_a_fault_that_nobody_reads_are_stopped(kvmpc, number):
    process = _start_silent(kvmpc)
    assert process.popen.poll() is None
    process.send(number)
    _stopped(kvmpc, process, number)


def test_a_second_signal_leaves_at_once_while_the_first_is_still_at_it(kvmpc):
    process = kvmpc.start_injected(
        "deaf-reader", "run", "uffd", *WORKS["plain"], "--rounds", "1", "--warmup", "0",
        "--watchdog", "600", "--json", str(kvmpc.json),
    )  # fmt: skip
    kvmpc.wait_for_json(process)
    _wait_asleep(process, threads=3)
    process.send(signal.SIGINT)
    time.sleep(1.0)
    assert process.popen.poll() is None, "the first signal was not still at it"
    process.send(signal.SIGINT)
    # The first would go on for ten seconds before it gives the thread up.
    finished = process.finish(within_s=5)
    assert finished.code == 130
    assert not kvmpc.result().finished


def test_a_killed_run_leaves_a_whole_document_and_does_not_disturb_the_next(kvmpc, tiny):
    moments = random.Random("kvmpc kill")
    for _ in range(5):
        kvmpc.json.unlink(missing_ok=True)
        process = kvmpc.start(
            "compare", *PAGERS, *WORKS["overlap"], *ENDLESS, "--json", str(kvmpc.json)
        )
        kvmpc.wait_for_json(process)
        time.sleep(moments.uniform(0, 0.5))
        process.send(signal.SIGKILL)
        assert process.finish(within_s=BOUND_S).code == -signal.SIGKILL
        assert not kvmpc.result().finished
    # What a run leaves that is killed while it writes.
    left = kvmpc.folder / ".kvmpc-0123456789abcdef.tmp"
    left.write_text('{"schema": "kvmpc-res')
    finished = kvmpc("compare", *PAGERS[:2], *tiny, "--json", str(kvmpc.json))
    assert finished.code == 0
    result = kvmpc.result()
    assert result.finished
    assert [trial.status for trial in result.trials] == ["ok", "ok"]
    assert {trial.verified for trial in result.trials} == {"yes"}


def test_probe_stops_on_a_signal(kvmpc):
    moments = random.Random("kvmpc probe")
    codes = set()
    for _ in range(5):
        process = kvmpc.start("probe")
        time.sleep(moments.uniform(0.1, 0.5))
        if process.popen.poll() is None:
            process.send(signal.SIGTERM)
        codes.add(process.finish(within_s=BOUND_S).code)
    assert codes <= {0, 130, -signal.SIGTERM}


def test_a_terminal_s_ctrl_c_reaches_the_whole_group_and_ends_it(kvmpc):
    process = kvmpc.start(
        "compare", *PAGERS, *WORKS["delayed"], *ENDLESS, "--json", str(kvmpc.json)
    )
    kvmpc.wait_for_json(process)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    _stopped(kvmpc, process, signal.SIGINT)


# What asks for the end besides Ctrl-C and SIGTERM


@pytest.mark.parametrize("count", [1, 2])
def test_a_closed_terminal_ends_a_run_in_order(kvmpc, count):
    """It is the kernel that tells of it, and then the shell once more."""
    process = _start_endless(kvmpc)
    for _ in range(count):
        process.send(signal.SIGHUP)
    _stopped(kvmpc, process, signal.SIGHUP)


def test_a_signal_that_comes_twice_is_one_request(kvmpc):
    """``timeout`` signals its child, and then the group that it is in."""
    process = _start_endless(kvmpc)
    # Two numbers: one, sent again before it is handled, would be pending once.
    process.send(signal.SIGTERM)
    process.send(signal.SIGINT)
    finished = process.finish(within_s=BOUND_S)
    assert finished.code == 130
    assert "UNFINISHED: this run was stopped" in finished.told


def test_a_terminal_that_goes_away_under_a_run_ends_it_in_order(kvmpc):
    """With its bar and its messages: from then on every write to it fails."""
    terminal, end = os.openpty()

    def take():
        fcntl.ioctl(end, termios.TIOCSCTTY, 0)

    process = _start_endless(kvmpc, before=take, stdin=end, stdout=end, stderr=end)
    os.close(end)
    os.close(terminal)
    assert process.finish(within_s=BOUND_S).code == 130
    assert not kvmpc.result().finished
    assert list(kvmpc.folder.iterdir()) == [kvmpc.json]


def test_a_limit_of_cpu_time_ends_a_run_in_order(kvmpc):
    def limit():
        resource.setrlimit(resource.RLIMIT_CPU, (2, 20))

    _stopped(kvmpc, _start_endless(kvmpc, before=limit), signal.SIGXCPU)


# What a parent leaves: masks, ignored signals, limits


def _block(*numbers):
    return lambda: signal.pthread_sigmask(signal.SIG_BLOCK, numbers)


def _ignore(*numbers):
    def ignore():
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)

    return ignore


INHERITED = {
    "all blocked": _block(*signal.valid_signals()),
    "kick blocked": _block(KICK_SIGNAL),
    "kick ignored": _ignore(KICK_SIGNAL),
    "no signal queue": lambda: resource.setrlimit(RLIMIT_SIGPENDING, (0, 0)),
    "child signal ignored": _ignore(signal.SIGCHLD),
    "continue ignored": _ignore(signal.SIGCONT),
}


@pytest.mark.parametrize("left", INHERITED)
def test_threads_leave_whatever_the_parent_left(kvmpc, tiny, left):
    finished = kvmpc("compare", "uffd,readers=2", "exit", *tiny, before=INHERITED[left])
    assert finished.code == 0
    assert finished.cells("exit(sigbus)")


@pytest.mark.parametrize("left", INHERITED)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_is_stopped_whatever_the_parent_left(kvmpc, left, number):
    process = _start_endless(kvmpc, before=INHERITED[left])
    process.send(number)
    _stopped(kvmpc, process, number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_the_parent_had_ignored_on_purpose_stays_ignored(kvmpc, number):
    """``nohup kvmpc``, ``kvmpc &`` in a script: as every other program has it."""
    process = _start_endless(kvmpc, before=_ignore(number))
    process.send(number)
    seen = kvmpc.trials_so_far()
    deadline = time.monotonic() + 60
    while kvmpc.trials_so_far() < seen + 2:
        assert process.popen.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    other = signal.SIGTERM if number != signal.SIGTERM else signal.SIGINT
    process.send(other)
    _stopped(kvmpc, process, other)


# What a crash leaves


@pytest.mark.parametrize(
    ("fault", "number", "words"),
    [
        ("bad-address", signal.SIGSEGV, "Segmentation fault"),
        ("bad-instruction", signal.SIGILL, "Illegal instruction"),
    ],
)
@pytest.mark.parametrize(("pager", "thread"), [("uffd", "reader0.0"), ("exit", "vcpu")])
@pytest.mark.parametrize("vcpus", [1, 120])
def test_a_crash_in_a_loop_says_in_which_thread_and_is_no_exit_code_of_ours(
    kvmpc, fault, number, words, pager, thread, vcpus
):
    work = ("--vcpus", str(vcpus), "--mem-per-vcpu", "64K", "--rounds", "1", "--warmup", "0")
    finished = kvmpc.inject(fault, "run", pager, *work)
    assert finished.code == -number
    assert f"Fatal Python error: {words}" in finished.stderr
    assert f"in {thread}" in finished.stderr
    assert "loops/program.py" in finished.stderr


@pytest.mark.parametrize("stream", ["2>&-", "2>/dev/full", "2>/dev/null"])
def test_where_a_crash_can_be_told_to_nobody_it_is_a_crash_all_the_same(kvmpc, tiny, stream):
    inject = Path(__file__).with_name("inject.py")
    command = f'exec "$0" "$@" {stream}'
    process = kvmpc.start_program(
        [
            "sh",
            "-c",
            command,
            sys.executable,
            str(inject),
            "bad-address",
            "--",
            "run",
            "exit",
            *tiny,
        ]
    )
    assert process.finish().code == -signal.SIGSEGV


def test_a_run_that_is_quit_says_where_each_thread_was(kvmpc):
    """As one does with a hang."""
    process = _start_silent(kvmpc)
    process.send(signal.SIGQUIT)
    finished = process.finish()
    assert finished.code == -signal.SIGQUIT
    assert all(f"in {thread}" in finished.stderr for thread in ("vcpu0", "vcpu2", "reader0.0"))
    assert "trial/watchdog.py" in finished.stderr


def test_a_quit_that_the_parent_had_ignored_stays_ignored(kvmpc):
    process = _start_endless(kvmpc, before=_ignore(signal.SIGQUIT))
    process.send(signal.SIGQUIT)
    process.send(signal.SIGTERM)
    _stopped(kvmpc, process, signal.SIGTERM)
