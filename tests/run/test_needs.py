"""What a run needs of a host, and what is said where the host has less."""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from kvmpc.errors import HostError
from kvmpc.pagers import parse_pager
from kvmpc.pagers.shares import UffdPagerBase
from kvmpc.run import needs as limits
from kvmpc.run.needs import check_run, needed_bytes, raise_file_limit
from kvmpc.units import GIB, MIB, PAGE_BYTES
from kvmpc.work.work import Work


def make_work(vcpus: int = 3, mem_bytes: int = 997 * PAGE_BYTES, **options: Any) -> Work:
    """Make work of 3 vCPUs of 997 pages but for what is given."""
    return Work(vcpus=vcpus, mem_per_vcpu_bytes=mem_bytes, **options)


@pytest.mark.parametrize("shadow", [False, True])
def test_more_vcpus_need_more(shadow: bool) -> None:
    needs = [needed_bytes(make_work(vcpus), shadow=shadow) for vcpus in range(1, 1025, 11)]
    assert needs == sorted(set(needs))


@pytest.mark.parametrize("shadow", [False, True])
@pytest.mark.parametrize("touch_pages", [None, 23, 512])
def test_more_memory_needs_more(touch_pages: int | None, shadow: bool) -> None:
    needs = [
        needed_bytes(
            make_work(mem_bytes=size * 512 * PAGE_BYTES, touch_pages=touch_pages), shadow=shadow
        )
        for size in (1, 2, 3, 23, 997, 2048)
    ]
    assert needs == sorted(set(needs))


@pytest.mark.parametrize("pages", [[1, 2, 23, 510, 511], [512, 513, 997, 9973, 1 << 20]])
def test_more_touched_pages_need_more(pages: list[int]) -> None:
    # Single pages and runs of 2 MiB: 511 pages spread one by one need more tables than 512.
    needs = [
        needed_bytes(make_work(mem_bytes=4 * GIB, touch_pages=touch), shadow=False)
        for touch in pages
    ]
    assert needs == sorted(set(needs))


@pytest.mark.parametrize("touch_pages", [None, 1, 23, 511, 512, 513, 997])
def test_touched_pages_tables_and_bitmaps_are_counted_for(touch_pages: int | None) -> None:
    work = make_work(mem_bytes=1031 * PAGE_BYTES, touch_pages=touch_pages)
    needed = needed_bytes(work, shadow=False)
    regions = len({page // 512 for page, byte in enumerate(_expected(work)) if byte})
    assert needed >= (work.expected_pages + 2 * 3 * regions) * PAGE_BYTES + 2 * 3 * 1031 // 8
    assert needed_bytes(work, shadow=True) >= needed


def _expected(work: Work) -> bytes:
    return limits.Layout(work).expected_part


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

        monkeypatch.setattr(limits, "memory_available_bytes", lambda: fake.memory_bytes)
        monkeypatch.setattr(limits, "thread_headroom", lambda: fake.threads)
        monkeypatch.setattr(limits, "second_level_paging", lambda: fake.paging)
        monkeypatch.setattr(
            limits,
            "read_int",
            lambda path: fake.overcommit if path.name == "overcommit_memory" else fake.mappings,
        )
        monkeypatch.setattr(
            limits.resource,
            "getrlimit",
            lambda which: (
                (fake.address_space_bytes, resource.RLIM_INFINITY)
                if which == resource.RLIMIT_AS
                else fake.files
            ),
        )
        monkeypatch.setattr(limits, "read_meminfo_bytes", lambda _: fake.commit)
        monkeypatch.setattr(UffdPagerBase, "check_host", lambda *_: fake.asked.append("uffd"))
        monkeypatch.setattr(limits.resource, "setrlimit", setrlimit)
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
    monkeypatch.setattr(limits.resource, "getrlimit", lambda _: limits_now)
    monkeypatch.setattr(limits.resource, "setrlimit", lambda *_: pytest.fail("raised"))
    raise_file_limit(23, "exit")


def test_an_unlimited_hard_limit_allows_any_soft_one(monkeypatch: pytest.MonkeyPatch) -> None:
    raised = []
    monkeypatch.setattr(limits.resource, "getrlimit", lambda _: (23, resource.RLIM_INFINITY))
    monkeypatch.setattr(limits.resource, "setrlimit", lambda *values: raised.append(values))
    raise_file_limit(997, "exit")
    assert raised == [(resource.RLIMIT_NOFILE, (997, resource.RLIM_INFINITY))]
