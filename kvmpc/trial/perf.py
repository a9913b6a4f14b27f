"""One run of perf(1) on this process, for the time between two calls; and what it sampled.

`Recorder` owns the perf processes, their pipes and what they write: all in files without a name,
except for ``/tmp/perf-PID.map``, which is there only while perf reads it. perf starts before guest
memory exists, so that nothing is forked after that; it is switched on and off through its control
pipe. Whatever perf does (fails, hangs, is not allowed to, writes nonsense), a trial goes on: then
there is no profile, and `problem` says why.

Source: perf-record(1), --control, and perf-script(1); tools/perf/Documentation/jit-interface.txt.
"""

from __future__ import annotations

import errno
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, Self

from kvmpc.caution import Caution
from kvmpc.host.confinement import CAP_PERFMON, Confinement, either
from kvmpc.loops.program import NativeProgram
from kvmpc.trial.samples import Sample, Window, parse
from kvmpc.trial.signals import NEVER, Interrupt

__all__ = ["Recorder", "named_loops", "not_allowed"]

_EVENTS = ("cycles", "cpu-clock")
"""perf itself samples cpu-clock where there are no cycles; the second is for one that does not."""

_CLOCK = ("-T", "-k", "CLOCK_MONOTONIC")
"""Every sample is stamped, by the clock of the loops' own stamps; one that NMIs may read, too."""

_RECORD = ("record", "-o", "-", "-B", "-N", "-g", "-D", "-1", *_CLOCK)
"""To a pipe, no build ids, none kept, call chains, switched off at first."""

_READ = ("script", "-i", "-", "--no-inline", "--ns", "-F", "tid,time,period,event,ip,sym")

_MOST_HZ, _LEAST_HZ, _TOTAL_HZ = 1999, 97, 32_000
_START_S, _SWITCH_S, _STOP_S, _READ_S = 10.0, 2.0, 10.0, 120.0
_POLL_S = 0.05
_PUT_DOWN_S = 1.0

_ENDED_WELL = (0, -signal.SIGINT, 128 + signal.SIGINT)
"""perf record, told to stop by SIGINT, ends by that signal, or as if it were all it had to do."""

_SEE = "see whether `perf record` works on this host"
_FORBIDDEN = r"perf_event_paranoid|permission|not permitted|access to performance"
_REMEDIES = (
    (r"sample_rate|maximum frequency", "sysctl kernel.perf_event_max_sample_rate=100000"),
    (
        r"not found for kernel|linux-tools",
        "install the perf of this kernel (linux-perf, linux-tools)",
    ),
)


class Recorder:
    """perf, attached to this process: `begin` and `end` bound what it samples, once or often.

    windows: what of it counts, as `end` was told; problem: why there are no samples, once that is
    so.
    """

    def __init__(self, interrupt: Interrupt = NEVER) -> None:
        self._interrupt = interrupt
        self._undo = ExitStack()
        self._perf: subprocess.Popen[bytes] | None = None
        self._silent = False
        self._program: NativeProgram | None = None
        self.windows: list[Window] = []
        self.frequency_hz = max(_LEAST_HZ, min(_MOST_HZ, _TOTAL_HZ // (os.cpu_count() or 1)))
        self.problem: Caution | None = None

    def __enter__(self) -> Self:
        """Start perf, switched off. Raises: Interrupted."""
        self._path = shutil.which("perf")
        if self._path is None:
            self._fail("there is no perf in PATH", "install perf (linux-perf, linux-tools)")
            return self
        try:
            for event in _EVENTS:
                self.problem = None
                if self._start(self._path, event) or self._silent:
                    break
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End perf, if it is still there, and give everything back."""
        if self._perf is not None:
            perf, self._perf = self._perf, None
            _put_down(perf)
        self._undo.close()

    def _fail(self, text: str, remedy: str) -> None:
        if self.problem is None:
            self.problem = Caution("profile-absent", f"not profiled: {text}", remedy)

    def _start(self, path: str, event: str) -> bool:
        self._undo.close()
        where = ["-e", event, "-F", str(self.frequency_hz), "-p", str(os.getpid())]
        try:
            with ExitStack() as theirs:  # once it has its ends, only it has: so its end is seen
                self._data = self._nameless_file()
                self._errors = self._nameless_file()
                control, self._control = os.pipe()
                theirs.callback(os.close, control)
                self._undo.callback(os.close, self._control)
                self._acknowledged, acknowledge = os.pipe()
                theirs.callback(os.close, acknowledge)
                self._undo.callback(os.close, self._acknowledged)
                self._perf = subprocess.Popen(
                    [path, *_RECORD, *where, "--control", f"fd:{control},{acknowledge}"],
                    stdin=subprocess.DEVNULL,
                    stdout=self._data,
                    stderr=self._errors,
                    pass_fds=(control, acknowledge),
                    env=_environment(),
                    process_group=0,
                )
        except OSError as error:
            self._fail(f"perf cannot be started: {error.strerror}", _SEE)
            return False
        return self._switch("disable", _START_S)

    def _nameless_file(self) -> IO[bytes]:
        return self._undo.enter_context(tempfile.TemporaryFile())

    def _switch(self, command: str, within_s: float) -> bool:
        """Send a control command and wait until perf has done it."""
        perf = self._perf
        if perf is None:
            return False
        deadline, ends_s = time.monotonic() + within_s, 0.0
        try:
            os.write(self._control, f"{command}\n".encode())
            while time.monotonic() < deadline:
                self._interrupt.check()
                if select.select([self._acknowledged], [], [], _POLL_S)[0]:
                    if os.read(self._acknowledged, 64).startswith(b"ack"):
                        return True
                    ends_s = _STOP_S
                    break
        except BrokenPipeError:
            ends_s = _STOP_S
        self._lost(perf, ends_s)
        return False

    def _lost(self, perf: subprocess.Popen[bytes], ends_s: float) -> None:
        """Say why `perf` is of no more use, and end it.

        ends_s: how long its end may take: it has closed its pipes, and its own words will say why.
        """
        with suppress(subprocess.TimeoutExpired):
            perf.wait(ends_s)
        self._silent = perf.poll() is None
        if self._silent:
            self._fail("perf does not answer", _SEE)
        else:
            self._fail(*self._words(f"perf record ended with {perf.returncode}"))
        self._perf = None
        _put_down(perf)

    def _words(self, otherwise: str) -> tuple[str, str]:
        """Return what perf complained of, and a remedy."""
        self._errors.seek(0)
        text = self._errors.read(8192).decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip(" -=")]
        said = next((line for line in lines if not re.match(r"(error|warning):?$", line, re.I)), "")
        remedy = next(
            (remedy for words, remedy in _REMEDIES if re.search(words, text, re.I)),
            not_allowed() if re.search(_FORBIDDEN, text, re.I) else _SEE,
        )
        return (f"{otherwise}: {said[:200]}" if said else otherwise), remedy

    def begin(self, program: NativeProgram) -> None:
        """Sample from now on; `program` is what the threads run. Raises: Interrupted."""
        self._program = program
        self._switch("enable", _SWITCH_S)

    def end(self, windows: Iterable[Window]) -> None:
        """Sample no longer; of what was sampled, only what lies in `windows` will count.

        perf hears of both ends later than they are. Raises: Interrupted.
        """
        self.windows += windows
        self._switch("disable", _SWITCH_S)

    @contextmanager
    def samples(self) -> Iterator[Iterator[Sample]]:
        """Stop perf and let it spell out what it sampled; nothing where it has no profile.

        This forks: guest memory has to be gone. Raises: Interrupted.
        """
        perf, self._perf = self._perf, None
        if perf is None or self._program is None:
            yield iter(())
            return
        perf.send_signal(signal.SIGINT)  # as Ctrl-C: it writes what it has
        if not self._ended(perf, _STOP_S):
            self._fail("perf does not stop", _SEE)
            yield iter(())
            return
        if perf.returncode not in _ENDED_WELL:
            self._fail(*self._words(f"perf record ended with {perf.returncode}"))
            yield iter(())
            return
        with ExitStack() as stack:
            text: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())
            stack.enter_context(named_loops(self._program))
            self._data.seek(0)
            self._errors.seek(0)
            self._errors.truncate()
            try:
                script = subprocess.Popen(
                    [str(self._path), *_READ],
                    stdin=self._data,
                    stdout=text,
                    stderr=self._errors,
                    env=_environment(),
                    # What is sent to all of ours must not kill it: see _put_down.
                    process_group=0,
                )
            except OSError as error:
                self._fail(f"perf cannot be started: {error.strerror}", _SEE)
                yield iter(())
                return
            if not self._ended(script, _READ_S):
                self._fail("perf script does not end", "use less --mem-per-vcpu")
            elif script.returncode:
                self._fail(*self._words(f"perf script ended with {script.returncode}"))
            if self.problem is not None:  # a part of them would pass for all
                yield iter(())
                return
            text.seek(0)
            yield parse(line.decode(errors="replace") for line in text)

    def _ended(self, process: subprocess.Popen[bytes], within_s: float) -> bool:
        """Wait for the end of `process`, or end it. Raises: Interrupted."""
        deadline = time.monotonic() + within_s
        try:
            while time.monotonic() < deadline and self._interrupt.signal_name is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_S)
                    return True
            self._interrupt.check()
            return False
        finally:
            _put_down(process)


def not_allowed() -> str:
    """Return what would let perf sample this process and the kernel, here."""
    own = Confinement.read()
    remedies = own.remedies("perf_event_open", errno.EPERM, capability=CAP_PERFMON)
    return either([*remedies, "sysctl kernel.perf_event_paranoid=1"])


def _put_down(process: subprocess.Popen[bytes]) -> None:
    """End a perf, politely at first: killed, it leaves its copy of the vDSO in /tmp."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_PUT_DOWN_S)
    process.kill()
    process.wait()


def _environment() -> dict[str, str]:
    # No debug files from the network; numbers and words as in the C locale.
    return {**os.environ, "LC_ALL": "C", "DEBUGINFOD_URLS": "", "PAGER": "cat"}


@contextmanager
def named_loops(program: NativeProgram) -> Iterator[None]:
    """Tell perf the names of the native loops, for the block; without, where that cannot be.

    In a folder that all may write to, so: a file that is there already is not written to, nor
    followed. perf reads it only if it belongs to who runs perf, or to root.
    """
    path = f"/tmp/perf-{os.getpid()}.map"
    starts = sorted((offset, name) for name, offset in program.program.labels.items())
    ends = [offset for offset, _ in starts[1:]] + [len(program.program.code)]
    lines = [
        f"{program.address(name):x} {end - offset:x} {name}\n"
        for (offset, name), end in zip(starts, ends, strict=True)
        if end > offset
    ]
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)
    except OSError:
        yield
        return
    try:
        with os.fdopen(fd, "w") as file:
            file.writelines(lines)
        yield
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)
