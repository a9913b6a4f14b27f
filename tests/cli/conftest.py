"""kvmpc as users meet it: a process, with its exit code, its two streams and the file it writes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from kvmpc.result.document import load, salvage
from kvmpc.result.records import Result

TINY = ("--vcpus", "1", "--mem-per-vcpu", "92K", "--rounds", "1", "--warmup", "0")
"""23 pages, one trial of each pager."""

_SETUP_FAILED = 99
_HANG_S = 60.0


@dataclass(frozen=True)
class Finished:
    """What a run of kvmpc left behind."""

    code: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """stderr without warnings, in one line: both are wrapped."""
        rest = re.sub(r"^warning: .*\n(?:  .*\n)*", "", self.stderr, flags=re.MULTILINE)
        return " ".join(rest.split())

    @property
    def warnings(self) -> list[str]:
        """The warnings on stderr, each in one line."""
        found = re.findall(r"^warning: .*\n(?:  .*\n)*", self.stderr, flags=re.MULTILINE)
        return [" ".join(warning.split()) for warning in found]

    @property
    def told(self) -> str:
        """stdout in one line: notes below the table are wrapped."""
        return " ".join(self.stdout.split())

    def cells(self, label: str) -> list[str]:
        """Return the table's cells right of the pager `label`."""
        # Between the rule and the notes: these and the headers may begin with a pager's name.
        body = self.stdout.partition("\n---")[2].partition("\n\n")[0].splitlines()
        rows: list[list[str]] = []
        for line in body:
            words = line.split()
            if not line.startswith(" "):
                rows.append(words)
            elif line[1] != " ":  # the label goes on, after a comma
                rows[-1][0] += words[0]
        found = [cells for first, *cells in rows if first == label]
        assert len(found) == 1, f"{len(found)} rows of {label} in:\n{self.stdout}"
        return found[0]


class Process:
    """kvmpc at work, in a session of its own, so that whatever it leaves behind is found."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        before: Callable[[], None] | None = None,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | None = subprocess.PIPE,
        stderr: int | None = subprocess.PIPE,
    ) -> None:
        clean = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
        self.popen = subprocess.Popen(
            command,
            cwd=cwd,
            env={**clean, **(env or {})},
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=True,
            start_new_session=True,
            preexec_fn=before,
        )

    @property
    def pid(self) -> int:
        """The process, which leads its session."""
        return self.popen.pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process alone."""
        self.popen.send_signal(number)

    def finish(self, *, given: str | None = None, within_s: float = _HANG_S) -> Finished:
        """Wait for the end; a hang, a traceback or a process left behind fails the test."""
        try:
            stdout, stderr = self.popen.communicate(given, timeout=within_s)
        except subprocess.TimeoutExpired:
            self.kill()
            stdout, stderr = self.popen.communicate()
            pytest.fail(f"still there after {within_s:g} s\n{stdout}\n{stderr}")
        left = _session(self.pid)
        self.kill()
        finished = Finished(self.popen.returncode, stdout or "", stderr or "")
        assert not left, f"processes left behind: {left}"
        assert "Traceback" not in finished.stderr, finished.stderr
        return finished

    def kill(self) -> None:
        """Kill the whole session's process group, if there is still one."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


def _session(session: int) -> list[int]:
    """Return the processes of a session, zombies aside."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            # pid (comm) state ppid pgrp session
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if fields[0] not in "ZX" and int(fields[3]) == session:
                found.append(int(entry.name))
    return found


class Cli:
    """Starts kvmpc the way a shell would, from a folder that is not the source tree."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        script = Path(sys.executable).with_name("kvmpc")
        self.command = [str(script)] if script.exists() else [sys.executable, "-m", "kvmpc"]
        self.json = folder / "result.json"
        self.started: list[Process] = []

    def start(self, *arguments: str, within: Sequence[str] = (), **options: object) -> Process:
        """Start kvmpc; `within` is a command that it becomes the argument of."""
        return self.start_program([*within, *self.command, *arguments], **options)

    def start_program(self, command: Sequence[str], **options: object) -> Process:
        """Start any command as `start` does."""
        process = Process(command, cwd=self.folder, **options)  # type: ignore[arg-type]
        self.started.append(process)
        return process

    def __call__(
        self,
        *arguments: str,
        within: Sequence[str] = (),
        given: str | None = None,
        **options: object,
    ) -> Finished:
        """Run kvmpc to its end."""
        if given is not None:
            options["stdin"] = subprocess.PIPE
        finished = self.start(*arguments, within=within, **options).finish(given=given)
        if within and finished.code == _SETUP_FAILED:
            pytest.skip(f"this host does not let the test set itself up: {finished.error}")
        return finished

    def inject(self, fault: str, *arguments: str, **options: object) -> Finished:
        """Run kvmpc with a fault in it."""
        return self.start_injected(fault, *arguments, **options).finish()

    def start_injected(self, fault: str, *arguments: str, **options: object) -> Process:
        """Start kvmpc with a fault in it."""
        program = Path(__file__).with_name("inject.py")
        command = [sys.executable, str(program), fault, "--", *arguments]
        return self.start_program(command, **options)

    def result(self) -> Result:
        """Return what `--json` wrote to the usual file."""
        return load(str(self.json))

    def trials_so_far(self) -> int:
        """Return how many trials the usual file holds, which may be being written just now."""
        return len(salvage(self.text_of(self.json), str(self.json)).trials)

    @staticmethod
    def text_of(path: Path) -> str:
        """Return what a file holds, nothing where there is none: it may come and go meanwhile."""
        with suppress(FileNotFoundError):
            return path.read_text()
        return ""

    def wait_for_json(self, process: Process) -> None:
        """Wait until there is a result in its file: then signals are handled and trials begin.

        It is made, and taken back, before: to see whether it can be.
        """
        deadline = time.monotonic() + _HANG_S
        while not self.text_of(self.json):
            assert process.popen.poll() is None, process.popen.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.002)


@pytest.fixture
def kvmpc(tmp_path: Path) -> Iterator[Cli]:
    """Run kvmpc in an empty folder; kills what a failed test leaves running."""
    cli = Cli(tmp_path)
    yield cli
    for process in cli.started:
        if process.popen.poll() is None:
            process.kill()
            process.popen.wait()
        for stream in (process.popen.stdin, process.popen.stdout, process.popen.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """Return the options of the smallest sensible run: 23 pages, one trial of each pager."""
    return TINY


@pytest.fixture(scope="session")
def with_dev() -> Callable[[str], list[str]]:
    """Return a command that runs its arguments with another /dev, in a mount namespace of its own.

    `script` is shell; it finds an empty /dev (a tmpfs) with only null in it.
    """
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare(1) to put another /dev in place")

    def within(script: str) -> list[str]:
        setup = (
            f"mount -t tmpfs tmpfs /dev && mknod -m 666 /dev/null c 1 3 && {{ {script}; }} "
            f"|| exit {_SETUP_FAILED}\n"
            'exec "$@"'
        )
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", setup, "sh"]

    return within


@pytest.fixture(scope="session")
def devices() -> dict[str, str]:
    """Return shell that makes the real devices inside another /dev, by name."""
    made = {}
    for name in ("kvm", "userfaultfd"):
        path = Path("/dev", name)
        if path.exists():
            number = path.stat().st_rdev
            node = f"/dev/{name} c {os.major(number)} {os.minor(number)}"
            made[name] = f"mknod -m 600 {node}"
    return made


@pytest.fixture(scope="session")
def without_capabilities() -> list[str]:
    """Return a command that runs its arguments as root that may only what file modes allow."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv(1) to give capabilities up")
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]


@pytest.fixture(scope="session")
def as_user() -> Callable[..., list[str]]:
    """Return a command that runs its arguments as an ordinary user with some capabilities.

    CAP_DAC_READ_SEARCH is always among them: the interpreter may be where only root can read.
    """
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv(1) to become another user")

    # What is counted of a user (RLIMIT_NPROC) is then counted of this one alone.
    nobody_elses = 1_000_000 + os.getpid()

    def within(*capabilities: str) -> list[str]:
        kept = ",".join(f"+{name}" for name in ("dac_read_search", *capabilities))
        return [
            "setpriv", f"--reuid={nobody_elses}", f"--regid={nobody_elses}", "--clear-groups",
            f"--inh-caps={kept}", f"--ambient-caps={kept}",
        ]  # fmt: skip

    return within
