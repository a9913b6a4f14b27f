"""Facts and limits of a host, on trees built here and once on the real machine."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from kvmpc.errors import HostError
from kvmpc.host import facts as host
from kvmpc.host.files import Cgroups, entries
from kvmpc.host.headroom import allowed_cpus, memory_available_bytes, thread_headroom
from kvmpc.judge.host_cautions import cautions_of_host
from kvmpc.units import format_cpu_list, parse_cpu_list
from tests.fakes.trees import plant

MIB = 1 << 20
MEMINFO = "MemTotal: 2048 kB\nMemAvailable: 1024 kB\nSwapTotal: 512 kB\nSwapFree: 128 kB\n"
LONGEST_SENTENCE = 160


def group(facts: Mapping[str, object], name: str) -> dict[str, object]:
    found = facts[name]
    assert isinstance(found, dict)
    return found


# CPU lists


@pytest.mark.parametrize(
    ("cpus", "text"),
    [([], ""), ([5], "5"), ([8, 0, 1, 2, 3], "0-3,8"), ([1, 1, 2], "1-2"), ([0, 2, 4], "0,2,4")],
)
def test_cpu_list_is_written_as_the_kernel_does(cpus: list[int], text: str) -> None:
    assert format_cpu_list(cpus) == text
    assert parse_cpu_list(text) == sorted(set(cpus))


def test_entries_come_in_natural_order(tmp_path: Path) -> None:
    plant(tmp_path, {"node10": "", "node9": "", "possible": ""})
    assert [path.name for path in entries(tmp_path, r"node[0-9]+$")] == ["node9", "node10"]


# the whole


def test_an_empty_tree_gives_no_made_up_fact(tmp_path: Path) -> None:
    facts = host.collect(tmp_path)
    of_system_calls = {"collected_at_utc", "python", "kernel", "cpu", "userfaultfd", "scheduling"}
    assert set(facts) == of_system_calls
    assert set(group(facts, "scheduling")) == {"policy", "priority", "nice"}
    assert set(group(facts, "kernel")) == {"machine"}
    assert set(group(facts, "cpu")) == {"allowed", "allowed_count"}
    assert facts["userfaultfd"] == {"device_present": False}
    allowed = len(allowed_cpus())
    assert cautions_of_host(facts, vcpu_threads=allowed) == []


def test_a_tree_of_unreadable_files_gives_no_made_up_fact(tmp_path: Path) -> None:
    # a directory where a file is expected fails to be read as root too
    for name in ("proc/meminfo", "proc/cpuinfo", "proc/loadavg", "sys/kernel/mm/ksm/run"):
        (tmp_path / name).mkdir(parents=True)
    facts = host.collect(tmp_path)
    assert "memory" not in facts
    assert "load" not in facts


def test_the_real_machine_is_described_quickly_and_as_json() -> None:
    started_s = time.perf_counter()
    facts = host.collect()
    took_s = time.perf_counter() - started_s
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert group(facts, "kernel")["release"] == os.uname().release
    assert group(facts, "cpu")["allowed_count"] == len(os.sched_getaffinity(0))
    assert took_s < 1  # typically 5 ms; the margin is for a busy test host
    for sentence in cautions_of_host(facts, vcpu_threads=997, reader_threads=23):
        assert len(str(sentence)) <= LONGEST_SENTENCE


def test_memory_settings_are_read(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            "proc/meminfo": MEMINFO + "HugePages_Total: 7\nHugepagesize: 2048 kB\n",
            "proc/pressure/memory": "some avg10=0.00 avg60=1.25 total=9\nfull avg10=0\n",
            "proc/sys/kernel/numa_balancing": "1\n",
            "proc/sys/vm/nr_hugepages": "7\n",
            "sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never\n",
            "sys/kernel/mm/transparent_hugepage/defrag": "always defer [madvise] never\n",
            "sys/kernel/mm/lru_gen/enabled": "0x0007\n",
            "sys/kernel/mm/ksm/run": "1\n",
            "sys/kernel/mm/damon/admin/kdamonds/nr_kdamonds": "2\n",
            "sys/kernel/mm/damon/admin/kdamonds/0/state": "off\n",
            "sys/kernel/mm/damon/admin/kdamonds/1/state": "on\n",
            "sys/module/damon_stat/parameters/enabled": "Y\n",
        },
    )
    assert group(host.collect(tmp_path), "memory") == {
        "total_bytes": 2 * MIB,
        "available_bytes": MIB,
        "swap_total_bytes": 512 << 10,
        "swap_used_bytes": 384 << 10,
        "thp_enabled": "always",
        "thp_defrag": "madvise",
        "ksm_run": 1,
        "numa_balancing": 1,
        "mglru_enabled": "0x0007",
        "damon_running": ["kdamond 1", "damon_stat"],
        "pressure_some_avg60_percent": 1.25,
        "nr_hugepages": 7,
        "hugepage_bytes": 2 * MIB,
    }


def test_distribution_is_found_after_a_blank_line(tmp_path: Path) -> None:
    plant(tmp_path, {"etc/os-release": '# comment\n\nPRETTY_NAME="Debian = GNU/Linux 12"\n'})
    assert host.collect(tmp_path)["distribution"] == "Debian = GNU/Linux 12"


CPUINFO = """\
processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) {number}
microcode\t: 0x2b
cpu cores\t: 2
flags\t\t: fpu tsc constant_tsc nonstop_tsc

"""


def two_sockets(root: Path) -> Path:
    """Two packages of two cores of two threads; CPUs 0, 2, 4, 6 are in the first."""
    cpu = "sys/devices/system/cpu"
    packages = {0: "0,2,4,6", 1: "1,3,5,7"}
    return plant(
        root,
        {
            "proc/cpuinfo": "".join(CPUINFO.format(number=cpu) for cpu in range(8)),
            f"{cpu}/online": "0-7\n",
            f"{cpu}/cpu0/topology/thread_siblings_list": "0,4\n",
            **{
                f"{cpu}/cpu{first}/topology/package_cpus_list": members
                for first, members in packages.items()
            },
            **{
                f"sys/devices/system/node/node{node}/{name}": text
                for node, cpus in packages.items()
                for name, text in (
                    ("cpulist", cpus),
                    ("meminfo", f"Node {node} MemTotal:  1024 kB\n"),
                )
            },
            "sys/devices/system/clocksource/clocksource0/current_clocksource": "hpet\n",
        },
    )


def test_topology_is_read_from_one_cpu_of_each_package(tmp_path: Path) -> None:
    cpu = group(host.collect(two_sockets(tmp_path)), "cpu")
    assert cpu["model"] == "Intel(R) Xeon(R) 0"
    assert (cpu["online"], cpu["online_count"]) == ("0-7", 8)
    assert (cpu["sockets_count"], cpu["cores_count"], cpu["threads_per_core"]) == (2, 4, 2)
    assert (cpu["constant_tsc"], cpu["hypervisor"]) == (True, False)
    assert cpu["numa_nodes"] == [
        {"node": 0, "cpus": "0,2,4,6", "memory_bytes": MIB},
        {"node": 1, "cpus": "1,3,5,7", "memory_bytes": MIB},
    ]


def test_a_package_without_a_list_leaves_the_count_out(tmp_path: Path) -> None:
    two_sockets(tmp_path)
    (tmp_path / "sys/devices/system/cpu/cpu1/topology/package_cpus_list").unlink()
    cpu = group(host.collect(tmp_path), "cpu")
    assert "sockets_count" not in cpu
    assert "cores_count" not in cpu


def test_the_older_name_of_the_package_list_is_read(tmp_path: Path) -> None:
    two_sockets(tmp_path)
    for cpu in (0, 1):
        path = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology/package_cpus_list"
        path.rename(path.with_name("core_siblings_list"))
    assert group(host.collect(tmp_path), "cpu")["sockets_count"] == 2


def test_frequency_covers_every_policy(tmp_path: Path) -> None:
    policies = "sys/devices/system/cpu/cpufreq/policy"
    plant(
        tmp_path,
        {
            f"{policies}0/scaling_governor": "performance\n",
            f"{policies}0/scaling_driver": "intel_pstate\n",
            f"{policies}0/scaling_min_freq": "800000\n",
            f"{policies}0/scaling_max_freq": "3500000\n",
            f"{policies}10/scaling_governor": "powersave\n",
            f"{policies}10/scaling_min_freq": "400000\n",
            f"{policies}10/scaling_max_freq": "2500000\n",
            "sys/devices/system/cpu/intel_pstate/no_turbo": "1\n",
        },
    )
    assert group(host.collect(tmp_path), "frequency") == {
        "driver": "intel_pstate",
        "governors": ["performance", "powersave"],
        "min_khz": 400000,
        "max_khz": 3500000,
        "boost": False,
    }


def idle_states(root: Path) -> Path:
    states = "sys/devices/system/cpu/cpu0/cpuidle/state"
    table = [("POLL", 0, 0), ("C1", 2, 0), ("C1E", 10, 1), ("C6", 133, 0)]
    return plant(
        root,
        {
            f"{states}{number}/{name}": f"{value}\n"
            for number, row in enumerate(table)
            for name, value in zip(("name", "latency", "disable"), row, strict=True)
        },
    )


def test_only_enabled_deep_idle_states_tilt(tmp_path: Path) -> None:
    facts = host.collect(idle_states(tmp_path))
    assert group(facts, "cpuidle")["states"] == [
        {"name": "POLL", "latency_us": 0, "disabled": False},
        {"name": "C1", "latency_us": 2, "disabled": False},
        {"name": "C1E", "latency_us": 10, "disabled": True},
        {"name": "C6", "latency_us": 133, "disabled": False},
    ]
    (sentence,) = cautions_of_host(facts, vcpu_threads=1)
    assert "(C6)" in sentence.text


@pytest.mark.parametrize(("limit_us", "sentences"), [(1, 0), (200, 1), (2_000_000_000, 1)])
def test_a_latency_request_rules_out_deep_idle_states(
    tmp_path: Path, limit_us: int, sentences: int
) -> None:
    idle_states(tmp_path)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/cpu_dma_latency").write_bytes(limit_us.to_bytes(4, "little"))
    assert len(cautions_of_host(host.collect(tmp_path), vcpu_threads=1)) == sentences


# second-level paging

INTEL, AMD = "sys/module/kvm_intel/parameters/ept", "sys/module/kvm_amd/parameters/npt"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({INTEL: "Y\n"}, "ept"),
        ({INTEL: "N\n"}, "shadow"),
        ({AMD: "1\n"}, "npt"),
        ({AMD: "Y\n"}, "npt"),
        ({AMD: "0\n"}, "shadow"),
        ({AMD: "what\n"}, None),
        ({"sys/module/kvm/parameters/tdp_mmu": "Y\n"}, None),
        ({"sys/module/kvm_pvm/parameters/stats": "N\n"}, None),
        ({"sys/module/kvm_pvm/parameters/stats": "N\n", INTEL: "Y\n"}, None),
        ({INTEL: "N\n", AMD: "1\n", "proc/cpuinfo": "vendor_id\t: AuthenticAMD\n"}, "npt"),
        ({INTEL: "Y\n", AMD: "0\n", "proc/cpuinfo": "vendor_id\t: GenuineIntel\n"}, "ept"),
        ({}, None),
    ],
)
def test_second_level_paging(tmp_path: Path, files: dict[str, str], expected: str | None) -> None:
    assert host.second_level_paging(plant(tmp_path, files)) == expected


def test_an_unknown_vendor_module_is_named(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            "sys/module/kvm/parameters/halt_poll_ns": "200000\n",
            "sys/module/kvm_pvm/parameters/stats": "N\n",
            "sys/module/kvmgt/parameters/x": "1\n",
        },
    )
    facts = host.collect(tmp_path)
    assert facts["kvm"] == {
        "modules": {"kvm": {"halt_poll_ns": "200000"}, "kvm_pvm": {"stats": "N"}},
        "vendor_module": "kvm_pvm",
    }
    (sentence,) = cautions_of_host(facts, vcpu_threads=1)
    assert "kvm_pvm" in sentence.text


# control groups

V1_HUGE = "9223372036854771712\n"


def cgroup_v2(root: Path) -> Path:
    return plant(
        root,
        {
            "proc/meminfo": "MemTotal: 65536 kB\nMemAvailable: 32768 kB\n",
            "proc/self/cgroup": "0::/outer/inner\n",
            "proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
            "sys/fs/cgroup/outer/inner/memory.max": "max\n",
            "sys/fs/cgroup/outer/inner/memory.current": f"{9 * MIB}\n",
            "sys/fs/cgroup/outer/inner/pids.max": "100\n",
            "sys/fs/cgroup/outer/inner/pids.current": "10\n",
            "sys/fs/cgroup/outer/inner/cpu.max": "max 100000\n",
            "sys/fs/cgroup/outer/memory.max": f"{24 * MIB}\n",
            "sys/fs/cgroup/outer/memory.high": f"{20 * MIB}\n",
            "sys/fs/cgroup/outer/memory.current": f"{15 * MIB}\n",
            "sys/fs/cgroup/outer/memory.stat": f"anon 1\ninactive_file {3 * MIB}\n",
            "sys/fs/cgroup/outer/pids.max": "23\n",
            "sys/fs/cgroup/outer/pids.current": "20\n",
            "sys/fs/cgroup/outer/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/outer/cpuset.cpus.effective": "0-2\n",
            "sys/fs/cgroup/outer/cpuset.mems.effective": "0\n",
        },
    )


def cgroup_v1(root: Path) -> Path:
    """A v1 host where an engine mounted only the container's own group, plus an empty v2."""
    mounts = [
        ("/docker/abc", "/sys/fs/cgroup/memory", "cgroup cgroup rw,memory"),
        ("/docker/abc", "/sys/fs/cgroup/pids", "cgroup cgroup rw,pids"),
        ("/", "/sys/fs/cgroup/cpu\\040x", "cgroup cgroup rw,cpu,cpuacct"),
        ("/", "/sys/fs/cgroup/unified", "cgroup2 cgroup2 rw"),
    ]
    return plant(
        root,
        {
            "proc/meminfo": "MemTotal: 65536 kB\nMemAvailable: 32768 kB\n",
            "proc/self/cgroup": (
                "4:memory:/docker/abc/job\n3:pids:/elsewhere\n2:cpu,cpuacct:/docker/abc\n0::/\n"
            ),
            "proc/self/mountinfo": "".join(
                f"3{number} 23 0:2{number} {top} {point} rw shared:9 - {kind}\n"
                for number, (top, point, kind) in enumerate(mounts)
            ),
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": V1_HUGE,
            "sys/fs/cgroup/memory/job/memory.usage_in_bytes": f"{2 * MIB}\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{10 * MIB}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{7 * MIB}\n",
            "sys/fs/cgroup/memory/memory.stat": f"inactive_file 1\ntotal_inactive_file {MIB}\n",
            "sys/fs/cgroup/pids/pids.max": "50\n",
            "sys/fs/cgroup/pids/pids.current": "27\n",
            "sys/fs/cgroup/cpu x/docker/abc/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu x/docker/abc/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu x/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu x/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/unified/cgroup.procs": "",
        },
    )


def test_available_memory_is_what_the_tightest_v2_ancestor_leaves(tmp_path: Path) -> None:
    # memory.high 20 MiB less 15 MiB taken, of which 3 MiB is cache that would be dropped
    assert memory_available_bytes(cgroup_v2(tmp_path)) == 8 * MIB


def test_available_memory_is_what_the_v1_container_leaves(tmp_path: Path) -> None:
    assert memory_available_bytes(cgroup_v1(tmp_path)) == 4 * MIB


def test_available_memory_is_never_negative(tmp_path: Path) -> None:
    plant(cgroup_v2(tmp_path), {"sys/fs/cgroup/outer/memory.current": f"{99 * MIB}\n"})
    assert memory_available_bytes(tmp_path) == 0


def test_available_memory_without_a_limit_is_the_hosts(tmp_path: Path) -> None:
    assert memory_available_bytes(plant(tmp_path, {"proc/meminfo": MEMINFO})) == MIB


def test_available_memory_is_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="MemAvailable"):
        memory_available_bytes(tmp_path)


def test_v2_limits_are_facts(tmp_path: Path) -> None:
    assert group(host.collect(cgroup_v2(tmp_path)), "cgroup") == {
        "memory_limit_bytes": 20 * MIB,
        "memory_used_bytes": 12 * MIB,
        "quota_cpus": 1.5,
        "cpuset_cpus": "0-2",
        "cpuset_mems": "0",
        "pids_max": 23,
        "pids_current": 20,
    }


def test_v1_limits_are_facts(tmp_path: Path) -> None:
    assert group(host.collect(cgroup_v1(tmp_path)), "cgroup") == {
        "memory_limit_bytes": 10 * MIB,
        "memory_used_bytes": 6 * MIB,
        "quota_cpus": 0.5,
        "pids_max": 50,
        "pids_current": 27,
    }


@pytest.mark.parametrize("path", ["/../other", "/gone/away"])
def test_a_group_that_cannot_be_seen_is_no_error(tmp_path: Path, path: str) -> None:
    plant(cgroup_v2(tmp_path), {"proc/self/cgroup": f"0::{path}\n"})
    assert Cgroups(tmp_path).memory() == []


def test_groups_are_found_at_the_usual_place_without_mountinfo(tmp_path: Path) -> None:
    (cgroup_v2(tmp_path) / "proc/self/mountinfo").unlink()
    assert len(Cgroups(tmp_path).pids()) == 2


# threads

ROOT_USER = "Name:\tx\nUid:\t0\t0\t0\t0\nThreads:\t1\nCapEff:\t0000000000000000\n"
USER = "Name:\tx\nUid:\t1000\t0\t0\t0\nThreads:\t{threads}\nCapEff:\t{capabilities:016x}\n"
LIMITS = "Limit  Soft Limit  Hard Limit  Units\nMax processes             97  200  processes \n"


def with_user(root: Path, status: str, uid_map: str | None = None) -> Path:
    plant(
        root,
        {
            "proc/self/limits": LIMITS,
            "proc/self/status": status,
            "proc/7/status": USER.format(threads=20, capabilities=0),
            "proc/12/status": USER.format(threads=3, capabilities=0),
            "proc/13/status": ROOT_USER,
        },
    )
    return plant(root, {"proc/self/uid_map": uid_map} if uid_map else {})


def test_thread_headroom_is_unknown_without_any_limit(tmp_path: Path) -> None:
    assert thread_headroom(tmp_path) is None


def test_thread_headroom_is_the_least_of_the_kernels_limits(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            "proc/loadavg": "0.00 0.01 0.05 1/997 4242\n",
            "proc/sys/kernel/threads-max": "2000\n",
            "proc/sys/kernel/pid_max": "32768\n",
        },
    )
    assert thread_headroom(tmp_path) == 2000 - 997
    plant(tmp_path, {"proc/sys/kernel/pid_max": "2000\n"})
    assert thread_headroom(tmp_path) == 2000 - 300 - 997
    plant(tmp_path, {"proc/sys/kernel/pid_max": "1000\n"})
    assert thread_headroom(tmp_path) == 0


def test_thread_headroom_counts_cgroup_ancestors(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    assert thread_headroom(cgroup_v2(tmp_path / "v2")) == 3
    assert thread_headroom(cgroup_v1(tmp_path / "v1")) == 23


def test_thread_headroom_of_a_user_is_what_rlimit_nproc_leaves(tmp_path: Path) -> None:
    own = USER.format(threads=1, capabilities=0)
    assert thread_headroom(with_user(tmp_path, own)) == 97 - 23


@pytest.mark.parametrize("status", [ROOT_USER, USER.format(threads=1, capabilities=1 << 24)])
def test_rlimit_nproc_does_not_bind_the_privileged(tmp_path: Path, status: str) -> None:
    assert thread_headroom(with_user(tmp_path, status, "0 0 4294967295\n")) is None


def test_rlimit_nproc_binds_root_of_a_rootless_container(tmp_path: Path) -> None:
    root = with_user(tmp_path, ROOT_USER, "         0       1000          1\n")
    assert thread_headroom(root) == 97 - 1
