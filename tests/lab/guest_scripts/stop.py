"""Stop kvmpc in one way and say how long its vCPUs took to leave: ``stop.py KIND``, JSON out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PYTHON = "/py/bin/python3"
KVMPC = [PYTHON, "-X", "faulthandler", "-m", "kvmpc"]
SILENT = [PYTHON, "-X", "faulthandler", "/lab/scripts/silent_reader.py"]
LONG = ["--vcpus", "4", "--mem-per-vcpu", "92K", "--warmup", "0"]
RUNNING = ["--vcpus", "4", "--mem-per-vcpu", "64M", "--warmup", "0", "--fetch-delay", "1ms"]

COMMANDS = {
    "silent-reader": [*SILENT, "run", "uffd", *LONG, "--watchdog", "600"],
    "watchdog": [*SILENT, "run", "uffd", *LONG, "--watchdog", "2"],
    "running-uffd": [*KVMPC, "run", "uffd", *RUNNING],
    "running-exit": [*KVMPC, "run", "exit", *RUNNING],
}
SETTLED_S = 2.0

SHOWN = ("Sta", "Sig", "Shd", "vol", "non")
"""Of /proc/PID/task/TID/status: what a thread that hangs is asked for."""


def vcpu_threads(pid: int) -> list[Path]:
    """Return the threads in KVM_RUN: Python's names of threads reach the kernel from 3.14 on."""
    tasks = Path(f"/proc/{pid}/task").glob("*")
    return [task for task in tasks if "kvm_arch_vcpu_ioctl_run" in read(task / "stack")]


def read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return "gone"


def main() -> int:
    kind = sys.argv[1]
    process = subprocess.Popen(
        COMMANDS[kind], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    found: dict[str, object] = {}
    try:
        deadline = time.monotonic() + 60
        while len(threads := vcpu_threads(process.pid)) < (1 if "running" in kind else 4):
            if time.monotonic() > deadline or process.poll() is not None:
                raise TimeoutError(f"the vCPUs never ran: {process.poll()}")
            time.sleep(0.1)
        time.sleep(SETTLED_S if kind != "watchdog" else 0)
        found["asleep_in"] = sorted({read(task / "wchan") for task in threads})
        begin = time.monotonic()
        if kind == "watchdog":
            # It is the watchdog that stops them; what counts is from its limit on.
            begin += 2
        else:
            os.kill(process.pid, signal.SIGINT)
        while any(task.exists() for task in threads):
            if time.monotonic() > begin + 30:
                raise TimeoutError("the vCPUs do not leave")
            time.sleep(0.01)
        found["gone_s"] = round(time.monotonic() - begin, 2)
        _, stderr = process.communicate(timeout=30)
        found["ended_s"] = round(time.monotonic() - begin, 2)
        found["exit_code"] = process.returncode
        found["stderr"] = stderr[-2000:]
    except (TimeoutError, subprocess.TimeoutExpired) as error:
        found["error"] = str(error)
        tasks = sorted(Path(f"/proc/{process.pid}/task").glob("*"))
        found["kernel_stacks"] = [
            [
                *(line for line in read(task / "status").splitlines() if line[:3] in SHOWN),
                *read(task / "stack").splitlines()[:6],
            ]
            for task in tasks
        ]
        # faulthandler shows where each thread is in Python.
        process.send_signal(signal.SIGABRT)
        found["stderr"] = process.communicate()[1][-6000:]
    print(json.dumps(found))
    return "error" in found


if __name__ == "__main__":
    sys.exit(main())
