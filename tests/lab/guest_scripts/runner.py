"""Run the lab's jobs inside the machine and report each on the second serial port.

A report is one line of JSON. Jobs are bounded in time: one that does not end is killed with all it
started. Probes on the kernel's functions count how often each is called during a job.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import termios
import time
import tty
from pathlib import Path

TRACING = Path("/sys/kernel/tracing")


def read(path: str | Path) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


class Port:
    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self.fd)

    def send(self, **message: object) -> None:
        data = (json.dumps(message) + "\n").encode()
        while data:
            data = data[os.write(self.fd, data) :]

    def drain(self) -> None:
        termios.tcdrain(self.fd)


def start_probes(functions: list[str]) -> dict[str, str]:
    """Count calls of `functions`; return the reason for each that cannot be counted."""
    if not (TRACING / "kprobe_events").exists():
        return dict.fromkeys(functions, "this kernel has no CONFIG_KPROBE_EVENTS")
    absent = {}
    (TRACING / "tracing_on").write_text("0")
    for function in functions:
        try:
            # Not open("a"): that seeks to the end, which this file refuses.
            fd = os.open(TRACING / "kprobe_events", os.O_WRONLY | os.O_APPEND)
            try:
                os.write(fd, f"p:lab/{function} {function}\n".encode())
            finally:
                os.close(fd)
            (TRACING / f"events/lab/{function}/enable").write_text("1")
        except OSError as error:
            absent[function] = f"no probe on {function}: {error.strerror}"
    return absent


def hits() -> dict[str, int]:
    found = {}
    for line in read(TRACING / "kprobe_profile").splitlines():
        name, count, *_ = line.split()
        found[name] = int(count)
    return found


def facts() -> dict[str, object]:
    modules = {}
    for module, names in (("kvm", ("tdp_mmu",)), ("kvm_amd", ("npt",)), ("kvm_intel", ("ept",))):
        for name in names:
            value = read(f"/sys/module/{module}/parameters/{name}")
            if value:
                modules[f"{module}.{name}"] = value
    return {
        "release": platform.release(),
        "version": platform.version(),
        "cpus": os.cpu_count(),
        "parameters": modules,
        "uptime_s": float(read("/proc/uptime").split()[0]),
    }


def run(job: dict) -> dict[str, object]:
    Path("/out").mkdir(exist_ok=True)
    before, begin = hits(), time.monotonic()
    with open("/tmp/stdout", "wb") as out, open("/tmp/stderr", "wb") as err:
        process = subprocess.Popen(
            job["argv"],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=job.get("cwd", "/tmp"),
            # A cell is one trial a pager, and QEMU has the CPUs that others leave it.
            env={**os.environ, "KVMPC_BUSY_LIMIT": "off", **job.get("env", {})},
            start_new_session=True,
        )
        timed_out = False
        try:
            process.wait(job["timeout_s"])
        except subprocess.TimeoutExpired:
            timed_out = True
            # Where it hangs is worth more than that it does.
            print(f"lab: {job['name']} hangs", *stacks(process.pid), sep="\n", flush=True)
            os.killpg(process.pid, signal.SIGKILL)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                print(f"lab: {job['name']} cannot be killed", flush=True)
    seconds, after = time.monotonic() - begin, hits()
    return {
        "job": job["name"],
        "exit_code": process.returncode,
        "timed_out": timed_out,
        "seconds": round(seconds, 2),
        "stdout": Path("/tmp/stdout").read_bytes().decode("utf-8", "replace"),
        "stderr": Path("/tmp/stderr").read_bytes().decode("utf-8", "replace")[-20000:],
        "files": {name: read(name) for name in job.get("files", ())},
        "calls": {name: after[name] - before.get(name, 0) for name in after},
    }


def stacks(pid: int) -> list[str]:
    found = []
    for task in sorted(Path(f"/proc/{pid}/task").glob("*"))[:12]:
        found.append(f"-- {task.name} {read(task / 'comm')} {read(task / 'wchan')}")
        found += read(task / "stack").splitlines()[:12]
    return found


def main() -> int:
    plan = json.loads(Path("/lab/jobs.json").read_text())
    port = Port("/dev/ttyS1")
    absent = start_probes(plan["probes"])
    port.send(booted=facts(), absent_probes=absent)
    for job in plan["jobs"]:
        port.send(started=job["name"])
        port.send(**run(job))
    port.send(finished=True)
    port.drain()
    return 0


if __name__ == "__main__":
    sys.exit(main())
