"""What keeps this process from a call, read from /proc, and the remedies that are true there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from kvmpc.errors import KernelError
from kvmpc.host.confinement import CAP_SYS_PTRACE, Confinement
from kvmpc.kernel import kvm

PTRACE = 1 << CAP_SYS_PTRACE[0]
STATUS = "Uid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t5\t5\t5\t5\nGroups:\t7\nCapEff:\t{caps:016x}\n"


def host(
    root: Path, *, uid: int = 0, caps: int = 0, seccomp: int = 0, uid_map: str = "0 0 4294967295"
) -> Path:
    """Plant what /proc says of a process."""
    (root / "proc/self").mkdir(parents=True)
    status = STATUS.format(uid=uid, caps=caps) + f"Seccomp:\t{seccomp}\n"
    (root / "proc/self/status").write_text(status)
    (root / "proc/self/uid_map").write_text(f"{uid_map}\n")
    return root


def told(root: Path, number: int = errno.EPERM) -> str:
    """Return what is said where userfaultfd(2) failed with `number`."""
    own = Confinement.read(root)
    return "; or ".join(own.remedies("userfaultfd", number, capability=CAP_SYS_PTRACE))


def test_an_ordinary_user_is_told_to_run_as_root(tmp_path: Path) -> None:
    assert told(host(tmp_path, uid=1000)) == "run as root or with CAP_SYS_PTRACE"


def test_root_without_the_capability_is_not_told_to_run_as_root(tmp_path: Path) -> None:
    said = told(host(tmp_path))
    assert said.startswith("give this root CAP_SYS_PTRACE (docker: --cap-add SYS_PTRACE")
    assert "run as root" not in said


def test_root_of_a_user_namespace_is_told_to_leave_it(tmp_path: Path) -> None:
    said = told(host(tmp_path, caps=PTRACE, uid_map="0 1000 1"))
    assert said.startswith("run outside this user namespace")


def test_with_the_capability_a_filter_is_the_only_suspect(tmp_path: Path) -> None:
    said = told(host(tmp_path, caps=PTRACE, seccomp=2))
    assert said.startswith("allow userfaultfd in the seccomp filter")
    assert "; or " not in said


def test_without_the_capability_a_filter_is_one_of_two(tmp_path: Path) -> None:
    said = told(host(tmp_path, seccomp=2))
    assert "seccomp filter" in said
    assert "--cap-add SYS_PTRACE" in said


def test_with_everything_it_is_a_security_module(tmp_path: Path) -> None:
    said = told(host(tmp_path, caps=PTRACE))
    assert "SELinux" in said
    assert "seccomp" not in said


def test_a_call_that_is_not_there_needs_another_kernel(tmp_path: Path) -> None:
    assert told(host(tmp_path), errno.ENOSYS) == "use a kernel with userfaultfd"


def test_without_proc_nothing_is_made_up(tmp_path: Path) -> None:
    own = Confinement.read(tmp_path)
    assert own.may(CAP_SYS_PTRACE)
    assert not own.filtered


@pytest.mark.parametrize(
    ("call", "name"),
    [
        ("vcpu0: KVM_RUN", "ioctl(KVM_RUN)"),
        ("reader0.0: UFFDIO_COPY of page 7", "ioctl(UFFDIO_COPY)"),
        ("UFFDIO_REGISTER of 4096 bytes", "ioctl(UFFDIO_REGISTER)"),
        ("madvise(MADV_DONTFORK)", "madvise"),
        ("sched_setaffinity to CPUs [0, 1]", "sched_setaffinity"),
        ("vcpu3: GETRUSAGE", "getrusage"),
        ("opening the gate (clock_gettime, futex)", "clock_gettime, futex"),
        ("mprotect", "mprotect"),
    ],
)
def test_a_filter_is_told_of_by_the_system_call(tmp_path: Path, call: str, name: str) -> None:
    own = Confinement.read(host(tmp_path, seccomp=2))
    assert own.remedies(call, errno.EPERM)[0].startswith(f"allow {name} in the seccomp filter")


# Devices


def device(root: Path, mode: int) -> Path:
    """Plant a device node of ours with `mode`."""
    (root / "dev").mkdir()
    (root / "dev/kvm").write_text("")
    (root / "dev/kvm").chmod(mode)
    return root


def test_a_device_that_is_not_there_has_to_be_passed_in(tmp_path: Path) -> None:
    assert "docker: --device /dev/kvm" in Confinement.read(host(tmp_path)).access(
        "/dev/kvm", tmp_path
    )


def test_a_device_whose_mode_permits_is_withheld_by_somebody_else(tmp_path: Path) -> None:
    said = Confinement.read(host(tmp_path, uid=1000)).access("/dev/kvm", device(tmp_path, 0o666))
    assert "device cgroup" in said
    assert "SELinux" in said


def test_a_device_of_the_owner_alone_is_not_got_by_joining_a_group(tmp_path: Path) -> None:
    own = Confinement.read(host(tmp_path, uid=os.getuid() + 1))
    said = own.access("/dev/kvm", device(tmp_path, 0o600))
    assert "setfacl -m u:$USER:rw /dev/kvm" in said
    assert "mode 600" in said
    assert "usermod" not in said


def open_fails(root: Path, number: int) -> str:
    return str(kvm._cannot_open("/dev/kvm", KernelError("open /dev/kvm", number), root))


def test_a_processor_without_virtualisation_is_told_apart_from_a_module_not_loaded(
    tmp_path: Path,
) -> None:
    host(tmp_path)
    cpuinfo = tmp_path / "proc/cpuinfo"
    cpuinfo.write_text("flags\t\t: fpu vme svm\n")
    said = open_fails(tmp_path, errno.ENOENT)
    assert "load the module" in said
    assert "firmware" not in said
    cpuinfo.write_text("flags\t\t: fpu vme\n")
    for number in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        said = open_fails(tmp_path, number)
        assert "neither vmx nor svm" in said
        assert "enable VT-x or SVM in the firmware" in said


def test_a_driver_without_its_node_is_told_as_such(tmp_path: Path) -> None:
    host(tmp_path)
    (tmp_path / "sys/class/misc/kvm").mkdir(parents=True)
    said = open_fails(tmp_path, errno.ENOENT)
    assert "though this kernel has KVM" in said
    assert "--device /dev/kvm" in said
    assert "modprobe" not in said


def test_an_errno_that_nobody_knows_is_told_as_it_is(tmp_path: Path) -> None:
    assert "EIO" in open_fails(tmp_path, errno.EIO)
