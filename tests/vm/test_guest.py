"""Where the guest is put: page tables walked as the CPU walks them, histogram, trap reports."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from kvmpc.errors import HostError
from kvmpc.result.histogram import bucket_bounds
from kvmpc.units import GIB, MIB, PAGE_BYTES
from kvmpc.vm import guest
from kvmpc.vm.memory import DATA_GPA
from kvmpc.vm.record import HISTOGRAM_BUCKETS, HISTOGRAM_LIMIT
from kvmpc.vm.x86 import GuestPlan, describe_trap, plan_guest
from kvmpc.work.work import Work

TABLES_GPA = 0x3000
PRESENT, WRITE, USER, ACCESSED, DIRTY, LARGE = 1, 2, 4, 1 << 5, 1 << 6, 1 << 7
ADDRESS = 0x000F_FFFF_FFFF_F000


def walk(tables: bytes, gva: int) -> tuple[int, int] | None:
    """Return (gpa, bytes of the leaf) of a 4-level walk from CR3 = TABLES_GPA, None for a fault.

    Source: Intel SDM vol. 3A 4.5 (PML4E, PDPTE, PDE).
    """
    table_gpa = TABLES_GPA
    for shift in (39, 30, 21):
        offset = table_gpa - TABLES_GPA + (gva >> shift & 511) * 8
        if not 0 <= offset < len(tables):
            raise AssertionError(f"a table at {table_gpa:#x} is outside the tables")
        (entry,) = struct.unpack_from("<Q", tables, offset)
        if not entry & PRESENT:
            return None
        # The guest runs in ring 3 and writes; A and D set ahead save the CPU from doing it.
        assert entry & (WRITE | USER | ACCESSED) == WRITE | USER | ACCESSED
        assert not entry >> 52
        if entry & LARGE:
            assert entry & DIRTY
            assert shift in (30, 21)
            leaf_bytes = 1 << shift
            base = entry & ADDRESS
            assert base % leaf_bytes == 0
            return base + gva % leaf_bytes, leaf_bytes
        table_gpa = entry & ADDRESS
    raise AssertionError("no leaf")


SIZES = [
    PAGE_BYTES,
    23 * PAGE_BYTES,
    2 * MIB,
    997 * PAGE_BYTES,
    GIB - PAGE_BYTES,
    GIB,
    GIB + PAGE_BYTES,
    60 * GIB,
    508 * GIB,  # with what lies below it exactly what one level-3 table maps
    508 * GIB + PAGE_BYTES,
    640 * GIB,
    4000 * GIB,
]


@pytest.mark.parametrize(
    ("data_bytes", "leaf_bytes"),
    [*((size, GIB) for size in SIZES), *((size, 2 * MIB) for size in SIZES if size <= 640 * GIB)],
)
def test_every_address_maps_to_itself(data_bytes: int, leaf_bytes: int) -> None:
    plan = GuestPlan(vcpus=160, data_bytes=data_bytes, leaf_bytes=leaf_bytes)
    tables = plan.page_tables()
    assert len(tables) == plan.table_pages * PAGE_BYTES
    end = DATA_GPA + data_bytes
    gvas = {0, 0x1000, 0x2000, TABLES_GPA, plan.vcpu_page_gpa(0), plan.low_bytes - 1}
    gvas |= {DATA_GPA, DATA_GPA + PAGE_BYTES - 1, DATA_GPA + data_bytes // 2, end - 1}
    gvas |= set(range(DATA_GPA, end, 37 * GIB + 23 * PAGE_BYTES))
    gvas |= {gib * GIB + delta for gib in (511, 512, 513) for delta in (-1, 0, 1)}
    for gva in gvas:
        if gva < end:
            assert walk(tables, gva) == (gva, leaf_bytes)


@pytest.mark.parametrize("leaf_bytes", [GIB, 2 * MIB])
def test_an_address_beyond_the_guests_memory_is_not_mapped(leaf_bytes: int) -> None:
    tables = GuestPlan(vcpus=1, data_bytes=23 * PAGE_BYTES, leaf_bytes=leaf_bytes).page_tables()
    for gva in (5 * GIB, 6 * GIB, 512 * GIB, 1 << 46):
        assert walk(tables, gva) is None


@pytest.mark.parametrize("leaf_bytes", [GIB, 2 * MIB])
@pytest.mark.parametrize("vcpus", [1, 3, 160, 1024])
def test_tables_and_vcpu_pages_lie_side_by_side_in_the_low_slot(
    vcpus: int, leaf_bytes: int
) -> None:
    plan = GuestPlan(vcpus, vcpus * 997 * PAGE_BYTES, leaf_bytes)
    assert plan.vcpu_page_gpa(0) == TABLES_GPA + len(plan.page_tables())
    pages = [plan.vcpu_page_gpa(vcpu) for vcpu in range(vcpus)]
    assert pages == list(range(pages[0], plan.low_bytes, PAGE_BYTES))
    assert plan.low_bytes < DATA_GPA


class FakeCpuid:
    """What a vCPU may be given on some host."""

    def __init__(self, bits: int, *, has_1g_pages: bool = True) -> None:
        self.physical_address_bits = bits
        self.has_1g_pages = has_1g_pages


def plan(gib: int, bits: int, **options: Any) -> GuestPlan:
    """Plan a guest of `gib` GiB."""
    work = Work(vcpus=1, mem_per_vcpu_bytes=gib * GIB)
    return plan_guest(work, FakeCpuid(bits, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", [36, 40, 46])
def test_a_guest_fits_up_to_the_physical_address_width_and_no_further(bits: int) -> None:
    most_gib = (1 << bits) // GIB - DATA_GPA // GIB
    assert plan(most_gib, bits).data_bytes == most_gib * GIB
    with pytest.raises(HostError, match=f"the {bits} physical address bits") as caught:
        plan(most_gib + 1, bits)
    assert "--mem-per-vcpu" in caught.value.remedy


def test_no_guest_reaches_the_half_of_addresses_that_is_not_canonical() -> None:
    with pytest.raises(HostError):
        plan((1 << 47) // GIB, 52)


def test_guest_pages_are_as_large_as_cpuid_allows() -> None:
    assert plan(1, 46).leaf_bytes == GIB
    assert plan(1, 46, has_1g_pages=False).leaf_bytes == 2 * MIB


def test_the_histograms_buckets_cover_every_duration_once() -> None:
    expected = 0
    for bucket in range(HISTOGRAM_BUCKETS):
        lowest, highest = bucket_bounds(bucket)
        assert lowest == expected
        assert highest >= lowest
        expected = highest + 1
    assert expected == HISTOGRAM_LIMIT + 1


def test_no_bucket_is_wider_than_a_sixteenth_of_its_durations() -> None:
    for bucket in range(HISTOGRAM_BUCKETS):
        lowest, highest = bucket_bounds(bucket)
        assert (highest - lowest) * 16 <= lowest


def _bucket_as_the_guest_does(cycles: int) -> int:
    """Return the bucket that touch.asm counts a duration in."""
    if cycles < 32:
        return cycles
    shift = cycles.bit_length() - 1 - 4
    return (cycles >> shift) + (shift << 4)


@pytest.mark.parametrize("cycles", [0, 1, 31, 32, 33, 63, 64, 997, 12345, 10**9, (1 << 40) - 1])
def test_a_duration_lies_in_the_bucket_that_the_guest_counts_it_in(cycles: int) -> None:
    lowest, highest = bucket_bounds(_bucket_as_the_guest_does(cycles))
    assert lowest <= cycles <= highest


def _stack(vector: int, *frame: int) -> tuple[int, ...]:
    # The return address of the vector's `call trap` in the exception table.
    return (0x2000 + (vector + 1) * 5, *frame)


@pytest.mark.parametrize(
    ("stack", "event", "rip"),
    [
        (_stack(14, 6, 0x2123, 0x1B, 2), "#PF page fault in the guest, error code 0x6", 0x2123),
        (_stack(6, 0x2100, 0x1B, 2), "#UD invalid opcode in the guest", 0x2100),
        (_stack(13, 0, 0x2101), "#GP general protection in the guest, error code 0x0", 0x2101),
        (_stack(8, 0, 0x2102), "#DF double fault in the guest, error code 0x0", 0x2102),
        (_stack(19, 0x2103, 0x1B, 2), "vector 19 in the guest", 0x2103),
        (_stack(31, 0x2104, 0x1B, 2), "vector 31 in the guest", 0x2104),
    ],
)
def test_an_exceptions_stack_tells_vector_error_code_and_rip(
    stack: tuple[int, ...], event: str, rip: int
) -> None:
    assert describe_trap(stack, 0xABC) == f"exception {event}, rip {rip:#x}, cr2 0xabc"


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("write", [False, True])
def test_every_form_of_the_program_fits_its_page_behind_the_exception_table(
    write: bool, timed: bool, checked: bool
) -> None:
    program = guest.assemble_guest(write=write, timed=timed, checked=checked)
    assert program.labels["exception_table"] == 0
    assert program.labels["touch"] == 32 * 5
    assert len(program.code) <= PAGE_BYTES
