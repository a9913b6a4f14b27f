"""What somebody refuses kvmpc on this host (seccomp, SELinux, systemd): exit code 3, by its name.

The kernel really answers with these errnos: a seccomp filter has it do so.
"""

from __future__ import annotations

import errno
import json
import re
import sys

import pytest

from tests.fakes.refusing import refusing

pytestmark = pytest.mark.kvm

_DENY_WRITE_EXECUTE = """
import ctypes, os, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):
    sys.exit(99)
os.execvp(sys.argv[1], sys.argv[1:])
"""

KVM_RUN, KVM_CREATE_VM, KVM_CREATE_VCPU, UFFDIO_COPY, UFFDIO_REGISTER = (
    "ioctl:1=0xae80", "ioctl:1=0xae01", "ioctl:1=0xae41", "ioctl:1=0xc028aa03", "ioctl:1=0xc020aa00"
)  # fmt: skip


@pytest.fixture(scope="module")
def without_execute():
    """Return a command that runs its arguments with PR_SET_MDWE, as systemd's setting has it."""
    return [sys.executable, "-c", _DENY_WRITE_EXECUTE]


def _refused(finished, *words):
    assert finished.code == 3, finished
    assert finished.stdout == ""
    assert finished.error.startswith("kvmpc: ")
    assert finished.error.count("remedy: ") == 1
    for word in words:
        assert word in finished.error, finished.error


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS])
@pytest.mark.parametrize(
    ("pager", "call", "name"),
    [
        ("uffd,readers=2", "epoll_pwait2", "epoll_pwait2"),
        ("uffd,readers=2", "epoll_create1", "epoll_create1"),
        ("uffd,readers=2", "233", "epoll_ctl"),
        ("uffd", UFFDIO_COPY, "ioctl(UFFDIO_COPY)"),
        ("uffd", UFFDIO_REGISTER, "ioctl(UFFDIO_REGISTER)"),
        ("uffd", "271", "ppoll"),
        ("uffd", "tgkill", "tgkill"),
        ("exit", "tgkill", "tgkill"),
        ("exit", "98", "getrusage"),
        ("exit", KVM_RUN, "ioctl(KVM_RUN)"),
        ("none", KVM_CREATE_VM, "ioctl(KVM_CREATE_VM)"),
        ("none", KVM_CREATE_VCPU, "ioctl(KVM_CREATE_VCPU)"),
        ("none", "mincore", "mincore"),
        ("none", "madvise:2=10", "madvise"),
        ("none", "gettid", "gettid"),
        ("none", "prctl:0=29", "prctl"),
        ("none", "sched_getaffinity", "sched_getaffinity"),
        ("none", "prlimit64", "prlimit64"),
        ("none", "228", "clock_gettime"),
    ],
)
def test_a_call_that_is_refused_is_found_before_the_first_trial_and_named(
    kvmpc, tiny, number, pager, call, name
):
    # One errno is enough where nothing tells them apart.
    finished = kvmpc("run", pager, *tiny, within=refusing(number, call))
    _refused(finished, errno.errorcode[number])
    # Or one of several, where they are made together.
    told = re.search(r"remedy: allow ([^;]*) in the seccomp filter", finished.error)
    assert name in told[1].split(", ")


@pytest.mark.parametrize(
    ("option", "pager", "call", "name"),
    [
        (["--pin"], "exit", "sched_setaffinity", "sched_setaffinity"),
        (["--fetch-delay", "2ms"], "exit", "230", "clock_nanosleep"),
        (["--numa", "local"], "none", "mbind", "mbind"),
        (["--split"], "exit", "310", "process_vm_readv"),
    ],
)
def test_a_call_that_only_an_option_needs_is_found_as_well(kvmpc, tiny, option, pager, call, name):
    within = refusing(errno.EPERM, call)
    finished = kvmpc("run", pager, *tiny, *option, within=within)
    _refused(finished, name)
    if name != "clock_nanosleep":  # which Python sleeps by
        assert kvmpc("run", pager, *tiny, within=within).code == 0


def test_a_sweep_skips_what_is_refused_with_the_reason(kvmpc, tmp_path):
    spec = tmp_path / "readers.toml"
    spec.write_text(
        'vcpus = "1,2"\nmem_per_vcpu = "92K"\nrounds = 1\nwarmup = 0\n'
        'pagers = ["uffd", "uffd,readers=2"]\n'
    )
    within = refusing(errno.ENOSYS, "epoll_pwait2")
    finished = kvmpc("sweep", str(spec), "--json", str(kvmpc.json), within=within)
    assert finished.code == 0
    skipped = kvmpc.result().skipped
    assert [(skip.point, skip.pager) for skip in skipped] == [
        (0, "uffd,readers=2"), (1, "uffd,readers=2"),
    ]  # fmt: skip
    for skip in skipped:
        assert "epoll_pwait2" in skip.reason
        assert "Linux 5.11" in skip.reason
        assert "readers=1" in skip.reason
    assert {trial.status for trial in kvmpc.result().trials} == {"ok"}
    assert "FAILED" not in finished.stdout


def test_what_a_pager_does_not_call_is_not_needed(kvmpc, tiny):
    within = refusing(errno.ENOSYS, "epoll_pwait2")
    assert kvmpc("compare", "none", "uffd", "exit", *tiny, within=within).code == 0


@pytest.mark.parametrize("pager", ["none", "uffd", "exit"])
def test_memory_that_may_not_be_executed_is_told_with_the_setting(
    kvmpc, tiny, without_execute, pager
):
    finished = kvmpc("run", pager, *tiny, within=without_execute)
    _refused(finished, "executable memory", "EACCES", "MemoryDenyWriteExecute=no", "PR_SET_MDWE")


def test_seccomp_that_forbids_to_execute_is_told_as_such(kvmpc, tiny):
    finished = kvmpc("run", "none", *tiny, within=refusing(errno.EPERM, "mprotect:2=5"))
    _refused(finished, "executable memory", "MemoryDenyWriteExecute=no", "seccomp filter")


def _checks(kvmpc, within):
    """Return what `probe` says, by name; its two forms agree."""
    told = kvmpc("probe", "--json", within=within)
    shown = kvmpc("probe", within=within)
    assert told.code == shown.code == 3
    assert "report this" not in shown.error
    checks = {check["name"]: check for check in json.loads(told.stdout)}
    assert all(" ".join(name.split()[:3]) in shown.told for name in checks)
    return checks


def test_probe_does_not_try_what_cannot_work(kvmpc, without_execute):
    checks = _checks(kvmpc, without_execute)
    assert checks["executable memory"]["status"] == "no"
    assert checks["userfaultfd"]["status"] == "yes"
    trials = {name: check for name, check in checks.items() if name.startswith("trial of")}
    assert len(trials) == 5
    for check in trials.values():
        assert check["status"] == "skip"
        assert check["detail"] == "not tried: needs executable memory"


def test_probe_tries_what_does_not_depend_on_what_is_missing(kvmpc):
    checks = _checks(kvmpc, refusing(errno.ENOSYS, "epoll_pwait2"))
    assert checks["epoll_pwait2"]["status"] == "no"
    assert checks["trial of uffd"]["status"] == "yes"
    assert checks["trial of uffd,readers=2"]["detail"] == "not tried: needs epoll_pwait2"


@pytest.mark.parametrize("call", ["mincore", UFFDIO_REGISTER, KVM_CREATE_VCPU])
def test_probe_names_a_call_that_no_line_of_its_own_is_for(kvmpc, call):
    checks = _checks(kvmpc, refusing(errno.EACCES, call))
    failed = [check for check in checks.values() if check["status"] == "no"]
    assert failed
    for check in failed:
        assert check["name"].startswith("trial of ")
        assert "seccomp filter" in check["remedy"]
