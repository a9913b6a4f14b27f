"""From a page's stamps to where its fault's time went; on memory that no guest touched."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from kvmpc.errors import UsageError
from kvmpc.kernel import syscalls
from kvmpc.loops.stamps import STAMPS
from kvmpc.pagers import parse_pager
from kvmpc.trial import split
from kvmpc.trial.outcome import Finding
from kvmpc.trial.split import extents, latency_split
from kvmpc.units import PAGE_BYTES
from kvmpc.work.layout import Layout
from kvmpc.work.work import Work

KHZ = 2_000_000.0
"""Two cycles to a nanosecond."""

Split = Callable[..., Finding]


def layout_of(**options: Any) -> Layout:
    """Return the layout of 3 vCPUs with 23 pages each, or as `options` say."""
    defaults = {"vcpus": 3, "mem_per_vcpu_bytes": 23 * PAGE_BYTES, "split": True}
    return Layout(Work(**(defaults | options)))


class FakeMemory:
    """Memory whose pages carry stamps."""

    def __init__(self, pages: int) -> None:
        self.mapping = syscalls.Mapping.anonymous(pages * PAGE_BYTES, what="pages")

    def hva_of_page(self, page: int) -> int:
        """Return where `page` is."""
        return self.mapping.address + page * PAGE_BYTES

    def stamp(self, page: int, **cycles: int) -> None:
        """Write stamps, named as in `STAMPS` without the prefix, in lower case."""
        for name, value in cycles.items():
            address = self.hva_of_page(page) + STAMPS[f"STAMP_{name.upper()}"]
            ctypes.c_uint64.from_address(address).value = value


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeMemory]:
    """69 pages, each with a touch at 1000: noticed after 20 cycles a page, then 400, 600, 800."""
    monkeypatch.setattr(split, "host_cycles_per_ns", lambda: KHZ / 1e6)
    made = FakeMemory(69)
    for page in range(69):
        claimed = 1000 + 20 * page
        made.stamp(
            page, touched=1000, claimed=claimed, fetched=claimed + 400, install=claimed + 410,
            installed=claimed + 1010, back=claimed + 1810,
        )  # fmt: skip
    yield made
    made.mapping.close()


@pytest.fixture
def measured(memory: FakeMemory) -> Split:
    """Split the latency of the 69 pages."""

    def measured(spec: str = "exit", **options: Any) -> Finding:
        known = {"tsc_khz": KHZ, "tsc_shared": True}
        given = {key: options.pop(key, value) for key, value in known.items()}
        return latency_split(
            memory,  # type: ignore[arg-type]
            layout_of(**options),
            parse_pager(spec),
            **given,
        )

    return measured


def test_each_part_is_the_time_between_two_stamps_of_one_page(measured: Split) -> None:
    found = measured(fetch_delay_ns=200)
    assert found.cautions == ()
    assert found.metrics == {
        # Of 69 pages in order the 35th, and the 69th: nearest rank.
        "noticed_p50_ns": 34 * 10,
        "noticed_p99_ns": 68 * 10,
        "fetch_p50_ns": 200,
        "fetch_p99_ns": 200,
        "install_p50_ns": 300,
        "install_p99_ns": 300,
        "back_p50_ns": 400,
        "back_p99_ns": 400,
        "install_back_p50_ns": 700,
        "install_back_p99_ns": 700,
    }


def test_a_fetch_that_was_not_simulated_is_absent(measured: Split) -> None:
    assert not [name for name in measured().metrics if name.startswith("fetch")]


def test_a_vcpu_that_is_woken_before_the_install_returns_has_no_way_back_of_its_own(
    measured: Split,
) -> None:
    metrics = measured("uffd").metrics
    assert not [name for name in metrics if name.startswith("back")]
    assert metrics["install_back_p50_ns"] == 700


def test_where_nothing_is_fetched_or_nobody_asked_nothing_is_split(measured: Split) -> None:
    assert measured("none") == Finding()
    assert measured(split=False) == Finding()


@pytest.mark.parametrize("options", [{"tsc_shared": False}, {"tsc_khz": KHZ * 1.02}])
def test_without_one_tsc_all_parts_are_absent_with_the_reason(
    measured: Split, options: dict[str, Any]
) -> None:
    found = measured(**options)
    (caution,) = found.cautions
    assert found.metrics == {}
    assert caution.code == "split-clock"


def test_a_page_whose_stamps_go_back_in_time_is_counted_and_ends_the_split(
    memory: FakeMemory, measured: Split
) -> None:
    memory.stamp(7, claimed=999, installed=5)
    found = measured()
    (caution,) = found.cautions
    assert found.metrics == {}
    assert caution.text == "1 of 69 pages have stamps that go back in time"


def test_of_very_many_pages_a_few_that_go_back_in_time_are_told_and_not_clamped(
    memory: FakeMemory, measured: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split, "_MAX_DISORDER", 0.02)
    for page in range(69):
        memory.stamp(page, claimed=2000)
    memory.stamp(7, claimed=500)
    found = measured()
    (caution,) = found.cautions
    assert caution.code == "split-order"
    assert found.metrics["noticed_p50_ns"] == 500


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mem_per_vcpu_bytes": 997 * PAGE_BYTES},
        {"mem_per_vcpu_bytes": 997 * PAGE_BYTES, "touch_pages": 101},
        {"mem_per_vcpu_bytes": 997 * PAGE_BYTES, "touch_pages": 7},
        {"touch_pages": 1},
        {"mem_per_vcpu_bytes": PAGE_BYTES},
    ],
)
def test_exactly_the_touched_pages_are_read_each_once(options: dict[str, Any]) -> None:
    layout = layout_of(**options)
    read = [page + i for page, count in extents(layout) for i in range(count)]
    part = layout.work.pages_per_part
    expected = [
        first * part + page
        for first in range(3)
        for page, touched in enumerate(layout.expected_part)
        if touched
    ]
    assert sorted(read) == expected


@pytest.fixture
def pages_read(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], list[int]]:
    """Split parts of so many pages, `most` of all in all; return the first page of each read."""

    def pages_read(part_pages: int, most: int) -> list[int]:
        read: list[int] = []

        def content(address: int, size: int) -> bytes:
            read.append(address // PAGE_BYTES)
            return bytes(size)

        monkeypatch.setattr(split, "MAX_PAGES", most)
        monkeypatch.setattr(split, "host_cycles_per_ns", lambda: KHZ / 1e6)
        monkeypatch.setattr(split.syscalls, "read_own_memory", content)
        memory = SimpleNamespace(hva_of_page=lambda page: page * PAGE_BYTES)
        found = latency_split(
            memory,  # type: ignore[arg-type]
            layout_of(mem_per_vcpu_bytes=part_pages * PAGE_BYTES),
            parse_pager("exit"),
            tsc_khz=KHZ,
            tsc_shared=True,
        )
        assert found.metrics["noticed_p50_ns"] == 0
        return read

    return pages_read


def test_of_a_large_guest_pages_from_all_over_it_are_read(
    pages_read: Callable[[int, int], list[int]],
) -> None:
    read = pages_read(5120, 5000)
    assert len(read) * 512 <= 5000
    assert {page // 5120 for page in read} == {0, 1, 2}


def test_the_sample_of_a_large_guest_is_not_in_step_with_its_parts(
    pages_read: Callable[[int, int], list[int]],
) -> None:
    read = pages_read(4096, 3 * 4096 // 8)  # an 8th, and a part has 8 pieces
    assert len({page % 4096 for page in read}) == len(read) == 3


@pytest.mark.parametrize("options", [{"overlap": True}, {"timed": False}])
def test_a_split_needs_a_timed_fault_of_every_touch(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--split"):
        layout_of(**options)
