"""``kvmpc turns`` as users meet it: commands that are run in turn, two files, one verdict."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from kvmpc.exit_codes import EXIT_OK, EXIT_UNSURE
from kvmpc.result.document import load
from kvmpc.result.records import NEW, OLD, Result
from tests.fakes.recipes import recipe

TINY = ("--vcpus", "1", "--mem-per-vcpu", "92K")
RATE_ONLY = ("--limit", "p99=off", "--limit", "cpu=off")
ANYTHING_GOES = ("--limit", "rate=1000%", *RATE_ONLY, "--alpha", "0.5", "--pairs", "6")
"""As few pairs as can be; no noise turns a rate red, and any interval lies inside the limit."""

BOUND_S = 240.0


@pytest.fixture
def log(kvmpc) -> Path:
    """Return the file in which commands note that they ran."""
    return kvmpc.folder / "log"


@pytest.fixture
def files(kvmpc) -> tuple[str, str, str]:
    """Return the option that saves both sides."""
    return ("--json", str(kvmpc.folder / "old.json"), str(kvmpc.folder / "new.json"))


def _sides(files: tuple[str, str, str]) -> tuple[Result, Result]:
    return load(files[1]), load(files[2])


def _ran(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


def _note(log: Path, word: str, then: str = "true") -> str:
    return f"echo {word} >>{shlex.quote(str(log))}; {then}"


def _in_turn(log: Path, *, old: str = "true", new: str = "true", end: str = "true") -> list[str]:
    return [
        "--old", _note(log, "old", old), "--new", _note(log, "new", new),
        "--finally", _note(log, "end", end),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--pairs", "8"], ["--pairs", "8", "9 or more", "3 tests", "--limit p99=off"]),
        (["--pairs", "0"], ["--pairs", "9 or more"]),
        (["--pairs", "501"], ["--pairs", "501", "1 to 500"]),
        (["--pairs", "x"], ["--pairs", "'x'"]),
        (["--pairs", "6", *RATE_ONLY], ["--pairs", "7 or more", "a check of 1 test "]),
        ([*ANYTHING_GOES, "--pairs", "5"], ["--pairs", "6 or more"]),
        (["--rounds", "0"], ["--rounds", "0", "1 to 1000"]),
        (["--old", " "], ["--old", "' '", "a shell command"]),
        (["--finally", ""], ["--finally", "''", "a shell command"]),
        (["--command-timeout", "0"], ["--command-timeout", "0", "above 0"]),
        (["--command-timeout", "nan"], ["--command-timeout", "nan", "above 0"]),
        (["--alpha", "2"], ["--alpha", "2", "0.5"]),
        (["--limit", "speed=1%"], ["--limit", "'speed=1%'", "rate, p99, cpu"]),
        (["--json", "-", "new.json"], ["--json", "'-'", "two files"]),
        (["--json", "a.json", "./a.json"], ["--json", "two files, one for each side"]),
        (["--json", "nowhere/a.json", "b.json"], ["--json", "nowhere/a.json", "ENOENT"]),
        (["--json", "a.json"], ["--json", "requires 2 arguments"]),
        (["--vcpus", "0"], ["--vcpus", "0", "1 up to"]),
        (["--watchdog", "0"], ["--watchdog", "0"]),
        (["--busy-limit", "300%"], ["--busy-limit", "'300%'", "below 100"]),
        (["--profile"], ["--profile"]),
        (["swap"], ["PAGER", "'swap'"]),
        (["uffd"], ["PAGER", "each pager once"]),
    ],
    ids=" ".join,
)  # fmt: skip
def test_bad_input_is_refused_before_any_command_is_run(kvmpc, log, arguments, words):
    finished = kvmpc("turns", "uffd", *TINY, *_in_turn(log), *arguments)
    assert finished.code == 2
    assert finished.stdout == ""
    for word in words:
        assert word in finished.error
    assert list(kvmpc.folder.iterdir()) == []


@pytest.mark.parametrize("side", ["--old", "--new"])
def test_a_side_without_a_command_is_refused(kvmpc, side):
    finished = kvmpc("turns", "uffd", side, "true")
    assert finished.code == 2
    assert f"Missing option '--{'new' if side == '--old' else 'old'}'" in finished.error


LOOK = """
open=$(for fd in /proc/$PPID/fd/*; do readlink "$fd"; done)
echo "$open" | grep -E "/dev/kvm|kvm-v|userfault|perf_event" && exit 1
test "$(ls /proc/$PPID/task)" = $PPID || exit 1
for child in $(cat /proc/$PPID/task/*/children); do test $child = $$ || exit 1; done
"""
"""Fails where kvmpc has anything of KVM open, another thread than its first, or another child."""


@pytest.mark.kvm
def test_the_look_sees_what_it_looks_for():
    """What the tests below rely on: it fails where KVM is open, for a thread or a child more."""
    for odd in (
        "file = open('/dev/kvm')",
        "threading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
        "subprocess.Popen(['sleep', '9'])",
        "",
    ):
        program = (
            f"import subprocess, sys, threading, time\n{odd}\n"
            "sys.exit(subprocess.run(['/bin/sh', '-c', sys.argv[1]]).returncode)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, LOOK], capture_output=True, text=True, timeout=60
        )
        assert (done.returncode == 0) == (odd == ""), (odd, done)


@pytest.mark.kvm
def test_two_sides_that_are_alike_are_measured_judged_and_read_back(kvmpc, log, files):
    finished = kvmpc.start(
        "turns", "none", "uffd", *TINY, *_in_turn(log, old=LOOK, new=LOOK, end=LOOK),
        "--warmup", "0", *ANYTHING_GOES, *files,
    ).finish(within_s=BOUND_S)  # fmt: skip
    assert finished.code in (EXIT_OK, EXIT_UNSURE), finished  # how noisy the host is, is its own
    assert finished.error == ""
    assert "between the sides: no fact of the host that kvmpc reads differs" in finished.told
    ran = _ran(log)
    assert (ran.count("old"), ran.count("new"), ran[-1]) == (6, 6, "end")
    old, new = _sides(files)
    for side, result in ((OLD, old), (NEW, new)):
        assert result.finished
        assert result.turns.side == side
        assert [trial.round for trial in result.trials] == [n for n in range(1, 13) for _ in (0, 1)]
        assert {trial.status for trial in result.trials} == {"ok"}
        assert result.command[:2] == ("kvmpc", "turns")
        firsts = [ran[at : at + 2] == ["new", "old"] for at in range(0, 12, 2)]
        assert list(result.turns.new_first) == firsts
        assert kvmpc("show", files[1 + (side == NEW)]).code == 0
    again = kvmpc("check", files[2], "--against", files[1], *ANYTHING_GOES[:-2])
    assert (again.code, again.stdout) == (finished.code, finished.stdout)
    if find_spec("matplotlib"):
        assert kvmpc("report", files[1], files[2], "-o", "page.html").code == 0


@pytest.mark.kvm
def test_readmes_recipe_reloads_a_module_that_nobody_uses(kvmpc, log):
    """With another modprobe, which looks instead, and less to measure."""
    programs = kvmpc.folder / "programs"
    programs.mkdir()
    look = LOOK.replace("$PPID", "$kvmpc").replace("test $child = $$", "test $child = $PPID")
    made = {
        "modprobe": f"""#!/bin/sh
            kvmpc=$(sed 's/.*) //' /proc/$PPID/stat | cut -d' ' -f2)
            {look}
            echo "$*" >>{shlex.quote(str(log))}""",
        "kvmpc": f"""#!/bin/sh
            exec {shlex.join(kvmpc.command)} "$@" uffd {shlex.join((*TINY, *ANYTHING_GOES))}""",
    }
    for name, text in made.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    finished = kvmpc.start_program(
        ["sh", "-c", recipe("turns")], env={"PATH": f"{programs}:{os.environ['PATH']}"}
    ).finish(within_s=BOUND_S)
    assert finished.code in (EXIT_OK, EXIT_UNSURE), finished
    assert finished.error == ""
    ran = log.read_text().splitlines()
    assert Counter(ran) == {
        "-r kvm_amd": 13, "kvm_amd npt=1": 6, "kvm_amd npt=0": 6, "kvm_amd": 1,
    }  # fmt: skip
    assert ran[-2:] == ["-r kvm_amd", "kvm_amd"]


@pytest.mark.kvm
def test_a_side_that_is_slower_is_found_with_the_fact_that_differs(kvmpc, log, files):
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("needs two CPUs")
    move = "taskset -p -c {} $PPID"
    finished = kvmpc.start_injected(
        "slow-source", "turns", "exit", "--vcpus", "1", "--mem-per-vcpu", "256K", "--warmup", "0",
        "--rounds", "1", *RATE_ONLY, "--pairs", "7", *files,
        *_in_turn(log, old=f"rm -f slow; {move.format(f'{cpus[0]},{cpus[1]}')}",
                  new=f"touch slow; {move.format(cpus[0])}"),
    ).finish(within_s=BOUND_S)  # fmt: skip
    assert finished.code == 1, finished
    assert "WORSE" in finished.stdout
    assert "between the sides: cpu.allowed: " in finished.told
    assert "cpu.allowed_count: 1 against 2 in the baseline" in finished.told
    old, new = _sides(files)
    assert [side.host["cpu"]["allowed_count"] for side in (old, new)] == [2, 1]


@pytest.mark.kvm
@pytest.mark.parametrize("side", ["old", "new"])
def test_a_command_that_fails_ends_it_as_what_this_host_cannot(kvmpc, log, files, side):
    commands = {side: "echo no such module; exit 7"}
    finished = kvmpc("turns", "uffd", *TINY, *_in_turn(log, **commands), *files)
    assert finished.code == 3
    assert f"kvmpc: --{side} " in finished.error
    assert "ended with exit code 7 | no such module remedy: " in finished.error
    assert finished.stdout == ""
    assert _ran(log)[-1] == "end"
    assert _ran(log).count(side) == 1


def test_a_command_that_hangs_is_ended_in_time(kvmpc, log):
    begin = time.monotonic()
    finished = kvmpc(
        "turns", "uffd", *TINY, "--command-timeout", "0.5",
        *_in_turn(log, old="sleep 987654", new="sleep 987654", end="sleep 987654"),
    )  # fmt: skip
    assert finished.code == 3
    assert time.monotonic() - begin < 30
    assert finished.error.count("did not end within 0.5 s") == 2
    assert _ran(log)[-1] == "end"
    assert _processes("^sleep 987654") == []


def _processes(words: str) -> list[int]:
    """Return the processes whose command line matches, zombies aside: they have none."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if entry.name.isdigit() and re.search(words, line):
                found.append(int(entry.name))
    return found


def _wait_for(what, process):
    deadline = time.monotonic() + 60
    while not what():
        assert process.popen.poll() is None, process.popen.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.kvm
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_a_block_ends_it_after_the_command_at_the_end(kvmpc, log, files, number):
    memory = "4000K"  # so that its blocks are known from those of other tests
    process = kvmpc.start(
        "turns", "uffd", "--vcpus", "1", "--mem-per-vcpu", memory, "--rounds", "400",
        *_in_turn(log, end="sleep 0.3; echo ended >>log"), *files,
    )  # fmt: skip
    blocks = f"compare .*--mem-per-vcpu={memory}"
    _wait_for(lambda: _processes(blocks), process)
    time.sleep(0.5)
    process.send(number)
    finished = process.finish(within_s=30)
    assert finished.code == 130
    assert f"kvmpc: {number.name}: stopping; what --finally says is done first" in finished.error
    assert finished.error.endswith(f"kvmpc: stopped by {number.name}")
    assert _ran(log)[-2:] == ["end", "ended"]
    assert _processes(blocks) == []


def test_a_signal_in_a_command_ends_it_after_the_command_at_the_end(kvmpc, log):
    hang = "sleep 876543"
    process = kvmpc.start("turns", "uffd", *TINY, *_in_turn(log, old=hang, new=hang))
    _wait_for(lambda: _processes(f"^{hang}"), process)
    process.send(signal.SIGTERM)
    finished = process.finish(within_s=30)
    assert finished.code == 130
    assert _ran(log)[-1] == "end"
    assert _processes(f"^{hang}") == []


@pytest.mark.kvm
def test_what_was_measured_before_the_end_is_saved_unfinished(kvmpc, log, files):
    process = kvmpc.start("turns", "uffd", *TINY, "--warmup", "0", *_in_turn(log), *files)
    _wait_for(lambda: len(_ran(log)) > 4, process)
    process.send(signal.SIGTERM)
    assert process.finish(within_s=30).code == 130
    for result in _sides(files):
        assert not result.finished
        assert len(result.turns.last_rounds) >= 1
        assert len(result.trials) == 2 * len(result.turns.last_rounds)
    refused = kvmpc("check", files[2], "--against", files[1])
    assert refused.code == 2
    assert "did not finish" in refused.error


@pytest.mark.kvm
def test_a_side_without_kvm_is_named_and_what_it_took_is_put_back(kvmpc, log, with_dev, devices):
    made = "; ".join(devices.values())
    finished = kvmpc(
        "turns", "none", *TINY, "--warmup", "0",
        *_in_turn(log, new="rm -f /dev/kvm", end=f"{devices['kvm']}; ls /dev/kvm >>log"),
        within=with_dev(f"{made}; mkdir /dev/shm"),
    )  # fmt: skip
    assert finished.code == 3
    assert finished.error.startswith("kvmpc: side new: ")
    assert "/dev/kvm" in finished.error
    assert "remedy: " in finished.error
    assert _ran(log)[-2:] == ["end", "/dev/kvm"]


@pytest.mark.kvm
def test_a_command_at_the_end_that_fails_is_told_after_the_verdict(kvmpc, log):
    finished = kvmpc.start(
        "turns", "none", *TINY, "--warmup", "0", "--rounds", "1", *ANYTHING_GOES,
        *_in_turn(log, end="echo still there; false"),
    ).finish(within_s=BOUND_S)  # fmt: skip
    assert finished.code == 3
    assert "between the sides" in finished.told
    assert "kvmpc: --finally " in finished.error
    assert "still there" in finished.error


def test_a_harness_reads_that_the_test_was_skipped(kvmpc, log):
    finished = kvmpc(
        "--exit-codes", "kselftest", "turns", "uffd", *TINY, "--format", "ktap",
        *_in_turn(log, old="false", new="false"),
    )  # fmt: skip
    assert finished.code == 4
    assert "# SKIP" in finished.stdout


@pytest.mark.kvm
def test_a_block_is_the_kvmpc_that_was_started_with_the_options_that_were_given(kvmpc, log, files):
    """Another package of the name, in the folder at hand, is not taken for this one."""
    if not Path(sys.executable).with_name("kvmpc").exists():
        pytest.skip("kvmpc is not installed here")
    (kvmpc.folder / "kvmpc").mkdir()
    (kvmpc.folder / "kvmpc" / "__init__.py").write_text("raise SystemExit('another kvmpc')\n")
    given = ("--access=read", "--order", "scattered", "--seed", "7", "--overlap", "--pin")
    finished = kvmpc.start(
        "turns", "uffd", *TINY, *given, "--warmup", "0", "--rounds", "1", "--pairs", "7",
        *ANYTHING_GOES, *_in_turn(log), *files, env={"KVMPC_EXIT_CODES": "automake"},
    ).finish(within_s=BOUND_S)  # fmt: skip
    assert finished.code in (EXIT_OK, 77), finished  # unsure, in that convention
    options = _sides(files)[0].options
    wanted = {"access": "read", "order": "scattered", "seed": 7, "overlap": True, "warmup": 0}
    assert {name: options[name] for name in wanted} == wanted
    assert options["placement"]["pin"] is True
    assert options["mem_per_vcpu_bytes"] == 92 << 10
