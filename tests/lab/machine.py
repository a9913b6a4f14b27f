"""A machine: QEMU in software emulation with AMD SVM, booted for a list of jobs.

`Machine.run` boots, hands each report on as it comes, and leaves no QEMU behind, however it ends.
Nothing in here waits without a bound; `LabError` carries the console's tail.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import initramfs
from .kernels import Kernel, qemu_path

__all__ = ["Boot", "Job", "LabError", "Machine", "qemu_version"]

MEMORY_MIB = 3072
_BOOT_S = 180.0
_GRACE_S = 90.0
"""Beyond a job's own limit, for the machine to notice, kill and report."""

_TAIL_LINES = 40
_POLL_S = 0.1

PROBES = ("handle_userfault", "get_user_pages_unlocked", "kvm_mmu_page_fault")
"""Kernel functions whose calls are counted for each job."""

_COMPLAINTS = (
    "BUG:", "WARNING:", "Oops", "general protection fault", "Kernel panic", "rcu_sched self-detec",
    "rcu_preempt detected", "blocked for more than", "soft lockup", "hard LOCKUP",
)  # fmt: skip


OnReport = Callable[[str, dict[str, Any]], str | None]


class LabError(Exception):
    """The machine did not boot, hung or broke; the text ends with the console's tail."""


@dataclass(frozen=True)
class Job:
    """A command to run inside.

    files: paths to bring back as text.
    """

    name: str
    argv: tuple[str, ...]
    timeout_s: float
    files: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = "/tmp"


@dataclass
class Boot:
    """What one boot brought back.

    facts: release, parameters and CPUs as seen inside; absent_probes: reason by function;
    reports: by job name; console: all of it; complaints: lines in which the kernel reports trouble.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    absent_probes: dict[str, str] = field(default_factory=dict)
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)
    console: str = ""
    boot_s: float = 0.0
    total_s: float = 0.0

    @property
    def complaints(self) -> list[str]:
        """Lines in which the kernel reports a defect."""
        return [
            line for line in self.console.splitlines() if any(word in line for word in _COMPLAINTS)
        ]


def qemu_version() -> str:
    """Return QEMU's version. Raises: Unavailable."""
    done = subprocess.run(
        [qemu_path(), "--version"], capture_output=True, text=True, timeout=30, check=True
    )
    return done.stdout.split("\n")[0].removeprefix("QEMU emulator version ")


@dataclass(frozen=True)
class Machine:
    """A machine to boot.

    parameters: module parameters by module, such as ``{"kvm": "tdp_mmu=0"}``.

    One translation thread. With thread=multi QEMU 7.2 (cpu_clear_ignne) may lose CPU 0's
    nested-paging bit, which keeping nested guests off CPU 0 avoids; but it also runs a stale int3
    after the kernel has patched its text. KVM's first VM switches the static key in __schedule()
    and its last one back, so that a loop that makes and closes VMs ended in "Oops: int3" in
    __schedule within a minute, 3 times of 3 (0 of 3 while another VM stayed open). Two machines
    side by side use two CPUs as well.
    """

    kernel: Kernel
    parameters: Mapping[str, str] = field(default_factory=dict)

    def run(
        self,
        jobs: list[Job],
        on_report: OnReport = lambda *_: None,
        stop: threading.Event | None = None,
    ) -> Boot:
        """Boot, run `jobs` in order, power off.

        on_report: called with a job's name and report as each ends; returns the reason to go no
        further, if there is one. stop: ends it when set. Raises: LabError, Unavailable.
        """
        with tempfile.TemporaryDirectory(prefix="kvmpc-lab-") as name:
            folder = Path(name)
            initrd = folder / "initrd"
            with initrd.open("wb") as file:
                file.write(initramfs.base_archive().read_bytes())
                file.write(self._overlay(jobs))
            console, reports = folder / "console", folder / "reports"
            console.touch()
            reports.touch()
            with (folder / "stderr").open("wb") as stderr:
                process = subprocess.Popen(
                    self._command(initrd, console, reports),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    start_new_session=True,
                )
            try:
                watch = _Watch(process, console, reports, folder / "stderr")
                return watch.follow(jobs, on_report, stop or threading.Event())
            finally:
                _end(process)

    def _command(self, initrd: Path, console: Path, reports: Path) -> list[str]:
        # Where KVM is no module, its parameters come with the kernel's; else nobody looks at these.
        built_in = " ".join(f"{module}.{text}" for module, text in self.parameters.items())
        return [
            # Even a killed test runner takes its machine with it.
            *(("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()),
            *("nice", "-n", "5", qemu_path()),
            *("-machine", "q35", "-accel", "tcg,thread=single"),
            *("-cpu", "EPYC,+svm,+npt", "-smp", "2", "-m", f"{MEMORY_MIB}M"),
            *("-display", "none", "-monitor", "none", "-nodefaults", "-no-reboot"),
            *("-serial", f"file:{console}", "-serial", f"file:{reports}"),
            *("-kernel", str(self.kernel.image), "-initrd", str(initrd)),
            *("-append", f"console=ttyS0 quiet panic=1 oops=panic mitigations=off {built_in}"),
        ]

    def _overlay(self, jobs: list[Job]) -> bytes:
        archive = initramfs.Archive()
        modules = self.kernel.with_dependencies(["irqbypass", "kvm", "kvm_amd"])
        lines = [f"{name} {self.parameters.get(name, '')}".strip() for name in modules]
        archive.file("/lab/modules/order", "".join(f"{line}\n" for line in lines).encode())
        for module, content in modules.items():
            archive.file(f"/lab/modules/{module}.ko", content)
        initramfs.add_checkout(archive)
        plan = {
            "probes": PROBES,
            "jobs": [asdict(job) for job in jobs],
        }
        archive.file("/lab/jobs.json", json.dumps(plan).encode())
        return archive.bytes()


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        # Its own session, so its own group: nothing that it started stays either.
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)


class _Watch:
    """Follows one QEMU by what it writes."""

    def __init__(
        self, process: subprocess.Popen[bytes], console: Path, reports: Path, stderr: Path
    ) -> None:
        self.process, self.console, self.reports, self.stderr = process, console, reports, stderr
        self.boot = Boot()
        self._read = 0

    def _error(self, what: str) -> LabError:
        text = self.console.read_text("utf-8", "replace")
        tail = "\n".join(text.splitlines()[-_TAIL_LINES:])
        # TCG's list of what it does not emulate says nothing here.
        lines = self.stderr.read_text("utf-8", "replace").splitlines()
        said = "\n".join(line for line in lines if "TCG doesn't support" not in line)
        return LabError(f"{what}\n{said}\n--- the console's last lines:\n{tail}")

    def _messages(self) -> list[dict[str, Any]]:
        with self.reports.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        end = data.rfind(b"\n") + 1
        self._read += end
        return [json.loads(line) for line in data[:end].splitlines()]

    def follow(
        self,
        jobs: list[Job],
        on_report: OnReport,
        stop: threading.Event,
    ) -> Boot:
        """Return what came back once the machine has powered off. Raises: LabError."""
        limits = {job.name: job.timeout_s for job in jobs}
        begin = time.monotonic()
        deadline, waiting_for = begin + _BOOT_S, "userland"
        finished = False
        while True:
            ended = self.process.poll() is not None
            for message in self._messages():
                if "booted" in message:
                    self.boot.boot_s = round(time.monotonic() - begin, 1)
                    self.boot.facts = message["booted"]
                    self.boot.absent_probes = message["absent_probes"]
                    # Loaded long ago, and large: nothing may be left of it if this is killed.
                    self.console.with_name("initrd").unlink()
                    deadline = time.monotonic() + _GRACE_S
                elif "started" in message:
                    waiting_for = f"the end of job {message['started']}"
                    deadline = time.monotonic() + limits[message["started"]] + _GRACE_S
                elif "job" in message:
                    self.boot.reports[message["job"]] = message
                    deadline = time.monotonic() + _GRACE_S
                    reason = on_report(message["job"], message)
                    if reason:
                        raise self._error(reason)
                else:
                    finished, waiting_for = True, "the machine to power off"
                    deadline = time.monotonic() + _GRACE_S
            if ended and not finished:
                raise self._error(f"the machine ended before {waiting_for}")
            if ended:
                self.boot.console = self.console.read_text("utf-8", "replace")
                self.boot.total_s = round(time.monotonic() - begin, 1)
                return self.boot
            if time.monotonic() > deadline:
                raise self._error(f"the machine hangs: waited in vain for {waiting_for}")
            if stop.wait(_POLL_S):
                raise LabError("stopped")
