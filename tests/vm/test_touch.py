"""The guest's program on a scripted processor: what it touches when, what it times and reports."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest

from kvmpc.assembler.assemble import Program
from kvmpc.loops.records import ADDRESS_REGISTER, WRITTEN_WORD
from kvmpc.loops.stamps import STAMPS
from kvmpc.result.histogram import bucket_bounds
from kvmpc.units import PAGE_BYTES
from kvmpc.vm.guest import DONE_PORT, READY_PORT, TRAP_PORT, assemble_guest
from kvmpc.vm.memory import DATA_GPA
from kvmpc.vm.record import HISTOGRAM_BUCKETS, HISTOGRAM_LIMIT, GuestRecord
from kvmpc.vm.x86 import RECORD_OFFSET
from kvmpc.work.layout import Layout
from kvmpc.work.tags import TagRule, tag_rule
from kvmpc.work.work import Work
from tests.fakes.scripted_cpu import Access, ScriptedCpu

VCPU_PAGE = 0x7000
RECORD = VCPU_PAGE + RECORD_OFFSET
STACK = VCPU_PAGE + PAGE_BYTES
TAGS = tag_rule(3)
GATE_CYCLES = 5_000_000_000_000
RECORD_CYCLES, PAGE_CYCLES = 3, 1000
"""What an access to the vCPU's own page costs, and one to a page that has come."""

JUNK = 0x5A5A_5A5A_5A5A_5A5A
WRITTEN_ONCE = (
    *("start_cycles", "end_cycles", "wrong_gpa", "wrong_first", "wrong_last"),
    *("changed_gpa", "changed_word", "trap_rsp", "trap_cr2"),
)

BUILDS = [
    dict(zip(("write", "timed", "checked", "passes", "split"), flags, strict=True))
    for flags in itertools.product([True, False], repeat=5)
    if flags[1] or not flags[4]
]
EACH_BUILD = pytest.mark.parametrize(
    "build", BUILDS, ids=lambda build: "+".join(name for name, on in build.items() if on) or "bare"
)
WORKS = {
    "sequential": Work(vcpus=2, mem_per_vcpu_bytes=7 * PAGE_BYTES),
    "scattered": Work(vcpus=2, mem_per_vcpu_bytes=11 * PAGE_BYTES, order="scattered"),
    "sparse": Work(
        vcpus=2, mem_per_vcpu_bytes=29 * PAGE_BYTES, touch_pages=9, order="scattered", seed=5
    ),
    "overlap": Work(vcpus=3, mem_per_vcpu_bytes=10 * PAGE_BYTES, overlap=True),
    "one page": Work(vcpus=2, mem_per_vcpu_bytes=PAGE_BYTES),
}
RUNS = Work(vcpus=2, mem_per_vcpu_bytes=1100 * PAGE_BYTES, touch_pages=515)


@dataclass
class Machine:
    """A vCPU, the last one of `work`, parked nowhere yet; every page of its part is right."""

    work: Work
    build: Mapping[str, bool]
    durations: Sequence[int] = (100,)
    passes: int = 3
    tags: TagRule = TAGS

    def __post_init__(self) -> None:
        layout, unit = Layout(self.work), PAGE_BYTES
        vcpu = self.work.vcpus - 1
        order = layout.order(vcpu)
        self.part = DATA_GPA + order.part_page * unit
        self.order = [
            DATA_GPA + layout.touched_page(vcpu, touch) * unit for touch in range(order.count)
        ]
        self.data = bytearray(self.work.total_pages * unit)
        for gpa in self.order:
            self.put(gpa, 0, self.tags.tag(gpa))
            self.put(gpa, unit - 8, self.tags.last_word(gpa))
        self.own = bytearray(PAGE_BYTES)
        self.record = GuestRecord.from_buffer(self.own, RECORD_OFFSET)
        record = self.record
        record.touches, record.further = order.count, self.passes - 1
        record.start, record.step, record.count = order.start, order.step, order.count
        record.part = self.part
        record.run_shift = layout.run_pages.bit_length() - 1
        record.run_stride = layout.run_stride
        record.tag_multiplier, record.tag_seed = self.tags.multiplier, self.tags.seed
        record.touched = 99  # it is the guest that begins at 0
        for name in WRITTEN_ONCE:
            setattr(record, name, JUNK)
        self.came: dict[int, int] = {}
        self.touched_at: list[tuple[int, int, int]] = []
        self.rsi: list[int] = []
        self.cpu = ScriptedCpu(
            assemble_guest(**self.build),
            {VCPU_PAGE: self.own, DATA_GPA: self.data},
            cost=self.cost,
            registers={"rdi": RECORD, "rsp": STACK},
            now=1 << 33,
        )

    def cost(self, access: Access) -> int:
        """Return how long an access takes: the first of a page is a fault."""
        if access.address < DATA_GPA:
            return RECORD_CYCLES
        page = access.address & -PAGE_BYTES
        if page in self.came:
            return PAGE_CYCLES
        took = self.durations[len(self.came) % len(self.durations)]
        self.came[page] = took
        self.touched_at.append((page, self.cpu.now, self.cpu.now + took))
        self.rsi.append(self.cpu.registers[ADDRESS_REGISTER])
        return took

    def put(self, gpa: int, offset: int, word: int) -> None:
        at = gpa - DATA_GPA + offset
        self.data[at : at + 8] = word.to_bytes(8, "little")

    def get(self, gpa: int, offset: int) -> int:
        at = gpa - DATA_GPA + offset
        return int.from_bytes(self.data[at : at + 8], "little")

    def to_the_gate(self) -> None:
        assert self.cpu.run("touch") == ("out", READY_PORT)

    def first_pass(self) -> None:
        self.to_the_gate()
        self.cpu.accesses.clear()
        self.cpu.now = GATE_CYCLES
        self.cpu._fence = GATE_CYCLES
        assert self.cpu.run() == ("out", DONE_PORT)

    def of_data(self) -> list[Access]:
        return [access for access in self.cpu.accesses if access.address >= DATA_GPA]

    def first_touch(self, gpa: int) -> Access:
        if self.build["write"]:
            return Access("store", gpa + WRITTEN_WORD, 64, gpa)
        return Access("load", gpa, 64, self.tags.tag(gpa))

    def looked_at(self, gpa: int) -> list[Access]:
        """Return the loads of a page's tags, where they are checked."""
        return [
            Access("load", gpa, 64, self.tags.tag(gpa)),
            Access("load", gpa + PAGE_BYTES - 8, 64, self.tags.last_word(gpa)),
        ] * self.build["checked"]


@EACH_BUILD
def test_before_the_gate_it_touches_its_own_page_and_no_other(build: dict[str, bool]) -> None:
    machine = Machine(WORKS["sequential"], build)
    machine.to_the_gate()
    assert machine.of_data() == []
    stack = [access for access in machine.cpu.accesses if access.address == STACK - 8]
    assert [access.kind for access in stack] == ["store", "load"]
    assert machine.cpu.registers["rsp"] == STACK
    assert machine.record.touched == 0
    assert machine.cpu.registers[ADDRESS_REGISTER] == 0, "no page, whatever KVM reports here"


@EACH_BUILD
@pytest.mark.parametrize("name", WORKS)
def test_it_touches_each_page_of_its_order_once_and_looks_at_it_then(
    name: str, build: dict[str, bool]
) -> None:
    _touches_in_order(WORKS[name], build)


def test_it_does_so_in_runs_with_gaps_between_them() -> None:
    _touches_in_order(RUNS, BUILDS[-1] | {"write": True, "checked": True})


def _touches_in_order(work: Work, build: dict[str, bool]) -> None:
    machine = Machine(work, build)
    machine.first_pass()
    expected: list[Access] = []
    for gpa in machine.order:
        expected.append(machine.first_touch(gpa))
        if build["split"]:
            _, before, after = machine.touched_at[machine.order.index(gpa)]
            expected.append(Access("store", gpa + STAMPS["STAMP_TOUCHED"], 64, before))
            expected.append(Access("store", gpa + STAMPS["STAMP_BACK"], 64, after))
        expected += machine.looked_at(gpa)
    assert machine.of_data() == expected
    assert machine.rsi == machine.order, "where the host looks for the address"
    assert machine.record.touched == len(machine.order)
    assert machine.record.mismatches == 0


@EACH_BUILD
def test_its_stamps_are_of_the_gate_and_of_what_follows_its_last_page(
    build: dict[str, bool],
) -> None:
    machine = Machine(WORKS["scattered"], build, durations=(100, 70_000, 3))
    machine.first_pass()
    assert machine.record.start_cycles == GATE_CYCLES
    last = machine.cpu.accesses[-1]
    assert last.address == RECORD + GuestRecord.end_cycles.offset
    assert machine.record.end_cycles == machine.cpu.now - RECORD_CYCLES
    assert machine.record.end_cycles > machine.touched_at[-1][2]


DURATIONS = (
    *(0, 1, 15, 16, 31, 32, 33, 63, 64, 65, 1000, 4095, 4096, 65_537, 10**9, 1 << 39),
    *(HISTOGRAM_LIMIT - 1, HISTOGRAM_LIMIT, HISTOGRAM_LIMIT + 1, 1 << 41, (1 << 45) + 12345),
)


@pytest.mark.parametrize("build", [build for build in BUILDS if build["timed"]], ids=str)
@pytest.mark.parametrize("durations", [DURATIONS, DURATIONS[::-1], (7,)])
def test_every_touch_is_timed_alone_and_counted_in_its_bucket(
    build: dict[str, bool], durations: tuple[int, ...]
) -> None:
    work = Work(vcpus=1, mem_per_vcpu_bytes=len(DURATIONS) * PAGE_BYTES)
    machine = Machine(work, build, durations=durations)
    machine.first_pass()
    expected = [0] * HISTOGRAM_BUCKETS
    for touch in range(len(DURATIONS)):
        cycles = min(durations[touch % len(durations)], HISTOGRAM_LIMIT)
        [bucket] = [
            number
            for number in range(HISTOGRAM_BUCKETS)
            if bucket_bounds(number)[0] <= cycles <= bucket_bounds(number)[1]
        ]
        expected[bucket] += 1
    assert list(machine.record.histogram) == expected
    assert machine.record.longest_cycles == max(durations), "not cut off where the histogram is"


def test_the_buckets_are_the_same_in_runs_with_gaps_between_them() -> None:
    # Where the page lies and which bucket its time goes to is worked out in the same registers.
    machine = Machine(RUNS, BUILDS[-1] | {"write": True, "timed": True}, durations=(7, 31))
    machine.first_pass()
    found = {bucket: count for bucket, count in enumerate(machine.record.histogram) if count}
    assert found == {7: 258, 31: 257}


@pytest.mark.parametrize("build", [build for build in BUILDS if not build["timed"]], ids=str)
def test_a_guest_that_times_nothing_counts_nothing(build: dict[str, bool]) -> None:
    machine = Machine(WORKS["sequential"], build)
    machine.first_pass()
    assert not any(machine.record.histogram)
    assert machine.record.longest_cycles == 0


@EACH_BUILD
@pytest.mark.parametrize("offset", [0, PAGE_BYTES - 8])
@pytest.mark.parametrize("wrong", [(0,), (4,), (6,), (2, 3, 5)])
def test_a_wrong_word_is_counted_and_the_first_one_kept(
    build: dict[str, bool], offset: int, wrong: tuple[int, ...]
) -> None:
    machine = Machine(WORKS["sequential"], build)
    for number in wrong:
        machine.put(machine.order[number], offset, 0xBAD0 + number)
    machine.first_pass()
    record, first = machine.record, machine.order[wrong[0]]
    assert record.touched == len(machine.order), "it goes on"
    found = (record.mismatches, record.wrong_gpa, record.wrong_first, record.wrong_last)
    if not build["checked"]:
        assert found == (0, JUNK, JUNK, JUNK)
        return
    words = {0: TAGS.tag(first), PAGE_BYTES - 8: TAGS.last_word(first), offset: 0xBAD0 + wrong[0]}
    assert found == (len(wrong), first, words[0], words[PAGE_BYTES - 8])


PASSES = [build for build in BUILDS if build["passes"]]


@pytest.mark.parametrize("build", PASSES, ids=str)
@pytest.mark.parametrize("name", ["sequential", "scattered", "sparse", "overlap", "one page"])
@pytest.mark.parametrize("passes", [2, 4])
def test_a_further_pass_touches_each_page_again_in_the_same_way(
    build: dict[str, bool], name: str, passes: int
) -> None:
    machine = Machine(WORKS[name], build, passes=passes)
    machine.first_pass()
    record, end_cycles = machine.record, machine.record.end_cycles
    buckets = list(record.histogram)
    machine.cpu.accesses.clear()
    assert machine.cpu.run() == ("out", DONE_PORT)
    expected: list[Access] = []
    for gpa in machine.order * (passes - 1):
        if build["write"]:
            expected.append(Access("load", gpa + WRITTEN_WORD, 64, gpa))
        expected += machine.looked_at(gpa)
        expected.append(machine.first_touch(gpa))
    assert machine.of_data() == expected
    assert record.again == len(machine.order) * (passes - 1)
    assert (record.changed, record.further) == (0, 0)
    assert (record.touched, record.mismatches) == (len(machine.order), 0)
    assert (record.end_cycles, list(record.histogram)) == (end_cycles, buckets)


@pytest.mark.parametrize("build", PASSES, ids=str)
@pytest.mark.parametrize("offset", [0, WRITTEN_WORD, PAGE_BYTES - 8])
@pytest.mark.parametrize("wrong", [(0,), (4,), (6,), (2, 3, 5)])
def test_a_page_that_changed_between_two_passes_is_counted_and_the_first_one_kept(
    build: dict[str, bool], offset: int, wrong: tuple[int, ...]
) -> None:
    machine = Machine(WORKS["sequential"], build, passes=2)
    machine.first_pass()
    for number in wrong:
        machine.put(machine.order[number], offset, 0xBAD0 + number)
    assert machine.cpu.run() == ("out", DONE_PORT)
    record, first = machine.record, machine.order[wrong[0]]
    assert record.again == len(machine.order), "it goes on"
    found = (record.changed, record.changed_gpa, record.changed_word)
    if not build["write" if offset == WRITTEN_WORD else "checked"]:
        assert found == (0, JUNK, JUNK)
        return
    word = first if build["write"] else 0
    if offset == WRITTEN_WORD:
        word = 0xBAD0 + wrong[0]
    assert found == (len(wrong), first, word)
    assert record.mismatches == 0


@EACH_BUILD
def test_a_vcpu_that_is_done_and_run_again_is_an_exception(build: dict[str, bool]) -> None:
    machine = Machine(WORKS["sequential"], build, passes=2)
    machine.first_pass()
    if build["passes"]:
        assert machine.cpu.run() == ("out", DONE_PORT)
    assert machine.cpu.run() == ("ud2", 0)


@pytest.mark.parametrize("vector", [0, 14, 31])
@pytest.mark.parametrize("depth", [40, 48])
def test_an_exception_is_reported_with_its_stack_and_its_address(vector: int, depth: int) -> None:
    build = {"write": True}
    machine = Machine(WORKS["sequential"], {**BUILDS[-1], **build})
    cpu = machine.cpu
    cpu.cr2, cpu.registers["rsp"] = 0x1234_5678_9ABC, STACK - depth
    # The vector's gate leads to its own call, of five bytes.
    cpu.rip = vector * 5
    assert cpu.run() == ("out", TRAP_PORT)
    assert machine.record.trap_rsp == VCPU_PAGE + PAGE_BYTES - depth - 8
    assert machine.record.trap_cr2 == 0x1234_5678_9ABC
    assert int.from_bytes(machine.own[-depth - 8 :][:8], "little") == (vector + 1) * 5
    assert cpu.run() == ("hlt", 0)


def _scripted(program: Program) -> ScriptedCpu:
    return ScriptedCpu(program, {})


def test_the_processor_reads_time_no_later_than_its_last_fence() -> None:
    # The one thing about it that no other test would notice.
    cpu = _scripted(assemble_guest(write=True))
    cpu.now = 7 << 32 | 5
    cpu._step("rdtsc")
    assert (cpu.registers["rax"], cpu.registers["rdx"]) == (0, 0)
    cpu._step("lfence")
    cpu.now += 1000
    cpu._step("rdtsc")
    assert (cpu.registers["rax"], cpu.registers["rdx"]) == (5, 7)
