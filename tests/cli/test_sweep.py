"""Sweeps as users run them: interrupted, killed, on a full disk, twice at once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.kvm

SPEC = """
question = "Is it interleaved?"
vcpus = [1, 3]
mem_per_vcpu = "92K"
pagers = ["none", "uffd", "exit"]
rounds = 2
"""
LONG = SPEC.replace("rounds = 2", "rounds = 300").replace("92K", "3988K")
TRIALS = 2 * 3 * (2 + 1)


@pytest.fixture
def spec(kvmpc):
    """Write a spec beside the result and return its name."""

    def write(text=SPEC):
        (kvmpc.folder / "s.toml").write_text(text)
        return "s.toml"

    return write


def test_a_sweep_measures_every_combination_in_interleaved_rounds(kvmpc, spec):
    finished = kvmpc("sweep", spec())
    assert finished.code == 0, finished
    document = json.loads((kvmpc.folder / "s.json").read_text())
    trials = document["trials"]
    assert document["finished"]
    assert document["spec"] == SPEC
    assert [point["options"]["vcpus"] for point in document["points"]] == [1, 3]
    assert len(trials) == TRIALS
    for turn in range(3):
        turn_trials = trials[turn * 6 : turn * 6 + 6]
        assert {trial["round"] for trial in turn_trials} == {turn}
        assert {(t["point"], t["pager"]) for t in turn_trials} == {
            (point, pager) for point in (0, 1) for pager in ("none", "uffd", "exit")
        }
    assert {t["vcpus"] for t in trials if t["point"] == 1} == {3}
    assert kvmpc("show", "s.json").stdout == finished.stdout


def test_several_numbers_of_vcpus_on_the_command_line_are_a_sweep(kvmpc):
    finished = kvmpc(
        "compare", "uffd", "exit", "--vcpus", "1-4:x2", "--mem-per-vcpu", "92K", "--rounds", "1",
        "--json", str(kvmpc.json),
    )  # fmt: skip
    assert finished.code == 0, finished
    assert [point.options["vcpus"] for point in kvmpc.result().points] == [1, 2, 4]


def test_a_result_is_not_overwritten_by_a_new_sweep(kvmpc, spec):
    (kvmpc.folder / "s.json").write_text("precious")
    finished = kvmpc("sweep", spec())
    assert finished.code == 2
    assert "--resume" in finished.error
    assert (kvmpc.folder / "s.json").read_text() == "precious"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_that_was_killed_goes_on_and_loses_at_most_the_running_trial(kvmpc, spec, number):
    name, path = spec(LONG), kvmpc.folder / "s.json"
    seen = 0
    for _ in range(4):
        process = kvmpc.start("sweep", name, "--resume", "--yes")
        deadline = time.monotonic() + 30
        while True:
            assert time.monotonic() < deadline
            assert process.popen.poll() is None, process.popen.communicate()
            # Whoever reads meanwhile may meet it half written; its lines are what counts here.
            lines = kvmpc.text_of(path).count('\n{"pager"')
            if lines >= seen + 5:
                break
            time.sleep(0.01)
        process.send(number)
        process.popen.wait(30)
        process.kill()
        text = path.read_text()
        assert text.count('\n{"pager"') >= lines
        seen = lines
    finished = kvmpc("sweep", name, "--resume", "--set", "rounds=300", "--set", "vcpus=1")
    assert finished.code == 2
    assert "same plan" in finished.error
    trials = [json.loads(line.rstrip(",")) for line in text.split("\n") if line[:8] == '{"pager"']
    keys = [(trial["round"], trial["point"], trial["pager"]) for trial in trials]
    assert len(set(keys)) == len(keys), "a finished trial was measured again"


def test_a_finished_sweep_that_is_resumed_measures_nothing(kvmpc, spec):
    name = spec()
    assert kvmpc("sweep", name).code == 0
    before = json.loads((kvmpc.folder / "s.json").read_text())["trials"]
    finished = kvmpc("sweep", name, "--resume")
    assert finished.code == 0
    assert json.loads((kvmpc.folder / "s.json").read_text())["trials"] == before


def test_what_this_host_cannot_run_is_listed_as_skipped_with_the_reason(kvmpc, spec):
    finished = kvmpc("sweep", spec(), "--set", "vcpus=[1, 999999]")
    assert finished.code == 0, finished
    assert "skipped" in finished.told
    assert "KVM allows 1 to" in finished.told
    document = json.loads((kvmpc.folder / "s.json").read_text())
    assert [(skip["point"], skip["pager"]) for skip in document["skipped"]] == [
        (1, "none"), (1, "uffd"), (1, "exit"),
    ]  # fmt: skip
    assert {trial["point"] for trial in document["trials"]} == {0}


def test_a_sweep_of_which_nothing_can_run_says_why(kvmpc, spec):
    finished = kvmpc("sweep", spec(), "--set", "vcpus=[999998, 999999]")
    assert finished.code == 3
    assert "KVM allows 1 to" in finished.error
    assert not (kvmpc.folder / "s.json").exists()


def test_two_sweeps_do_not_write_to_one_file(kvmpc, spec):
    name = spec(LONG)
    process = kvmpc.start("sweep", name, "--yes")
    deadline = time.monotonic() + 30
    while not kvmpc.text_of(kvmpc.folder / "s.json"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    second = kvmpc("sweep", name, "--resume", "--yes")
    assert second.code == 2
    assert "no other kvmpc" in second.error
    process.send(signal.SIGINT)
    assert process.finish().code == 130


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mount") is None, reason="needs root to mount a small tmpfs"
)
def test_a_disk_that_fills_ends_the_sweep_and_leaves_it_to_be_resumed(kvmpc, spec):
    disk = kvmpc.folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=True)
    try:
        path = disk / "r.json"
        finished = kvmpc("sweep", spec(LONG.replace("3988K", "92K")), "--yes", "--json", str(path))
        assert finished.code == 4
        assert "ENOSPC" in finished.error
        document = json.loads(path.read_text())
        assert not document["finished"]
        assert len(document["trials"]) > 5
        assert [file.name for file in disk.iterdir()] == ["r.json"]
        shutil.copy(path, kvmpc.folder / "s.json")
        process = kvmpc.start("sweep", "s.toml", "--resume", "--yes")
        deadline = time.monotonic() + 30
        while Path(kvmpc.folder / "s.json").read_text().count('\n{"pager"') <= len(
            document["trials"]
        ):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send(signal.SIGINT)
        assert process.finish().code == 130
    finally:
        subprocess.run(["umount", disk], check=True)


def test_what_takes_over_an_hour_has_to_be_confirmed_and_what_was_measured_stays(kvmpc, spec):
    # 40 rounds of fetches that sleep for a second each: well over an hour after the first point.
    name = spec(SPEC + 'fetch_delay = "1s"\nwatchdog = 60\norder = ["sequential", "scattered"]\n')
    finished = kvmpc(
        "sweep", name, "--set", "rounds=900", "--set", "pagers=exit", "--set", "mem_per_vcpu=8K"
    )
    assert finished.code == 2
    assert "--yes" in finished.error
    assert " h " in finished.error
    assert len(json.loads((kvmpc.folder / "s.json").read_text())["trials"]) == 1
