"""``--profile`` as its users meet it: with perf, without, and with one that is of no use."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from kvmpc.result.records import PROFILED
from tests.fakes.refusing import refusing

pytestmark = pytest.mark.kvm

KILLED = """
import os, re, signal, sys
control, acknowledge = map(int, re.search(r"fd:([0-9]+),([0-9]+)", " ".join(sys.argv)).groups())
signal.signal(signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
while os.read(control, 100):
    os.write(acknowledge, b"ack\\n\\0")
"""
"""A perf that does all it is told, and is killed before it has written what it sampled."""

SMALL = ("--vcpus", "2", "--mem-per-vcpu", "3988K", "--rounds", "1", "--warmup", "0")


@pytest.fixture
def perf(tmp_path_factory):
    """Put a script in the place of perf; "" for a PATH that has none. Returns an environment."""

    def perf(script: str) -> dict[str, str]:
        folder = tmp_path_factory.mktemp("bin")
        if script:
            path = folder / "perf"
            path.write_text(f"#!{sys.executable}\n{script}\n")
            path.chmod(0o755)
        return {"PATH": str(folder)}

    return perf


def _of_perf() -> set[Path]:
    """Return what perf, and what kvmpc for perf, put into /tmp and whose process is gone."""
    return {
        path
        for path in Path("/tmp").glob("perf-*")
        if not Path("/proc", path.stem.removeprefix("perf-")).exists()
    }


@pytest.fixture(autouse=True)
def nothing_of_perf_is_left():
    before = _of_perf()
    yield
    deadline = time.monotonic() + 10
    while not _of_perf() <= before and time.monotonic() < deadline:
        time.sleep(0.1)  # somebody else's perf may be at work
    assert _of_perf() <= before


def _profiled(kvmpc):
    return [trial for trial in kvmpc.result().trials if trial.round == PROFILED]


def test_a_profile_is_shown_beside_the_table_and_changes_none_of_its_numbers(kvmpc):
    if shutil.which("perf") is None:
        pytest.skip("there is no perf (linux-perf, linux-tools)")
    finished = kvmpc("compare", "uffd", "exit", *SMALL, "--profile", "--json", str(kvmpc.json))
    assert finished.code == 0
    assert [trial.round for trial in kvmpc.result().trials] == [1, 1, PROFILED, PROFILED]
    assert "where the time went" in finished.stdout
    table = finished.stdout.partition("\n\nwhere the time went")[0]
    assert "1 round" in " ".join(table.split())
    shown = kvmpc("show", str(kvmpc.json))
    assert shown.stdout == finished.stdout


def test_without_the_option_perf_is_not_run(kvmpc, perf):
    folder = kvmpc.folder
    env = perf(f"open({str(folder / 'ran')!r}, 'w')")
    finished = kvmpc("run", "exit", *SMALL, env=env)
    assert finished.code == 0
    assert "where the time went" not in finished.stdout
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("", "there is no perf in PATH"),
        ("import sys; sys.exit('Error:\\nNo permission to enable cycles event.')", "No permission"),
        ("import os; os.write(1, os.urandom(10000))", "perf record ended with 0"),
        ("import time; time.sleep(1000)", "perf does not answer"),
        (KILLED, "perf record ended with -9"),
    ],
)
def test_where_perf_is_of_no_use_the_run_goes_on_and_says_why(kvmpc, perf, script, reason):
    finished = kvmpc(
        "run", "exit", *SMALL, "--profile", "--json", str(kvmpc.json), env=perf(script)
    )
    assert finished.code == 0
    assert finished.cells("exit(sigbus)")[-1] == "yes"
    assert f"not profiled: {reason}" in finished.told or reason in finished.told
    [trial] = _profiled(kvmpc)
    assert (trial.status, trial.profile) == ("ok", None)
    assert [w.code for w in trial.warnings if w.code.startswith("profile")] == ["profile-absent"]


def test_an_ordinary_user_may_profile_or_is_told_why_not(kvmpc, as_user):
    within = as_user("sys_ptrace", "dac_override")
    finished = kvmpc("run", "exit", *SMALL, "--profile", "--json", str(kvmpc.json), within=within)
    assert finished.code == 0
    [trial] = _profiled(kvmpc)
    if trial.profile is None:
        [absent] = [w for w in trial.warnings if w.code == "profile-absent"]
        assert "perf_event_paranoid" in absent.remedy
    else:
        assert trial.profile.modes["kernel"] > 0


def test_a_filter_that_forbids_to_profile_is_told_as_such(kvmpc):
    if shutil.which("perf") is None:
        pytest.skip("there is no perf here")
    within = refusing(errno.EPERM, "perf_event_open")
    finished = kvmpc("run", "exit", *SMALL, "--profile", "--json", str(kvmpc.json), within=within)
    assert finished.code == 0
    [trial] = _profiled(kvmpc)
    [absent] = [w for w in trial.warnings if w.code == "profile-absent"]
    assert "allow perf_event_open in the seccomp filter" in absent.remedy


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("to_all", [False, True])
def test_a_stop_at_any_moment_of_a_profile_leaves_nothing(kvmpc, number, to_all):
    """Also one that perf gets as well, as from a terminal; `finish` looks for processes."""
    moments = random.Random(f"kvmpc profile {number} {to_all}")
    for _ in range(5):
        kvmpc.json.unlink(missing_ok=True)
        process = kvmpc.start(
            "run", "uffd", "--vcpus", "2", "--mem-per-vcpu", "3988K", "--rounds", "1",
            "--warmup", "0", "--profile", "--json", str(kvmpc.json),
        )  # fmt: skip
        kvmpc.wait_for_json(process)
        time.sleep(moments.uniform(0.1, 2.0))
        if process.popen.poll() is None:
            (os.killpg if to_all else os.kill)(process.pid, number)
        finished = process.finish(within_s=20)
        # After the run, while its table is printed, a signal does what it does to any program.
        ended = finished.code == -number and kvmpc.result().finished
        assert finished.code in (0, 130) or ended
        assert {trial.status for trial in kvmpc.result().trials} <= {"ok"}
        assert list(kvmpc.folder.iterdir()) == [kvmpc.json]
