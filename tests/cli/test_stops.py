"""A process that is stopped in the middle of a trial, and goes on: that is said."""

from __future__ import annotations

import ctypes
import signal
import time
from pathlib import Path

import pytest

from kvmpc.abi.prctl import PR_SET_TIMERSLACK

pytestmark = pytest.mark.kvm

# Longer than the watchdog waits.
STOPPED_S = 1.5
# A thousand pages, each of which a thread of its own has to sleep for.
LONG = (
    "--vcpus", "1", "--mem-per-vcpu", "4M", "--fetch-delay", "3ms",
    "--rounds", "1", "--warmup", "0", "--watchdog", "1",
)  # fmt: skip


def _wait_until_measuring(kvmpc, process):
    """Wait until vCPU 0 has its first pages: it has slept for each of them."""
    kvmpc.wait_for_json(process)  # before it there are smaller trials, which end meanwhile
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for task in Path(f"/proc/{process.pid}/task").iterdir():
            status = dict(line.split(":\t") for line in (task / "status").read_text().splitlines())
            if status["Name"] == "vcpu0" and int(status["voluntary_ctxt_switches"]) > 50:
                return
        time.sleep(0.01)
    pytest.fail("no vCPU got anywhere")


def _stood_still(result):
    return [w for trial in result.trials for w in trial.warnings if w.code == "stood-still"]


@pytest.fixture
def freezer():
    """A cgroup of its own, v2, to freeze what is put in."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    for _, where, kind, *_ in mounts:
        if kind == "cgroup2":
            group = Path(where, "kvmpc-test")
            try:
                group.mkdir()
            except OSError as error:
                pytest.skip(f"no cgroup can be made: {error}")
            yield group
            group.rmdir()
            return
    pytest.skip("there is no cgroup v2")


@pytest.mark.parametrize("spec", ["uffd", "exit"])
def test_a_stop_within_a_trial_is_said_and_the_watchdog_bears_with_it(kvmpc, spec):
    process = kvmpc.start("run", spec, *LONG, "--json", str(kvmpc.json))
    _wait_until_measuring(kvmpc, process)
    process.send(signal.SIGSTOP)
    time.sleep(STOPPED_S)
    process.send(signal.SIGCONT)
    finished = process.finish()
    assert finished.code == 0, finished.stderr
    assert "kvmpc stood still for up to " in finished.stderr
    assert len(_stood_still(kvmpc.result())) == 1


def test_a_stop_too_short_to_be_seen_otherwise_is_said_because_it_was_ended(kvmpc):
    process = kvmpc.start("run", "exit", *LONG, "--json", str(kvmpc.json))
    _wait_until_measuring(kvmpc, process)
    process.send(signal.SIGSTOP)
    process.send(signal.SIGCONT)
    assert process.finish().code == 0
    assert len(_stood_still(kvmpc.result())) == 1


def test_a_frozen_cgroup_is_said_though_nothing_tells_of_its_end(kvmpc, freezer):
    process = kvmpc.start("run", "uffd", *LONG, "--json", str(kvmpc.json))
    _wait_until_measuring(kvmpc, process)
    (freezer / "cgroup.procs").write_text(str(process.pid))
    (freezer / "cgroup.freeze").write_text("1")
    time.sleep(STOPPED_S)
    (freezer / "cgroup.freeze").write_text("0")
    finished = process.finish()
    assert finished.code == 0, finished.stderr
    assert len(_stood_still(kvmpc.result())) == 1


def _late_timers():
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, ctypes.c_ulong(2 * 10**9), 0, 0, 0)


@pytest.mark.parametrize("left", [None, _late_timers], ids=["as usual", "late timers"])
def test_a_trial_that_is_left_alone_did_not_stand_still(kvmpc, left):
    assert kvmpc("run", "uffd", *LONG, "--json", str(kvmpc.json), before=left).code == 0
    assert _stood_still(kvmpc.result()) == []
