"""Running perf, whatever it is: a stand-in that fails, hangs, dies, or writes nonsense."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from kvmpc.errors import Interrupted
from kvmpc.loops.program import load
from kvmpc.loops.steps import Steps
from kvmpc.trial import perf
from kvmpc.trial.perf import Recorder, named_loops
from kvmpc.trial.samples import Sample, Window
from kvmpc.trial.signals import Interrupt

PRELUDE = """
import os, re, signal, sys, time
def serve(commands=10**9):
    found = re.search(r"fd:([0-9]+),([0-9]+)", " ".join(sys.argv))
    control, acknowledge = map(int, found.groups())
    for _ in range(commands):
        if not os.read(control, 100): break
        os.write(acknowledge, b"ack\\n\\0")
"""

SAMPLES = (
    "  23  1.000000007:  100 cycles:P: \n\tffffffff81000000 clear_page_erms\n\n"
    "  99  2.000000000:    7 cycles:P: \n\n"
)

BODIES = {
    "works": f"""
if sys.argv[1] == "script":
    assert sys.stdin.read() == "recorded"
    print({SAMPLES!r})
else:
    def stop(*_):
        sys.stdout.write("recorded"); sys.stdout.flush(); os._exit(0)
    signal.signal(signal.SIGINT, stop)
    serve()
""",
    "forbidden": 'sys.exit("Error:\\nAccess to performance monitoring is limited.\\n"'
    '"Consider adjusting /proc/sys/kernel/perf_event_paranoid")',
    "no-cycles": f"""
if sys.argv[1] == "script": print({SAMPLES!r})
elif "cycles" in sys.argv: sys.exit("Error:\\nThe cycles event is not supported.")
else: serve()
""",
    "silent": "time.sleep(1000)",
    "dies": "serve(commands=2)",
    # Its pipes are closed long before it has ended, as on a host that has other things to do.
    "dies-slowly": "serve(commands=2); os.closerange(3, 100); time.sleep(0.5); sys.exit(23)",
    # As of the OOM killer, once all was sampled.
    "killed": """
signal.signal(signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
serve()
""",
    "deaf": """
signal.signal(signal.SIGINT, signal.SIG_IGN)
serve(); time.sleep(1000)
""",
    "nonsense": """
if sys.argv[1] == "script": os.write(1, os.urandom(100_000))
else: serve()
""",
    "unreadable": """
if sys.argv[1] == "script": sys.exit("incompatible file format")
else: serve()
""",
    # It wrote some samples, and then met what it could not read.
    "half-readable": f"""
if sys.argv[1] == "script": print({SAMPLES!r}); sys.exit("incompatible file format")
else: serve()
""",
    "endless": """
if sys.argv[1] == "script": time.sleep(1000)
else: serve()
""",
}


# What is waited for in vain. Every other wait is longer than the busiest host takes.
IN_VAIN = {"silent": "_START_S", "deaf": "_STOP_S", "endless": "_READ_S"}


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make another perf the only one in PATH."""

    def stand_in(kind: str) -> None:
        for name in ("_START_S", "_SWITCH_S", "_STOP_S", "_READ_S"):
            monkeypatch.setattr(perf, name, 0.3 if IN_VAIN.get(kind) == name else 300.0)
        path = tmp_path / "perf"
        path.write_text(f"#!{sys.executable}\n{PRELUDE}\n{BODIES[kind]}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))

    return stand_in


def _children() -> set[int]:
    """Return the processes that this one started and has not waited for."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # gone meanwhile
            if int(entry.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.add(int(entry.parent.name))
    return found


def _open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def recorded(interrupt: Interrupt | None = None) -> tuple[list[Sample], str]:
    """Return what a recording gives, and what its problem is, without the common words."""
    before, own = _open_fds(), _children()
    with Recorder(interrupt or Interrupt()) as recorder:
        recorder.begin(load(Steps()))
        recorder.end([Window(23, "vcpus", 0, 10**10)])
        with recorder.samples() as samples:
            found = list(samples)
    assert _open_fds() == before
    assert _children() == own
    assert not os.path.exists(f"/tmp/perf-{os.getpid()}.map")
    problem = recorder.problem
    return found, "" if problem is None else f"{problem.text}; {problem.remedy}"


def test_what_perf_samples_between_begin_and_end_is_read(stand_in: Callable[[str], None]) -> None:
    stand_in("works")
    found, problem = recorded()
    assert problem == ""
    assert [(one.tid, one.time_ns, one.weight, one.function) for one in found] == [
        (23, 1_000_000_007, 100, "clear_page_erms"), (99, 2_000_000_000, 7, "(guest)"),
    ]  # fmt: skip


def test_where_there_are_no_cycles_the_clock_is_sampled(stand_in: Callable[[str], None]) -> None:
    stand_in("no-cycles")
    found, problem = recorded()
    assert problem == ""
    assert len(found) == 2


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("forbidden", ("Access to performance monitoring is limited", "perf_event_paranoid=1")),
        ("silent", ("perf does not answer",)),
        ("dies", ("perf record ended with 0",)),
        ("dies-slowly", ("perf record ended with 23",)),
        ("deaf", ("perf does not stop",)),
        ("killed", ("perf record ended with -9",)),
        ("half-readable", ("perf script ended with 1", "incompatible file format")),
        ("unreadable", ("perf script ended with 1", "incompatible file format")),
        ("endless", ("perf script does not end",)),
        ("nonsense", ()),
    ],
)
def test_whatever_perf_does_there_is_a_reason_and_nothing_else(
    stand_in: Callable[[str], None], kind: str, words: tuple[str, ...]
) -> None:
    stand_in(kind)
    found, problem = recorded()
    assert found == []
    assert problem.startswith("not profiled: ") == bool(words)
    assert all(word in problem for word in words)


def test_without_perf_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found, problem = recorded()
    assert found == []
    assert (
        problem == "not profiled: there is no perf in PATH; install perf (linux-perf, linux-tools)"
    )


def test_a_perf_that_cannot_run_is_a_reason_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "perf"
    path.write_text("neither a program nor a script")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert recorded()[1].startswith("not profiled: perf cannot be started: Exec format error")


def test_an_interrupt_ends_the_wait_and_perf_with_it(stand_in: Callable[[str], None]) -> None:
    stand_in("silent")
    interrupt = Interrupt()
    interrupt.signal_name = "SIGTERM"
    before, own = _open_fds(), _children()
    with pytest.raises(Interrupted), Recorder(interrupt):
        pytest.fail("perf never answered")
    assert _open_fds() == before
    assert _children() == own


def test_a_block_that_is_left_early_leaves_no_perf(stand_in: Callable[[str], None]) -> None:
    stand_in("works")
    own = _children()
    with pytest.raises(ZeroDivisionError), Recorder():
        raise ZeroDivisionError
    assert _children() == own


# --- the names of the loops


@pytest.fixture
def map_path() -> Path:
    return Path(f"/tmp/perf-{os.getpid()}.map")


def test_the_loops_have_names_while_perf_reads_them(map_path: Path) -> None:
    program = load(Steps())
    with named_loops(program):
        assert stat.S_IMODE(map_path.stat().st_mode) == 0o600
        rows = [line.split() for line in map_path.read_text().splitlines()]
    assert not map_path.exists()
    starts = {name: int(start, 16) for start, _, name in rows}
    assert {"vcpu_loop", "reader_loop", "resolve", "install_copy"} <= set(starts)
    assert starts["vcpu_loop"] == program.address("vcpu_loop")
    ends = [int(start, 16) + int(size, 16) for start, size, _ in rows]
    assert ends[:-1] == [int(start, 16) for start, _, _ in rows[1:]], "no gap, no overlap"
    assert ends[-1] == program.address("call_native") + len(program.program.code)


def test_the_names_go_away_when_the_block_fails(map_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), named_loops(load(Steps())):
        raise ZeroDivisionError
    assert not map_path.exists()


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_stands_in_the_way_is_neither_followed_nor_changed(
    map_path: Path, tmp_path: Path, kind: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    if kind == "link":
        map_path.symlink_to(victim)
    else:
        map_path.write_text("precious")
    try:
        with named_loops(load(Steps())):
            pass
        assert (victim.read_text(), map_path.read_text()) == ("precious", "precious")
    finally:
        map_path.unlink()


def test_perf_is_not_asked_to_go_to_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEBUGINFOD_URLS", "https://example.invalid")
    assert perf._environment()["DEBUGINFOD_URLS"] == ""
