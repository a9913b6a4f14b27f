"""What this host cannot: exit code 3 before anything is allocated, with the remedy."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
from pathlib import Path

import pytest

from kvmpc.host.headroom import memory_available_bytes
from kvmpc.kernel.kvm import Kvm
from kvmpc.units import GIB, KIB, MIB
from tests.fakes.refusing import refusing

pytestmark = pytest.mark.kvm


def _limit(which, soft, hard):
    return lambda: resource.setrlimit(which, (soft, hard))


def _refused(finished, *words):
    assert finished.code == 3, finished
    assert finished.error.startswith("kvmpc: ")
    assert "remedy: " in finished.error
    for word in words:
        assert word in finished.error


# vCPUs and memory


def test_more_vcpus_than_kvm_allows_are_refused_with_its_maximum(kvmpc, tiny):
    with Kvm() as kvm:
        allowed = kvm.max_vcpus()
    finished = kvmpc("compare", *tiny, "--vcpus", str(allowed + 1))
    _refused(finished, f"--vcpus {allowed + 1}", f"1 to {allowed}", f"--vcpus {allowed} or fewer")
    assert finished.stdout == ""


@pytest.mark.parametrize("size", ["256T", "99999999999999T"])
def test_more_memory_than_a_guest_can_address_is_refused(kvmpc, size):
    finished = kvmpc(
        "compare", "--vcpus", "1", "--mem-per-vcpu", size, "--touch-pages", "23",
        before=_limit(resource.RLIMIT_AS, 4 * GIB, 4 * GIB),
    )  # fmt: skip
    _refused(finished, "physical address bits", "--mem-per-vcpu")
    assert finished.stdout == ""


def test_more_memory_than_there_is_is_refused_before_any_is_mapped(kvmpc):
    part = -(-memory_available_bytes() // GIB) * GIB
    finished = kvmpc(
        "compare", "--vcpus", "2", "--mem-per-vcpu", str(part),
        # Mapping it would fail, with another message.
        before=_limit(resource.RLIMIT_AS, 4 * GIB, 4 * GIB),
    )  # fmt: skip
    _refused(finished, "--vcpus 2", "--mem-per-vcpu", "the host's memory leaves", "--touch-pages")
    needed_mib = int(finished.error.partition("needs ")[2].split()[0])
    # Each 2 MiB need a page-table page of the host's, and one of KVM's.
    assert needed_mib >= 2 * part // MIB * (1 + 2 / 512)


def test_a_sparse_run_may_have_more_memory_than_the_host(kvmpc, tiny):
    # Beyond 64 GiB the tool's own bookkeeping, a byte a page, takes its time.
    size = min(-(-memory_available_bytes() * 5 // 4 // GIB), 64)
    finished = kvmpc(
        "compare", "none", "uffd", "exit", *tiny,
        "--mem-per-vcpu", f"{size}G", "--touch-pages", "997", "--json", str(kvmpc.json),
    )  # fmt: skip
    assert finished.code == 0
    assert "sparse: 997 of" in finished.told
    for trial in kvmpc.result().trials:
        assert trial.sparse
        assert trial.expected_pages == 997
        assert trial.verified in ("yes", "zeros")


# Open files and threads


def test_a_low_soft_limit_of_open_files_is_raised(kvmpc, tiny):
    finished = kvmpc("run", "uffd,uffds=23", *tiny, before=_limit(resource.RLIMIT_NOFILE, 20, 4096))
    assert finished.code == 0
    assert finished.cells("uffd,uffds=23")[-1] == "yes"


def test_a_low_hard_limit_of_open_files_is_named_with_what_is_needed(kvmpc, tiny):
    finished = kvmpc(
        "compare", "none", "uffd,uffds=23", *tiny,
        before=_limit(resource.RLIMIT_NOFILE, 60, 60),
    )  # fmt: skip
    _refused(finished, "uffd,uffds=23: needs 56 more open files; ulimit -Hn leaves", "LimitNOFILE=")
    assert finished.stdout == ""


def test_a_low_limit_of_threads_is_found_before_the_first_trial(kvmpc, tiny, as_user):
    finished = kvmpc(
        "run", "uffd,readers=9", *tiny,
        within=["prlimit", "--nproc=20", *as_user("dac_override", "sys_ptrace")],
    )  # fmt: skip
    _refused(
        finished,
        "uffd,readers=9: needs 26 threads (10 of its own, 16 spare); ulimit -u leaves 19",
        "LimitNPROC=",
    )
    assert finished.stdout == ""


@pytest.fixture
def cgroup():
    """Return what makes a control group of our own: its limit set, and the command to be in it.

    Each is gone after the test.
    """
    made = []

    def cgroup(limits: dict[str, int]) -> list[str]:
        """limits: by the name of the file; of those that are other names of one, any."""
        for root in (*Path("/sys/fs/cgroup").glob("*/"), Path("/sys/fs/cgroup")):
            group = root / f"kvmpc-test-{os.getpid()}"
            try:
                group.mkdir()
            except OSError:
                continue
            made.append(group)
            for name, limit in limits.items():
                if (group / name).exists():
                    (group / name).write_text(str(limit))
                    return ["sh", "-c", f'echo $$ >{group}/cgroup.procs && exec "$@"', "sh"]
            made.pop().rmdir()
        pytest.skip(f"cannot make a control group with {' or '.join(limits)} here")

    yield cgroup
    for group in made:
        group.rmdir()


def test_the_limit_of_tasks_that_is_told_is_the_one_that_is_compared(kvmpc, tiny, cgroup):
    finished = kvmpc(
        "compare", "uffd", "exit", *tiny, "--vcpus", "32", within=cgroup({"pids.max": 40})
    )
    _refused(
        finished,
        "uffd: needs 49 threads (33 of its own, 16 spare); the cgroup's pids.max leaves 39",
        "raise pids.max of the cgroup",
    )


def test_enough_tasks_are_enough(kvmpc, tiny, cgroup):
    assert kvmpc("run", "uffd", *tiny, "--vcpus", "32", within=cgroup({"pids.max": 50})).code == 0


def test_the_limit_of_memory_of_a_cgroup_is_told_as_such(kvmpc, cgroup):
    within = cgroup({"memory.max": 96 * MIB, "memory.limit_in_bytes": 96 * MIB})
    finished = kvmpc("run", "uffd", "--vcpus", "2", "--mem-per-vcpu", "64M", within=within)
    _refused(finished, "the cgroup's memory limit leaves", "raise memory.max", "MemoryMax=")
    assert kvmpc("run", "uffd", "--vcpus", "2", "--mem-per-vcpu", "8M", within=within).code == 0


# Address space


@pytest.mark.parametrize(
    ("which", "option"), [(resource.RLIMIT_AS, "ulimit -v"), (resource.RLIMIT_DATA, "ulimit -d")]
)
def test_many_threads_fit_a_small_address_space(kvmpc, tiny, which, option):
    # 16 stacks as large as RLIMIT_STACK, and 16 heaps of 64 MiB, would not.
    finished = kvmpc("run", "uffd", *tiny, "--vcpus", "16", before=_limit(which, 488 * MIB, -1))
    assert finished.code == 0
    finished = kvmpc("run", "uffd", *tiny, "--vcpus", "160", before=_limit(which, 100 * MIB, -1))
    _refused(finished, "--vcpus 160", "MiB of address space", f"{option} leaves", "unlimited")
    told = re.search(r"needs (\d+) MiB .* leaves (\d+) MiB", finished.error)
    assert int(told[1]) > int(told[2])
    assert finished.stdout == ""


@pytest.mark.parametrize("stack_bytes", [256 * KIB, 2 * GIB, resource.RLIM_INFINITY])
def test_the_stacks_of_threads_do_not_depend_on_the_limit_of_stacks(kvmpc, tiny, stack_bytes):
    def before():
        resource.setrlimit(resource.RLIMIT_STACK, (stack_bytes, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_AS, (488 * MIB, resource.RLIM_INFINITY))

    assert kvmpc("run", "uffd", *tiny, "--vcpus", "16", before=before).code == 0


# /dev/kvm


def _probe_says(kvmpc, within, name, *words):
    """Check that `probe` finds the same, in text and in JSON."""
    text = kvmpc("probe", within=within)
    assert text.code == 3
    assert f" cannot run here: {name}: " in text.error
    told = kvmpc("probe", "--json", within=within)
    assert told.code == 3
    checks = {check["name"]: check for check in json.loads(told.stdout)}
    assert checks[name]["status"] == "no"
    assert checks[name]["remedy"]
    for word in words:
        assert word in text.error
        assert word in f"{checks[name]['detail']} {checks[name]['remedy']}"


@pytest.mark.parametrize(
    ("script", "reason", "remedy"),
    [
        ("true", "there is no KVM device in /dev, though", "docker: --device /dev/kvm"),
        ("cp /dev/null /dev/kvm", "this is no KVM device", "devtmpfs"),
        ("mknod -m 666 /dev/kvm c 1 3", "this is no KVM device", "devtmpfs"),
        ("mknod -m 666 /dev/kvm c 10 254", "has no driver", "load the module"),
        ("mkdir /dev/kvm", "EISDIR", ""),
    ],
    ids=["missing", "a file", "another device", "no driver", "a folder"],
)
def test_what_is_wrong_with_the_kvm_device_is_named(kvmpc, tiny, with_dev, script, reason, remedy):
    within = with_dev(script)
    finished = kvmpc("compare", *tiny, "--json", str(kvmpc.json), within=within)
    _refused(finished, "/dev/kvm: ", reason, remedy)
    assert finished.stdout == ""
    assert not kvmpc.json.exists()
    _probe_says(kvmpc, within, "/dev/kvm", reason, remedy)


@pytest.mark.parametrize(
    ("mode", "remedies"),
    [
        ("chmod 600 /dev/kvm", ["setfacl -m u:$USER:rw /dev/kvm", "mode 600, group root"]),
        ("chgrp tty /dev/kvm && chmod 660 /dev/kvm", ["usermod -aG tty", "mode 660, group tty"]),
    ],
    ids=["the owner's", "a group's"],
)
def test_a_kvm_device_that_is_not_ours_to_open_is_named(
    kvmpc, tiny, with_dev, devices, as_user, mode, remedies
):
    within = [*with_dev(f"{devices['kvm']} && {mode}"), *as_user()]
    finished = kvmpc("compare", *tiny, within=within)
    _refused(finished, "/dev/kvm: permission denied", *remedies)
    assert "SELinux" not in finished.error
    _probe_says(kvmpc, within, "/dev/kvm", "permission denied", *remedies)


@pytest.mark.parametrize(
    ("fault", "reason", "remedy"),
    [
        ("busy-kvm", "another hypervisor holds", "VirtualBox"),
        ("forbidden-kvm", "the system forbids it", "--device /dev/kvm"),
    ],
)
def test_a_kvm_device_that_the_kernel_withholds_is_named(kvmpc, tiny, fault, reason, remedy):
    finished = kvmpc.inject(fault, "compare", *tiny)
    _refused(finished, f"/dev/kvm: {reason}", remedy)
    probed = kvmpc.inject(fault, "probe")
    assert probed.code == 3
    assert remedy in probed.error


# userfaultfd


@pytest.fixture(scope="module")
def unprivileged_userfaultfd_off():
    """Skip where every process may use userfaultfd."""
    if Path("/proc/sys/vm/unprivileged_userfaultfd").read_text().strip() != "0":
        pytest.skip("vm.unprivileged_userfaultfd is on")


@pytest.mark.usefixtures("unprivileged_userfaultfd_off")
def test_without_userfaultfd_nothing_is_measured_and_the_remedies_are_named(
    kvmpc, tiny, with_dev, devices, without_capabilities
):
    within = [*with_dev(devices["kvm"]), *without_capabilities]
    finished = kvmpc("compare", "none", "uffd", *tiny, "--json", str(kvmpc.json), within=within)
    _refused(
        finished, "uffd needs userfaultfd: not permitted", "EPERM", "CAP_SYS_PTRACE",
        "vm.unprivileged_userfaultfd=1",
        *["--device /dev/userfaultfd"] * ("userfaultfd" in devices),
    )  # fmt: skip
    assert finished.stdout == ""
    assert not kvmpc.json.exists()
    assert kvmpc("compare", "none", *tiny, within=within).code == 0
    _probe_says(kvmpc, within, "userfaultfd", "not permitted", "vm.unprivileged_userfaultfd=1")


@pytest.mark.usefixtures("unprivileged_userfaultfd_off")
@pytest.mark.parametrize("who", ["user", "root", "filtered root", "root of a namespace"])
def test_the_remedies_for_a_userfaultfd_are_those_that_are_true_here(
    kvmpc, tiny, with_dev, devices, as_user, without_capabilities, who
):
    within, words, wrong = {
        "user": (
            [*with_dev(f"{devices['kvm']} && chmod 666 /dev/kvm"), *as_user()],
            ["run as root or with CAP_SYS_PTRACE"],
            ["seccomp", "--cap-add", "namespace"],
        ),
        "root": (
            [*with_dev(devices["kvm"]), *without_capabilities],
            ["give this root CAP_SYS_PTRACE (docker: --cap-add SYS_PTRACE"],
            ["run as root", "seccomp", "namespace"],
        ),
        "filtered root": (
            [*with_dev(devices["kvm"]), *refusing(errno.EPERM, "userfaultfd")],
            ["allow userfaultfd in the seccomp filter"],
            ["run as root", "--cap-add", "namespace", "unprivileged_userfaultfd=1"],
        ),
        "root of a namespace": (
            [*with_dev(f"{devices['kvm']} && chmod 666 /dev/kvm"), "unshare", "-Ur"],
            ["run outside this user namespace", "CAP_SYS_PTRACE"],
            ["run as root", "--cap-add", "seccomp"],
        ),
    }[who]
    finished = kvmpc("run", "uffd", *tiny, within=within)
    _refused(finished, "uffd needs userfaultfd: not permitted", "EPERM", *words)
    for word in wrong:
        assert word not in finished.error
    told = kvmpc("probe", within=within)
    assert told.code == 3
    assert "report this" not in told.error
    assert "trial of uffd skip not tried: needs userfaultfd" in told.told
    assert "trial of none yes" in told.told


@pytest.mark.usefixtures("unprivileged_userfaultfd_off")
def test_the_userfaultfd_device_alone_is_enough(
    kvmpc, tiny, with_dev, devices, without_capabilities
):
    if "userfaultfd" not in devices:
        pytest.skip("this kernel has no /dev/userfaultfd")
    script = f"{devices['kvm']} && {devices['userfaultfd']}"
    finished = kvmpc("compare", *tiny, within=[*with_dev(script), *without_capabilities])
    assert finished.code == 0
    assert finished.cells("exit(sigbus)")[-1] == "yes"


def test_the_userfaultfd_system_call_alone_is_enough(kvmpc, tiny, with_dev, devices):
    finished = kvmpc("compare", *tiny, within=with_dev(devices["kvm"]))
    assert finished.code == 0
    assert finished.cells("uffd")[-1] == "yes"
