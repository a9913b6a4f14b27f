"""That the soak runs, repeats what it drew, notices what is left, and takes its hogs with it."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.kvm

SOAK = Path(__file__).parents[2] / "bench" / "soak.py"

# Descriptors are closed no more: as every owner of one would forget it.
LEAKING = f"""
import runpy, sys
from kvmpc.kernel import syscalls
syscalls.close_fd = lambda fd: None
sys.argv[0] = {str(SOAK)!r}
sys.path.insert(0, {str(SOAK.parent)!r})
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def _run(*command: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=300, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout.splitlines()


def test_trials_that_end_in_every_way_leave_nothing_and_are_the_same_again() -> None:
    code, lines = _run(str(SOAK), "--trials", "40", "--seed", "23", "--cpu-hogs", "1")
    assert code == 0, "\n".join(lines)
    assert re.match(r"40 trials in \d+ s, [1-9]\d* pages verified, [1-9]\d* stops .*", lines[-1])
    assert lines[-1].endswith(", 0 wrong")
    drawn = [line for line in lines if re.match(r"\d+: ", line)]
    assert len(drawn) == 40
    code, again = _run(str(SOAK), "--only", "7", "--seed", "23")
    assert code == 0
    assert [line for line in again if line.startswith("7: ")] == [drawn[7]]


def test_what_a_trial_leaves_is_found_and_named() -> None:
    code, lines = _run("-c", LEAKING, "--trials", "2", "--seed", "23")
    assert code == 1
    found = [line for line in lines if line.startswith("WRONG --seed 23 --only ")]
    assert found
    assert all(re.search(r"left \+\d+ fds", line) for line in found)


def test_hogs_end_with_a_soak_that_is_killed() -> None:
    command = [sys.executable, str(SOAK), "--cpu-hogs", "2", "--memory-hog", "4096"]
    soak = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    children = Path(f"/proc/{soak.pid}/task/{soak.pid}/children")
    deadline = time.monotonic() + 60
    while len(hogs := children.read_text().split()) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    soak.kill()
    soak.wait()
    while any(map(_runs, hogs)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
