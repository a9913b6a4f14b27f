"""What a run needs of a host, and what is said where the host has less."""

from __future__ import annotations

import bisect
import os
import re
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kvmpc.errors import HostError, UsageError
from kvmpc.host.headroom import Limit
from kvmpc.host.numa import usable_nodes
from kvmpc.kernel.threads import STACK_BYTES
from kvmpc.pagers import Pager, parse_pager
from kvmpc.run import needs
from kvmpc.run.needs import (
    check_placement,
    check_room,
    mapped_bytes,
    needed_bytes,
    raise_file_limit,
    what_cannot_run,
)
from kvmpc.run.plan import make_plan
from kvmpc.units import GIB, MIB, PAGE_BYTES
from kvmpc.work.layout import Layout
from kvmpc.work.placement import Placement
from kvmpc.work.work import Work
from tests.fakes.trees import plant

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


LIMITED = ("memory", "address", "threads", "mappings", "files")


@dataclass
class FakeHost:
    """A host with room for everything, unless a test takes some of it."""

    max_vcpus: int = 1024
    address_bits: int = 46
    memory: int = 1 << 50
    address: int | None = None
    threads: int | None = 10**6
    mappings: int | None = 10**6
    files: int | None = 10**6
    paging: str | None = "npt"

    def limits(self, name: str) -> list[Limit]:
        """Return one limit of `name`, none where the host does not tell."""
        left = getattr(self, name)
        return [] if left is None else [Limit(f"the limit of {name}", left, f"raise {name}")]


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
        for name in LIMITED:
            kind = {"memory": "memory", "address": "address"}.get(name, name[:-1])
            monkeypatch.setattr(needs, f"{kind}_limits", partial(fake.limits, name))
        monkeypatch.setattr(needs, "second_level_paging", lambda: fake.paging)
        pagers = [parse_pager(spec) for spec in specs.split()]
        check_room(FakeKvm(fake), work or make_work(), pagers)  # type: ignore[arg-type]
        return fake

    return check


@pytest.fixture(autouse=True)
def limits_as_they_were() -> Iterator[None]:
    """Put back the limits that a check raised."""
    kinds = (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC)
    before = {kind: resource.getrlimit(kind) for kind in kinds}
    yield
    for kind, limits in before.items():
        resource.setrlimit(kind, limits)


def test_a_host_with_room_for_it_takes_any_pager(check: Callable[..., FakeHost]) -> None:
    check()


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
            {"memory": 3 * GIB},
            "--vcpus 3 --mem-per-vcpu 1G",
            "needs 3085 MiB with page tables; the limit of memory leaves 3072 MiB",
            "raise memory; or use less --mem-per-vcpu, fewer --vcpus, or --touch-pages",
        ),
        (
            "exit",
            make_work(160, 4 * GIB, touch_pages=1),
            {"memory": GIB, "paging": "shadow"},
            "--vcpus 160 --mem-per-vcpu 4G",
            "the limit of memory leaves 1024 MiB",
            "--touch-pages",
        ),
        (
            "exit",
            make_work(160, 4 * GIB, touch_pages=23),
            {"address": 640 * GIB},
            "--vcpus 160 --mem-per-vcpu 4G",
            "of address space, touched or not; the limit of address leaves 655360 MiB",
            "raise address; or use less --mem-per-vcpu",
        ),
        (
            "exit,uffds=per-vcpu",
            make_work(160),
            {"files": 351},
            "exit(sigbus),uffds=per-vcpu",
            "needs 352 more open files; the limit of files leaves 351",
            "raise files; or use fewer vCPUs or uffds",
        ),
        (
            "uffd,readers=2",
            make_work(160),
            {"threads": 177},
            "uffd,readers=2",
            "needs 178 threads (162 of its own, 16 spare); the limit of threads leaves 177",
            "raise threads; or use fewer vCPUs or readers",
        ),
        (
            "uffd",
            make_work(160),
            {"mappings": 1154},
            "uffd",
            "needs 1155 more memory mappings; the limit of mappings leaves 1154",
            "raise mappings",
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
    check(work=make_work(160, 4 * GIB, touch_pages=512), memory=2 * GIB)


@pytest.mark.parametrize("unknown", ["threads", "mappings", "files", "address"])
def test_a_limit_that_cannot_be_read_stops_nobody(
    check: Callable[..., FakeHost], unknown: str
) -> None:
    check(**{unknown: None})


@pytest.mark.parametrize(
    ("has", "numbers"),
    [
        ({"threads": 0}, r"needs (\d+) threads .*leaves (\d+)$"),
        ({"threads": 18}, r"needs (\d+) threads .*leaves (\d+)$"),
        ({"files": 35}, r"needs (\d+) more open files; .*leaves (\d+)$"),
        ({"mappings": 524}, r"needs (\d+) more memory mappings; .*leaves (\d+)$"),
        ({"memory": MIB}, r"needs (\d+) MiB .*leaves (\d+) MiB$"),
        ({"memory": 12_304_383}, r"needs (\d+) MiB .*leaves (\d+) MiB$"),
        ({"address": 40 * MIB}, r"needs (\d+) MiB .*leaves (\d+) MiB$"),
    ],
)
def test_what_is_told_to_be_needed_is_more_than_what_is_told_to_be_left(
    check: Callable[..., FakeHost], has: dict[str, int], numbers: str
) -> None:
    with pytest.raises(HostError) as caught:
        check("uffd", **has)
    told = re.search(numbers, caught.value.reason)
    assert told is not None, caught.value.reason
    assert int(told[1]) > int(told[2])


@pytest.mark.parametrize("specs", ["none", "uffd", "exit", "uffd,readers=23"])
@pytest.mark.parametrize("name", ["threads", "files", "mappings", "memory", "address"])
def test_one_less_than_what_is_enough_is_refused(
    check: Callable[..., FakeHost], specs: str, name: str
) -> None:
    def enough(left: int) -> bool:
        try:
            check(specs, **{name: left})
        except HostError:
            return False
        return True

    least = bisect.bisect_left(range(GIB), True, key=enough)
    assert not enough(least - 1)
    assert enough(least)
    with pytest.raises(HostError) as caught:
        check(specs, **{name: least - 1})
    if name not in ("memory", "address"):
        assert f"needs {least} " in caught.value.reason
        assert caught.value.reason.endswith(f"leaves {least - 1}")


def test_every_pager_of_the_run_is_checked(check: Callable[..., FakeHost]) -> None:
    with pytest.raises(HostError) as caught:
        check("none exit uffd,readers=100", threads=60)
    assert caught.value.what == "uffd,readers=100"


def test_stacks_of_all_threads_are_counted_for_the_address_space() -> None:
    work = make_work()
    more = mapped_bytes(work, readers=23) - mapped_bytes(work, readers=0)
    assert more >= 23 * STACK_BYTES


def test_readers_need_memory_of_their_own() -> None:
    work = make_work()
    more = needed_bytes(work, shadow=False, readers=23) - needed_bytes(work, shadow=False)
    assert more == 23 * 64 * 1024


@pytest.mark.parametrize(("soft", "more"), [(400, 23), (400, 500)])
def test_the_soft_limit_of_open_files_is_raised_to_what_is_needed_and_never_lowered(
    soft: int, more: int
) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    raise_file_limit(more, "exit")
    now, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if more < soft - 100:
        assert now == soft
    assert now >= more + len(os.listdir("/proc/self/fd"))


# Rehearsals


def test_a_sweep_rehearses_each_kind_of_trial_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rehearsed: list[tuple[Work, str]] = []

    def rehearse(_: object, work: Work, pager: Pager, __: object) -> None:
        rehearsed.append((work, pager.spec))
        if pager.spec == "uffd,readers=2":
            raise HostError("epoll_pwait2", "not offered", "use readers=1")

    asked: list[str] = []
    monkeypatch.setattr(needs, "check_needs", lambda pagers: asked.append(pagers[0].spec))
    monkeypatch.setattr(needs, "check_room", lambda *_: None)
    monkeypatch.setattr(needs, "rehearse", rehearse)
    axes = {"vcpus": [1, 2, 3], "mem_per_vcpu": ["4M", "8M"], "seed": [1, 2], "passes": [1, 5, 7]}
    plan = make_plan(axes, ["uffd", "uffd,readers=2-4"], rounds=1, warmup=0, watchdog_s=10.0)
    skipped, first = what_cannot_run(None, plan)  # type: ignore[arg-type]
    assert asked == ["uffd", "uffd,readers=2", "uffd,readers=3", "uffd,readers=4"]
    # One pass, and several; one reader, and several.
    assert len(rehearsed) == len(set(rehearsed)) == 4
    assert {work.vcpus for work, _ in rehearsed} == {1}
    assert len(skipped) == 3 * len(plan.points)
    assert {skip.reason.partition(":")[0] for skip in skipped} == {
        f"uffd,readers={readers} needs epoll_pwait2" for readers in (2, 3, 4)
    }
    assert first is not None


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
