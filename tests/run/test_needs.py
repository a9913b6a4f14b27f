"""What a run needs of a host, and what is said where the host has less."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kvmpc.errors import HostError, UsageError
from kvmpc.host.numa import usable_nodes
from kvmpc.pagers import parse_pager
from kvmpc.pagers.shares import Sharing
from kvmpc.run import needs
from kvmpc.run.needs import check_placement, check_run, needed_bytes, raise_file_limit
from kvmpc.units import GIB, MIB, PAGE_BYTES
from kvmpc.work.layout import Layout
from kvmpc.work.placement import Placement
from kvmpc.work.work import Work

ALLOWED = sorted(os.sched_getaffinity(0))
NODES = usable_nodes()


def make_work(vcpus: int = 3, mem_bytes: int = 997 * PAGE_BYTES, **options: Any) -> Work:
    """Make work of 3 vCPUs of 997 pages but for what is given."""
    return Work(vcpus=vcpus, mem_per_vcpu_bytes=mem_bytes, **options)


@pytest.mark.parametrize("shadow", [False, True])
def test_more_vcpus_need_more(shadow: bool) -> None:
    each = [needed_bytes(make_work(vcpus), shadow=shadow) for vcpus in range(1, 1025, 11)]
    assert each == sorted(set(each))


@pytest.mark.parametrize("shadow", [False, True])
@pytest.mark.parametrize("touch_pages", [None, 23, 512])
def test_more_memory_needs_more(touch_pages: int | None, shadow: bool) -> None:
    each = [
        needed_bytes(
            make_work(mem_bytes=size * 512 * PAGE_BYTES, touch_pages=touch_pages), shadow=shadow
        )
        for size in (1, 2, 3, 23, 997, 2048)
    ]
    assert each == sorted(set(each))


@pytest.mark.parametrize("pages", [[1, 2, 23, 510, 511], [512, 513, 997, 9973, 1 << 20]])
def test_more_touched_pages_need_more(pages: list[int]) -> None:
    # Single pages and runs of 2 MiB: 511 pages spread one by one need more tables than 512.
    each = [
        needed_bytes(make_work(mem_bytes=4 * GIB, touch_pages=touch), shadow=False)
        for touch in pages
    ]
    assert each == sorted(set(each))


@pytest.mark.parametrize("touch_pages", [None, 1, 23, 511, 512, 513, 997])
def test_touched_pages_tables_and_bitmaps_are_counted_for(touch_pages: int | None) -> None:
    work = make_work(mem_bytes=1031 * PAGE_BYTES, touch_pages=touch_pages)
    needed = needed_bytes(work, shadow=False)
    regions = len({page // 512 for page, byte in enumerate(_expected(work)) if byte})
    assert needed >= (work.expected_pages + 2 * 3 * regions) * PAGE_BYTES + 2 * 3 * 1031 // 8
    assert needed_bytes(work, shadow=True) >= needed


def _expected(work: Work) -> bytes:
    return Layout(work).expected_part


def test_a_sparse_guest_of_640_gib_needs_little_but_for_shadow_paging() -> None:
    work = make_work(160, 4 * GIB, touch_pages=512)
    assert needed_bytes(work, shadow=False) < GIB
    assert 1.5 * GIB < needed_bytes(work, shadow=True) < 3 * GIB


def test_overlapping_vcpus_need_their_memory_once() -> None:
    alone = needed_bytes(make_work(1, 64 * MIB), shadow=False)
    together = needed_bytes(make_work(32, 64 * MIB, overlap=True), shadow=False)
    assert together < 1.1 * alone


@dataclass
class FakeHost:
    """A host with room for everything, unless a test takes some of it."""

    max_vcpus: int = 1024
    address_bits: int = 46
    memory_bytes: int = 1 << 50
    threads: int | None = 10**6
    threads_after_raising: int | None = None
    mappings: int | None = 10**6
    files: tuple[int, int] = (1024, 10**6)
    paging: str | None = "npt"
    address_space_bytes: int = resource.RLIM_INFINITY
    overcommit: int = 0
    commit: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    raised: list[tuple[int, tuple[int, int]]] = field(default_factory=list)


class FakeKvm:
    """A KVM of that host."""

    def __init__(self, host: FakeHost) -> None:
        self.host = host

    def max_vcpus(self) -> int:
        """Return how many vCPUs a VM may have."""
        return self.host.max_vcpus

    def check_extension(self, _: int) -> int:
        """Offer every capability."""
        return 1

    def supported_cpuid(self) -> Any:
        """Return what a vCPU's CPUID would say."""

        class Cpuid:
            physical_address_bits = self.host.address_bits
            has_1g_pages = True

        return Cpuid()


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeHost]:
    """Check a run on a fake host; return the host."""

    def check(specs: str = "none uffd exit", work: Work | None = None, **has: Any) -> FakeHost:
        fake = FakeHost(**has)

        def setrlimit(which: int, values: tuple[int, int]) -> None:
            fake.raised.append((which, values))
            if which == resource.RLIMIT_NPROC and fake.threads_after_raising is not None:
                fake.threads = fake.threads_after_raising

        monkeypatch.setattr(needs, "memory_available_bytes", lambda: fake.memory_bytes)
        monkeypatch.setattr(needs, "thread_headroom", lambda: fake.threads)
        monkeypatch.setattr(needs, "second_level_paging", lambda: fake.paging)
        monkeypatch.setattr(
            needs,
            "read_int",
            lambda path: fake.overcommit if path.name == "overcommit_memory" else fake.mappings,
        )
        monkeypatch.setattr(
            needs.resource,
            "getrlimit",
            lambda which: (
                (fake.address_space_bytes, resource.RLIM_INFINITY)
                if which == resource.RLIMIT_AS
                else fake.files
            ),
        )
        monkeypatch.setattr(needs, "read_meminfo_bytes", lambda _: fake.commit)
        monkeypatch.setattr(Sharing, "check_host", lambda *_: fake.asked.append("uffd"))
        monkeypatch.setattr(needs.resource, "setrlimit", setrlimit)
        pagers = [parse_pager(spec) for spec in specs.split()]
        check_run(FakeKvm(fake), work or make_work(), pagers)  # type: ignore[arg-type]
        return fake

    return check


def test_a_host_with_room_for_it_is_left_as_it_is(check: Callable[..., FakeHost]) -> None:
    assert check().raised == []


@pytest.mark.parametrize(
    ("specs", "work", "has", "what", "reason", "remedy"),
    [
        (
            "exit",
            make_work(1025),
            {},
            "--vcpus 1025",
            "1 to 1024 vCPUs",
            "use --vcpus 1024 or fewer",
        ),
        (
            "exit",
            make_work(5),
            {"max_vcpus": 4},
            "--vcpus 5",
            "1 to 4 vCPUs",
            "CONFIG_KVM_MAX_NR_VCPUS",
        ),
        (
            "exit",
            make_work(20, 4 * GIB, touch_pages=1),
            {"address_bits": 36},
            "guest memory",
            "36 physical address bits",
            "--mem-per-vcpu",
        ),
        (
            "exit",
            make_work(3, GIB),
            {"memory_bytes": 3 * GIB},
            "--vcpus 3 --mem-per-vcpu 1G",
            "needs 3084 MiB with page tables, 3072 MiB are available",
            "--touch-pages",
        ),
        (
            "exit",
            make_work(160, 4 * GIB, touch_pages=1),
            {"memory_bytes": GIB, "paging": "shadow"},
            "--vcpus 160 --mem-per-vcpu 4G",
            "1024 MiB are available",
            "--touch-pages",
        ),
        (
            "exit,uffds=per-vcpu",
            make_work(160),
            {"files": (100, 383)},
            "exit(sigbus),uffds=per-vcpu",
            "needs 384 open files, the hard limit is 383",
            "ulimit -Hn 384",
        ),
        (
            "uffd,readers=2",
            make_work(160),
            {"threads": 177},
            "uffd,readers=2",
            "needs 162 threads, 177 more can be started",
            "ulimit -u",
        ),
        (
            "uffd",
            make_work(160),
            {"mappings": 1000},
            "uffd",
            "needs about 1155 memory mappings, vm.max_map_count is 1000",
            "sysctl vm.max_map_count=2310",
        ),
    ],
)
def test_a_host_without_room_is_told_what_is_short_and_what_would_help(
    check: Callable[..., FakeHost],
    specs: str,
    work: Work,
    has: dict[str, Any],
    what: str,
    reason: str,
    remedy: str,
) -> None:
    with pytest.raises(HostError) as caught:
        check(specs, work, **has)
    assert caught.value.what == what
    assert reason in caught.value.reason
    assert remedy in caught.value.remedy


def test_a_sparse_run_is_legal_where_the_whole_would_not_fit(
    check: Callable[..., FakeHost],
) -> None:
    check(work=make_work(160, 4 * GIB, touch_pages=512), memory_bytes=2 * GIB)


@pytest.mark.parametrize("unknown", [{"threads": None}, {"mappings": None}])
def test_a_limit_that_cannot_be_read_stops_nobody(
    check: Callable[..., FakeHost], unknown: dict[str, None]
) -> None:
    check(**unknown)


def test_the_soft_limit_of_open_files_is_raised_to_what_is_needed(
    check: Callable[..., FakeHost],
) -> None:
    host = check("exit,uffds=per-vcpu", make_work(1000), files=(1024, 4096))
    assert host.raised == [(resource.RLIMIT_NOFILE, (2064, 4096))]


def test_the_soft_limit_of_threads_is_raised_before_a_run_is_refused(
    check: Callable[..., FakeHost],
) -> None:
    host = check(
        "exit", make_work(160), threads=100, threads_after_raising=1000, files=(9999, 9999)
    )
    assert host.raised == [(resource.RLIMIT_NPROC, (9999, 9999))]


def test_every_pager_of_the_run_is_checked(check: Callable[..., FakeHost]) -> None:
    with pytest.raises(HostError) as caught:
        check("none exit uffd,readers=100", threads=60)
    assert caught.value.what == "uffd,readers=100"


def test_memory_that_cannot_all_be_mapped_is_refused(check: Callable[..., FakeHost]) -> None:
    sparse = make_work(160, 4 * GIB, touch_pages=23)
    with pytest.raises(HostError, match=r"640G have to be mapped, the address space limit"):
        check(work=sparse, address_space_bytes=64 * GIB)
    commit = {"CommitLimit": 700 * GIB, "Committed_AS": 100 * GIB}
    check(work=sparse, overcommit=0, commit=commit)
    with pytest.raises(HostError, match=r"vm\.overcommit_memory=2 leaves") as caught:
        check(work=sparse, overcommit=2, commit=commit)
    assert "sysctl vm.overcommit_memory=0" in caught.value.remedy


def test_a_pager_asks_the_kernel_for_what_it_needs_before_the_run(
    check: Callable[..., FakeHost],
) -> None:
    assert check("none").asked == []
    assert check("none uffd exit").asked == ["uffd", "uffd"]


def test_readers_need_memory_of_their_own() -> None:
    work = make_work()
    more = needed_bytes(work, shadow=False, readers=23) - needed_bytes(work, shadow=False)
    assert more == 23 * 64 * 1024


@pytest.mark.parametrize("limits_now", [(resource.RLIM_INFINITY, resource.RLIM_INFINITY), (23, 23)])
def test_a_file_limit_that_is_enough_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, limits_now: tuple[int, int]
) -> None:
    monkeypatch.setattr(needs.resource, "getrlimit", lambda _: limits_now)
    monkeypatch.setattr(needs.resource, "setrlimit", lambda *_: pytest.fail("raised"))
    raise_file_limit(23, "exit")


def test_an_unlimited_hard_limit_allows_any_soft_one(monkeypatch: pytest.MonkeyPatch) -> None:
    raised = []
    monkeypatch.setattr(needs.resource, "getrlimit", lambda _: (23, resource.RLIM_INFINITY))
    monkeypatch.setattr(needs.resource, "setrlimit", lambda *values: raised.append(values))
    raise_file_limit(997, "exit")
    assert raised == [(resource.RLIMIT_NOFILE, (997, resource.RLIM_INFINITY))]


def plant(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def two_nodes(root: Path, *, mems: str = "0-1", free_kib: int = 1 << 20) -> Path:
    return plant(
        root,
        {
            "proc/self/status": f"Name:\tkvmpc\nMems_allowed_list:\t{mems}\n",
            "sys/devices/system/node/has_memory": "0-1\n",
            "sys/devices/system/node/node0/cpulist": "0-1\n",
            "sys/devices/system/node/node1/cpulist": "2-3\n",
            "sys/devices/system/node/node1/meminfo": (
                f"Node 1 MemTotal: 9999999 kB\nNode 1 MemFree: {free_kib} kB\n"
                "Node 1 Active(file): 10 kB\nNode 1 Inactive(file): 20 kB\n"
                "Node 1 SReclaimable: 10 kB\n"
            ),
        },
    )


# Where it is to be


def test_cpus_that_are_allowed_pass_and_change_nothing() -> None:
    text = ",".join(map(str, ALLOWED))
    check_placement(Placement(pin=True, cpus=text, reader_cpus=str(ALLOWED[-1])), PAGE_BYTES)
    assert sorted(os.sched_getaffinity(0)) == ALLOWED


@pytest.mark.parametrize("option", ["--cpus", "--reader-cpus"])
def test_a_cpu_that_is_not_to_be_had_is_refused_with_why_and_what_is_allowed(
    tmp_path: Path, option: str
) -> None:
    missing, off, elsewhere, forbidden = (ALLOWED[-1] + n for n in (4, 3, 2, 1))
    plant(
        tmp_path,
        {
            "sys/devices/system/cpu/present": f"0-{off}\n",
            "sys/devices/system/cpu/online": f"0-{elsewhere}\n",
            "proc/self/cgroup": "0::/job\n",
            "sys/fs/cgroup/job/cpuset.cpus.effective": f"0-{forbidden}\n",
        },
    )
    text = f"{ALLOWED[0]},{forbidden}-{missing}"
    placement = Placement(**{option.strip("-").replace("-", "_"): text})
    with pytest.raises(UsageError) as refused:
        check_placement(placement, PAGE_BYTES, tmp_path)
    said = str(refused.value)
    assert refused.value.option == option
    assert refused.value.given == text
    assert f"{missing}: not in this machine" in said
    assert f"{off}: offline" in said
    assert f"{elsewhere}: outside this process's cpuset" in said
    assert f"{forbidden}: outside this process's affinity" in said


def test_a_cpu_of_another_machine_is_refused_here() -> None:
    with pytest.raises(UsageError, match="8191: not in this machine"):
        check_placement(Placement(cpus="8191"), PAGE_BYTES)


@pytest.mark.parametrize("numa", ["local", "interleave", "node=0"])
def test_a_kernel_without_numa_is_a_host_that_cannot(tmp_path: Path, numa: str) -> None:
    with pytest.raises(HostError, match="no NUMA nodes") as refused:
        check_placement(Placement(numa=numa), PAGE_BYTES, tmp_path)
    assert "CONFIG_NUMA" in refused.value.remedy


@pytest.mark.parametrize(("mems", "listed"), [("0-1", "0-1"), ("0", "0")])
def test_a_node_that_is_not_to_be_had_is_refused_with_those_that_are(
    tmp_path: Path, mems: str, listed: str
) -> None:
    node = 1 if mems == "0" else 2
    with pytest.raises(UsageError) as refused:
        check_placement(Placement(numa=f"node={node}"), PAGE_BYTES, two_nodes(tmp_path, mems=mems))
    assert refused.value.option == "--numa"
    assert refused.value.given == f"node={node}"
    assert refused.value.allowed.endswith(f": {listed}")


def test_a_node_without_room_is_a_host_that_cannot(tmp_path: Path) -> None:
    # Half of what would have to be dropped first counts: 20 KiB.
    two_nodes(tmp_path, free_kib=72)
    with pytest.raises(HostError, match="on node 1"):
        check_placement(Placement(numa="node=1"), 24 * PAGE_BYTES, tmp_path)


@pytest.mark.skipif(not NODES, reason="this kernel has no NUMA nodes")
@pytest.mark.parametrize("numa", ["local", "interleave", f"node={NODES[0] if NODES else 0}"])
def test_a_policy_that_can_be_had_passes(numa: str) -> None:
    check_placement(Placement(numa=numa), PAGE_BYTES)


def test_a_host_without_the_latency_device_cannot(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="ENOENT") as refused:
        check_placement(Placement(cpu_latency_us=0), PAGE_BYTES, tmp_path)
    assert "CONFIG_CPU_IDLE" in refused.value.remedy
