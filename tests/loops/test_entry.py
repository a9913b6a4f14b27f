"""What stands between C and the loops: the entry, the scripted kernel itself, time stamps, fill."""

from __future__ import annotations

import ctypes
import errno

import pytest

from kvmpc.abi import clock
from kvmpc.assembler.assemble import AssemblerError
from kvmpc.loops.program import NativeProgram, build
from kvmpc.loops.records import Call, FillRecord, Return
from kvmpc.loops.steps import Steps
from kvmpc.units import PAGE_BYTES
from kvmpc.work.tags import tag_rule
from tests.fakes.scripted import ScriptedKernel, Setting, counts, extra_sources, failure, tsc


class EntryNotes(ctypes.Structure):
    """What entry_probe.asm writes down."""

    _fields_ = (("word", ctypes.c_uint64 * 32),)


def test_a_native_call_leaves_the_registers_that_belong_to_c_as_they_were() -> None:
    program = NativeProgram(build(Steps(), extra=extra_sources(), syscall="scripted_kernel"))
    notes = EntryNotes()
    try:
        program.call("probe_entry", notes, program.address("clobber_all"))
    finally:
        program.close()
    rsp_before, rsp, rbx, rbp, r12, r13, r14, r15, code, *inside = notes.word[:12]
    assert rsp == rsp_before
    assert [rbx, rbp, r12, r13, r14, r15] == [
        int(f"{digit}0" * 8, 16) for digit in (1, 2, 3, 4, 5, 6)
    ]
    assert code & 0xFFFFFFFF == 0x5EED
    rsp_inside, record, page = inside
    assert rsp_inside % 16 == 8, "a function starts 8 below a multiple of 16, as in the C ABI"
    assert (record, page) == (ctypes.addressof(notes), 0x7070707070707070)


def test_the_scripted_kernel_changes_the_registers_a_system_call_changes_and_no_other(
    kernel: ScriptedKernel,
) -> None:
    notes = EntryNotes()
    kernel.expect("1000", 1, 2, 3, 4, 5, 6, reply=-errno.EAGAIN)
    kernel.run("probe_kernel", notes)
    rax, rdi, rsi, rdx, r10, r8, r9, rcx, r11, *kept = notes.word[:14]
    assert rax == 2**64 - errno.EAGAIN
    assert [rdi, rsi, rdx, r10, r8, r9] == [1, 2, 3, 4, 5, 6]
    assert (rcx, r11) == (0x5A5A5A5A5A5A5A5A, 0xA5A5A5A5A5A5A5A5)
    assert kept == [9, 10, 11, 12, 13]
    assert notes.word[16] == notes.word[17], "rsp"


def test_the_scripted_kernel_refuses_a_call_that_is_not_next_on_its_list(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.resolver()
    kernel.clock(clock.CLOCK_THREAD_CPUTIME_ID, 1, record=record)
    kernel.clock(clock.CLOCK_THREAD_CPUTIME_ID, 2, record=record)
    with pytest.raises(AssertionError, match="expected clock_gettime"):
        kernel.run("stamp_start", record)
    assert failure(record) == (Call.CLOCK_GETTIME, errno.ENOTRECOVERABLE)


def test_the_scripted_kernel_misses_a_call_that_never_came(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.resolver()
    record.start_ns = 1
    kernel.monotonic(1, record=record)
    with pytest.raises(AssertionError, match="never made these calls"):
        kernel.run("stamp_start", record)


def test_a_build_without_the_scripted_kernel_cannot_name_it() -> None:
    with pytest.raises(AssemblerError, match="scripted_kernel"):
        build(Steps(), syscall="scripted_kernel")


# --- time stamps -------------------------------------------------------------------------------


def test_the_start_is_stamped_once_however_often_a_loop_is_entered(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.resolver()
    kernel.stamp_start(record, ns=5_000_000_007, cpu_ns=3_000_000_011)
    assert kernel.run("stamp_start", record) == Return.OK
    assert (record.start_ns, record.cpu_start_ns) == (5_000_000_007, 3_000_000_011)
    start_cycles = record.start_cycles
    assert start_cycles > 0
    assert kernel.run("stamp_start", record) == Return.OK
    assert (record.start_ns, record.start_cycles) == (5_000_000_007, start_cycles)


@pytest.mark.parametrize("failing", [0, 1])
def test_a_clock_that_fails_at_the_start_is_named(
    kernel: ScriptedKernel, setting: Setting, failing: int
) -> None:
    record = setting.resolver()
    clocks = (clock.CLOCK_THREAD_CPUTIME_ID, clock.CLOCK_MONOTONIC)
    for index in range(failing + 1):
        reply = -errno.EINVAL if index == failing else 0
        kernel.clock(clocks[index], 1, record=record, reply=reply)
    assert kernel.run("stamp_start", record) == Return.FAILED
    assert failure(record) == (Call.CLOCK_GETTIME, errno.EINVAL)
    assert record.start_ns == 0


@pytest.mark.parametrize("failing", [0, 1])
def test_a_clock_that_fails_at_the_end_is_what_the_loop_returns(
    kernel: ScriptedKernel, setting: Setting, failing: int
) -> None:
    record = setting.reader()
    record.stop = 1
    clocks = (clock.CLOCK_MONOTONIC, clock.CLOCK_THREAD_CPUTIME_ID)
    for index in range(failing + 1):
        reply = -errno.EINVAL if index == failing else 0
        kernel.clock(clocks[index], 1, record=record, reply=reply)
    assert kernel.run("reader_loop", record) == Return.FAILED
    assert failure(record) == (Call.CLOCK_GETTIME, errno.EINVAL)


def test_switches_that_cannot_be_counted_are_what_the_loop_returns(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.reader()
    record.stop = 1
    kernel.monotonic(1, record=record)
    kernel.clock(clock.CLOCK_THREAD_CPUTIME_ID, 1, record=record)
    kernel.usage(record, "usage_end", reply=-errno.EFAULT)
    assert kernel.run("reader_loop", record) == Return.FAILED
    assert failure(record) == (Call.GETRUSAGE, errno.EFAULT)


def test_every_return_is_counted_and_the_last_one_stamped(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.reader()
    record.stop, record.start_ns = 1, 0
    before = tsc()
    kernel.usage(record, "usage_start", switches=7)
    kernel.stamp_start(record, ns=100, cpu_ns=10)
    kernel.stamp_end(record, ns=200, cpu_ns=20)
    assert kernel.run("reader_loop", record) == Return.STOPPED
    first_end_cycles = record.end_cycles
    kernel.stamp_end(record, ns=4_000_000_300, cpu_ns=2_000_000_030)
    assert kernel.run("reader_loop", record) == Return.STOPPED
    assert counts(record) == {"returns": 2}
    assert (record.start_ns, record.cpu_start_ns) == (100, 10)
    assert (record.end_ns, record.cpu_end_ns) == (4_000_000_300, 2_000_000_030)
    assert before < record.start_cycles < first_end_cycles < record.end_cycles < tsc()


# --- fill --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run_shift", "stride", "first", "end"), [(0, 1, 0, 23), (0, 3, 0, 7), (2, 8, 3, 11)]
)
@pytest.mark.parametrize("body_words", [0, 1, 509])
def test_fill_writes_tags_and_body_of_each_touched_page_and_nothing_else(
    kernel: ScriptedKernel, run_shift: int, stride: int, first: int, end: int, body_words: int
) -> None:
    run = 1 << run_shift
    pages = {index // run * stride + index % run for index in range(first, end)}
    words = (ctypes.c_uint64 * (512 * (max(pages) + 2)))()
    ctypes.memset(words, 0x5A, ctypes.sizeof(words))
    gpa, tags = 1 << 32, tag_rule(3)
    record = FillRecord(
        hva=ctypes.addressof(words),
        gpa=gpa,
        index=first,
        end=end,
        run_shift=run_shift,
        run_stride=stride,
        tag_multiplier=tags.multiplier,
        tag_seed=tags.seed,
        body=0xB0D7_B0D7,
        body_words=body_words,
    )
    assert kernel.run("fill", record) == Return.OK
    assert record.index == end
    expected = (ctypes.c_uint64 * len(words))()
    ctypes.memset(expected, 0x5A, ctypes.sizeof(words))
    for page in pages:
        expected[page * 512] = tags.tag(gpa + page * PAGE_BYTES)
        expected[page * 512 + 511] = tags.last_word(gpa + page * PAGE_BYTES)
        for word in range(511 - body_words, 511):
            expected[page * 512 + word] = 0xB0D7_B0D7
    assert bytes(words) == bytes(expected)


def test_fill_leaves_where_it_is_when_stopped(kernel: ScriptedKernel) -> None:
    page = (ctypes.c_uint64 * 512)()
    record = FillRecord(hva=ctypes.addressof(page), index=0, end=1, run_stride=1, tag_seed=1)
    record.stop = 1
    assert kernel.run("fill", record) == Return.STOPPED
    assert record.index == 0
    assert not any(page)
    record.stop = 0
    assert kernel.run("fill", record) == Return.OK
    assert page[0] == 1


def test_fill_of_nothing_writes_nothing_even_when_stopped(kernel: ScriptedKernel) -> None:
    record = FillRecord(index=7, end=7, stop=1)
    assert kernel.run("fill", record) == Return.OK
