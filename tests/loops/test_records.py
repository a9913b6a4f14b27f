"""The records: where the kernel's structures lie in them, and which memory they lie in."""

from __future__ import annotations

import ctypes

import pytest

from kvmpc.abi import clock, epoll, poll
from kvmpc.abi import userfaultfd as uffd_abi
from kvmpc.loops.records import (
    FILL_FIELDS,
    INSPECT_FIELDS,
    PENDING_FIELDS,
    READER_FIELDS,
    RESOLVER_FIELDS,
    SHARED_FIELDS,
    VCPU_FIELDS,
    FieldSpec,
    FillRecord,
    PendingRecord,
    ReaderRecord,
    RecordArray,
    ResolverRecord,
    SharedRecord,
    VcpuRecord,
)
from kvmpc.units import PAGE_BYTES

LINE_BYTES = 128


@pytest.mark.parametrize(
    ("record", "first", "structure", "names"),
    [
        (ResolverRecord, "sec", clock.timespec, "sec nsec"),
        (SharedRecord, "sec", clock.timespec, "sec nsec"),
        (
            ResolverRecord,
            "copy_dst",
            uffd_abi.uffdio_copy,
            "copy_dst copy_src copy_len copy_mode copy_copy",
        ),
        (ResolverRecord, "range_start", uffd_abi.uffdio_range, "range_start range_len"),
        (ReaderRecord, "poll_fd", poll.pollfd, "poll_fd poll_events"),
    ],
)
def test_a_structure_for_the_kernel_lies_in_a_record_as_the_header_has_it(
    record: type[ctypes.Structure], first: str, structure: type[ctypes.Structure], names: str
) -> None:
    base = getattr(record, first).offset
    kernels = [getattr(structure, name).offset for name, *_ in structure._fields_]
    ours = [getattr(record, name).offset - base for name in names.split()]
    assert ours == kernels[: len(ours)]
    last = names.split()[-1]
    end = getattr(record, last).offset + getattr(record, last).size
    assert end - base == ctypes.sizeof(structure)


def test_the_kernel_has_room_for_the_event_it_writes() -> None:
    room = ReaderRecord.epoll_data.offset + 8 - ReaderRecord.epoll_event.offset
    assert room >= ctypes.sizeof(epoll.epoll_event)


@pytest.mark.parametrize("name", ["waiters", "parked"])
def test_what_threads_count_in_shares_no_cache_line_with_the_gate(name: str) -> None:
    line = getattr(SharedRecord, name).offset // LINE_BYTES
    assert line != SharedRecord.gate.offset // LINE_BYTES


@pytest.mark.parametrize(
    "fields",
    [
        *(FILL_FIELDS, INSPECT_FIELDS, PENDING_FIELDS),
        *(READER_FIELDS, RESOLVER_FIELDS, SHARED_FIELDS, VCPU_FIELDS),
    ],
)
def test_every_field_says_its_unit_who_writes_it_and_what_it_means(
    fields: tuple[FieldSpec, ...],
) -> None:
    assert len({field.name for field in fields}) == len(fields)
    for field in fields:
        assert field.unit, field.name
        assert field.use in ("in", "out", "scratch", "count", "peak"), field.name
        assert field.meaning, field.name


@pytest.mark.parametrize("kind", [FillRecord, ReaderRecord, SharedRecord, VcpuRecord])
def test_no_two_records_of_an_array_share_a_cache_line(kind: type[ctypes.Structure]) -> None:
    with RecordArray(kind, 23) as array:
        addresses = [ctypes.addressof(record) for record in array.records]
        assert all(address % LINE_BYTES == 0 for address in addresses)
        lines = [
            {(address + byte) // LINE_BYTES for byte in range(ctypes.sizeof(kind))}
            for address in addresses
        ]
        assert len(set.union(*lines)) == sum(map(len, lines))


@pytest.mark.parametrize("tail_bytes", [1, PAGE_BYTES, PAGE_BYTES + 512 + 128])
def test_a_tail_is_a_page_of_its_own_behind_its_record(tail_bytes: int) -> None:
    with RecordArray(VcpuRecord, 5, tail_bytes=tail_bytes) as array:
        assert all(tail % PAGE_BYTES == 0 for tail in array.tails)
        for index, tail in enumerate(array.tails):
            ctypes.memset(tail, 0xFF, tail_bytes)
            assert not any(bytes(array.records[index])), "its own record"
        assert not any(any(bytes(record)) for record in array.records)


def test_an_array_may_be_empty() -> None:
    with RecordArray(PendingRecord, 0) as array:
        assert (array.records, array.tails) == ([], [])
