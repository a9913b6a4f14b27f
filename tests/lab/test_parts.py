"""What the lab is made of, as far as it can be tested without booting anything."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from . import cells, initramfs, kernels, results
from .kernels import Unavailable
from .machine import Job, LabError, Machine


def _bzimage(path: Path, release: bytes) -> Path:
    """Write the little of a bzImage that names its release."""
    head = bytearray(0x4000)
    head[0x202:0x206] = b"HdrS"
    head[0x20E:0x210] = (0x3000 - 0x200).to_bytes(2, "little")
    head[0x3000 : 0x3000 + len(release)] = release
    path.write_bytes(head)
    return path


def test_an_archive_unpacks_to_what_was_put_in(tmp_path: Path) -> None:
    if shutil.which("busybox") is None:
        pytest.skip("no busybox here to unpack with")
    first, second = initramfs.Archive(), initramfs.Archive()
    first.file("/a/b/odd", b"x" * 23)
    first.file("/a/run", b"#!", executable=True)
    first.file("/a/run", b"a second of the same name")
    second.folder("/empty")
    second.file("/a/b/later", b"y" * 997)
    for archive in (first, second):
        assert len(archive.bytes()) % 512 == 0
        subprocess.run(
            ["busybox", "cpio", "-idm"],
            input=archive.bytes(), cwd=tmp_path, check=True, timeout=30, capture_output=True,
        )  # fmt: skip
    assert (tmp_path / "a/b/odd").read_bytes() == b"x" * 23
    assert (tmp_path / "a/b/later").read_bytes() == b"y" * 997
    assert (tmp_path / "a/run").read_bytes() == b"#!"
    assert os.access(tmp_path / "a/run", os.X_OK)
    assert not os.access(tmp_path / "a/b/odd", os.X_OK)
    assert (tmp_path / "empty").is_dir()


def test_a_compiled_module_runs_without_its_source(tmp_path: Path) -> None:
    (tmp_path / "made.pyc").write_bytes(initramfs._compiled(b"answer = 41 + 1\n", "made.py"))
    done = subprocess.run(
        [sys.executable, "-c", "import made; print(made.answer)"],
        env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert done.stdout == "42\n"


def test_a_kernels_release_is_read_from_its_image(tmp_path: Path) -> None:
    image = _bzimage(tmp_path / "bzImage", b"6.19.0-rc1-mine (me@host) #1 SMP\0")
    assert kernels.release_of(image) == "6.19.0-rc1-mine"
    assert kernels.given_kernel(image, None).modules is None


def test_what_is_no_kernel_is_refused_with_what_to_give(tmp_path: Path) -> None:
    (tmp_path / "vmlinux").write_bytes(b"\x7fELF".ljust(0x1000))
    with pytest.raises(Unavailable, match=r"no bzImage: give arch/x86/boot/bzImage"):
        kernels.release_of(tmp_path / "vmlinux")


def test_modules_without_kvm_are_refused(tmp_path: Path) -> None:
    image = _bzimage(tmp_path / "bzImage", b"6.19.0\0")
    with pytest.raises(Unavailable, match=r"no kvm\.ko below .* make modules_install"):
        kernels.given_kernel(image, tmp_path)


def test_modules_are_loaded_after_what_they_depend_on(tmp_path: Path) -> None:
    folder = tmp_path / "lib/modules/6.19.0/kernel"
    folder.mkdir(parents=True)
    for name, needs in (
        ("kvm-amd", "kvm,ccp"),
        ("kvm", "irqbypass"),
        ("irqbypass", ""),
        ("ccp", ""),
    ):
        (folder / f"{name}.ko").write_bytes(b"\x7fELF\0license=GPL\0depends=%b\0" % needs.encode())
    kernel = kernels.given_kernel(_bzimage(tmp_path / "bzImage", b"6.19.0\0"), tmp_path)
    order = list(kernel.with_dependencies(["kvm_amd"]))
    assert sorted(order) == ["ccp", "irqbypass", "kvm", "kvm_amd"]
    assert order.index("irqbypass") < order.index("kvm") < order.index("kvm_amd")
    assert order[-1] == "kvm_amd"


@pytest.mark.parametrize("suffix", [".ko", ".ko.gz", ".ko.xz", ".ko.zst"])
def test_modules_are_read_however_they_are_compressed(tmp_path: Path, suffix: str) -> None:
    content = b"\x7fELF\0vermagic=6.19.0 SMP preempt\0depends=\0" + bytes(997)
    folder = tmp_path / "kernel"
    folder.mkdir()
    plain = folder / "kvm.ko"
    plain.write_bytes(content)
    tool = {".ko.gz": "gzip", ".ko.xz": "xz", ".ko.zst": "zstd"}.get(suffix)
    if tool:
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} here")
        command = [tool, *(("--rm",) if tool == "zstd" else ()), "-q", str(plain)]
        subprocess.run(command, check=True, timeout=30)
    assert [path.name for path in folder.iterdir()] == [f"kvm{suffix}"]
    kernel = kernels.given_kernel(_bzimage(tmp_path / "bzImage", b"6.19.0\0"), tmp_path)
    assert kernel.module("kvm") == content


def test_modules_of_another_build_are_refused(tmp_path: Path) -> None:
    (tmp_path / "kvm.ko").write_bytes(b"\x7fELF\0vermagic=6.19.0-rc1 SMP\0depends=\0")
    image = _bzimage(tmp_path / "bzImage", b"6.19.0-rc2\0")
    with pytest.raises(Unavailable, match=r"kvm\.ko below .* is of 6\.19\.0-rc1, .* 6\.19\.0-rc2"):
        kernels.given_kernel(image, tmp_path)


def test_the_newest_package_is_taken_by_number_not_by_letter(monkeypatch: Any) -> None:
    answers = {
        "pkgnames": "linux-image-6.12.9+deb13-cloud-amd64\nlinux-image-6.12.100+deb13-cloud-amd64\n"
        "linux-image-6.12.200+deb13-cloud-amd64-dbg\nlinux-image-6.12-cloud-amd64\n"
        "linux-image-6.1.0-99-cloud-amd64\n",
        "madison": "linux-image-6.12.9+deb13-cloud-amd64 | 6.12.9-1 | http://x Packages\n"
        "linux-image-6.12.100+deb13-cloud-amd64 | 6.12.100-1 | http://x Packages\n",
    }
    monkeypatch.setattr(kernels, "_apt", lambda *command, **_: answers[command[1]])
    found = kernels._newest_package("6.12")
    assert found == ("linux-image-6.12.100+deb13-cloud-amd64", "6.12.100-1")


def test_a_series_that_apt_does_not_offer_is_named(monkeypatch: Any) -> None:
    monkeypatch.setattr(kernels, "_apt", lambda *_, **__: "")
    with pytest.raises(Unavailable, match=r"no linux-image-6\.12.*apt-get update"):
        kernels._newest_package("6.12")


def _fake_qemu(folder: Path, script: str) -> None:
    path = folder / "qemu-system-x86_64"
    path.write_text(f"#!{sys.executable}\n{script}")
    path.chmod(0o755)


@pytest.fixture
def fake_machine(tmp_path: Path, monkeypatch: Any) -> Machine:
    """A machine whose QEMU is whatever a test puts into its folder."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    base = tmp_path / "base.cpio"
    base.write_bytes(b"")
    monkeypatch.setattr(initramfs, "base_archive", lambda: base)
    return Machine(kernels.given_kernel(_bzimage(tmp_path / "bzImage", b"6.19.0\0"), None))


_JOB = Job("cell 1-uffd", ("true",), 0.2)

_WRITE = """
import sys, time, os
paths = [text.removeprefix("file:") for text in sys.argv if text.startswith("file:")]
def write(which, text):
    with open(paths[which], "a") as file: file.write(text)
open(os.path.dirname(__file__) + "/pid", "w").write(str(os.getpid()))
"""


def _gone(tmp_path: Path) -> bool:
    pid = int((tmp_path / "pid").read_text())
    return not Path(f"/proc/{pid}").exists()


def test_a_hang_is_ended_and_shows_the_job_and_the_console(
    fake_machine: Machine, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(sys.modules[Machine.__module__], "_GRACE_S", 0.5)
    script = (
        'write(1, \'{"booted": {}, "absent_probes": {}}\\n{"started": "cell 1-uffd"}\\n\')\n'
        'write(0, "watchdog: BUG: soft lockup\\n")\ntime.sleep(600)\n'
    )
    _fake_qemu(tmp_path, _WRITE + script)
    with pytest.raises(LabError, match=r"(?s)hangs: .*job cell 1-uffd.*soft lockup"):
        fake_machine.run([_JOB])
    assert _gone(tmp_path)


def test_a_machine_that_dies_early_is_told_from_one_that_ends(
    fake_machine: Machine, tmp_path: Path
) -> None:
    _fake_qemu(tmp_path, _WRITE + 'write(0, "Kernel panic - not syncing\\n")\n')
    with pytest.raises(LabError, match=r"(?s)ended before userland.*Kernel panic"):
        fake_machine.run([_JOB])


def test_a_report_may_be_a_reason_to_go_no_further(fake_machine: Machine, tmp_path: Path) -> None:
    script = (
        'write(1, \'{"booted": {}, "absent_probes": {}}\\n{"job": "cell 1-uffd"}\\n\')\n'
        'write(0, "lab: insmod kvm failed\\n")\ntime.sleep(600)\n'
    )
    _fake_qemu(tmp_path, _WRITE + script)
    with pytest.raises(LabError, match=r"(?s)cell 1-uffd says no.*insmod kvm failed"):
        fake_machine.run([_JOB], lambda job, _: f"{job} says no")
    assert _gone(tmp_path)


def test_pagers_that_run_are_those_whose_trial_did() -> None:
    checks = [
        {"name": "/dev/kvm", "status": "yes"},
        {"name": "trial of none", "status": "yes"},
        {"name": "trial of uffd", "status": "no"},
    ]
    assert cells.pagers_that_run({"stdout": json.dumps(checks)}) == ["trial of none"]
    assert cells.pagers_that_run({"stdout": json.dumps(checks[:1])}) == []
    assert cells.pagers_that_run({"stdout": "Traceback"}) == []


def test_a_stopped_lab_leaves_no_machine_behind(fake_machine: Machine, tmp_path: Path) -> None:
    _fake_qemu(tmp_path, _WRITE + "time.sleep(600)\n")
    stop = threading.Event()

    def stop_once_it_runs() -> None:
        deadline = time.monotonic() + 20
        while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        stop.set()

    thread = threading.Thread(target=stop_once_it_runs)
    thread.start()
    with pytest.raises(LabError, match="stopped"):
        fake_machine.run([_JOB], stop=stop)
    thread.join()
    assert _gone(tmp_path)


def _cell(pager: str = "exit", **changes: Any) -> dict[str, Any]:
    cell: dict[str, Any] = {
        "vcpus": 4,
        "pager": pager,
        "status": "ok",
        "pages": 1996,
        "exits": {"annotated": 0, "registers": 1996, "mmio": 0},
        "calls": {
            "handle_userfault": 6057,  # 23 pages more: of the rehearsal
            "get_user_pages_unlocked": 4038,
            "kvm_mmu_page_fault": 4046,
        },
    }
    cell |= changes
    return cell | {"calls_per_page": {k: v / 2019 for k, v in cell["calls"].items()}}


def test_a_cell_that_does_what_its_kernel_does_is_no_surprise() -> None:
    assert cells.surprises("tdp", _cell()) == []


def test_another_form_of_exit_or_another_walk_is_a_surprise() -> None:
    annotated = _cell(exits={"annotated": 1996, "registers": 0, "mmio": 0})
    assert "annotated" in cells.surprises("tdp", annotated)[0]
    fewer = _cell(calls={"handle_userfault": 3992, "get_user_pages_unlocked": 4038})
    assert cells.surprises("tdp", fewer) == [
        "3992 calls of handle_userfault, not 6057 to 6164 (3 a page)"
    ]


def test_prefetching_is_expected_of_the_shadow_mmu_alone() -> None:
    prefetched = _cell(
        "none,host=populated",
        exits={"annotated": 0, "registers": 0, "mmio": 0},
        calls={"handle_userfault": 0, "get_user_pages_unlocked": 0, "kvm_mmu_page_fault": 255},
    )
    assert cells.surprises("npt", prefetched) == cells.surprises("shadow", prefetched) == []
    assert cells.surprises("tdp", prefetched) != []


def test_the_table_shows_failures_and_what_is_missing(tmp_path: Path) -> None:
    boot = {
        "kernel": "Debian 6.12.117-1",
        "mmu": "tdp",
        "cells": [_cell(), _cell(status="failed")],
        "stops": [{"kind": "watchdog", "error": "the vCPUs do not leave"}],
        "host_tests": {"summary": "1 failed, 79 passed, 23 deselected in 17.38s"},
    }
    lab = {"schema": "kvmpc-lab", "date": "2026-11-23", "qemu": "7.2.22", "kvmpc": "0.1.0"}
    (tmp_path / "lab.json").write_text(json.dumps({**lab, "boots": [boot]}))
    text = results.markdown(results.load(tmp_path / "lab.json"))
    row = next(line for line in text.splitlines() if "6.12.117" in line)
    assert "| 1 of 2 |" in row
    assert "| bare EFAULT | 3 / 2 / 2 | ? / ? / ? |" in row
    assert "| FAILED | 1 failed, 79 passed |" in row
    assert "In part only." in text
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ValueError, match="no result of the lab"):
        results.load(tmp_path / "other.json")
