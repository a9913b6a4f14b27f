"""The reader loop: reading, waiting, odd messages, re-entry, and the ring of a pipelined reader."""

from __future__ import annotations

import ctypes
import errno

import pytest

from kvmpc.abi import clock
from kvmpc.abi import userfaultfd as uffd_abi
from kvmpc.loops.records import (
    LOOKS_PER_YIELD,
    READ_MESSAGES,
    Call,
    PendingRecord,
    ReaderRecord,
    Return,
)
from kvmpc.units import PAGE_BYTES
from tests.fakes.scripted import ScriptedKernel, Setting, counts, failure, tsc

EPOLLS = pytest.mark.parametrize("epoll", [-1, 0, 61])
EVENT_FORK = 0x13


def run(kernel: ScriptedKernel, record: ReaderRecord, build: str = "uffd") -> int:
    """Run the loop, that of a shared userfaultfd where the record has an epoll fd.

    The two stamps at its end come last.
    """
    kernel.stamp_end(record)
    build = build if record.epoll < 0 else f"{build}+epoll"
    return kernel.run("reader_loop", record, build=build)


def stop(kernel: ScriptedKernel, record: ReaderRecord) -> None:
    """Expect a read that a stop interrupts."""
    kernel.read_error(record, -errno.EINTR, lambda: setattr(record, "stop", 1))


# --- reading -----------------------------------------------------------------------------------


def test_a_stop_before_the_first_read_reads_nothing(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.reader()
    record.stop = 1
    assert run(kernel, record) == Return.STOPPED
    assert counts(record) == {"returns": 1}


def test_a_reader_without_a_start_stamp_reads_nothing(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.reader()
    record.start_ns = 0
    kernel.usage(record, "usage_start")
    kernel.clock(clock.CLOCK_THREAD_CPUTIME_ID, 1, record=record, reply=-errno.EINVAL)
    assert kernel.run("reader_loop", record) == Return.FAILED
    assert failure(record) == (Call.CLOCK_GETTIME, errno.EINVAL)
    assert counts(record) == {}


def test_a_reader_whose_switches_cannot_be_counted_reads_nothing(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.reader()
    record.start_ns = 0
    kernel.usage(record, "usage_start", reply=-errno.EFAULT)
    assert kernel.run("reader_loop", record) == Return.FAILED
    assert failure(record) == (Call.GETRUSAGE, errno.EFAULT)


@pytest.mark.parametrize("number", [1, 2, READ_MESSAGES])
def test_one_read_serves_many_messages_in_their_order(
    kernel: ScriptedKernel, setting: Setting, number: int
) -> None:
    record = setting.reader()
    pages = [(5 + 7 * index) % setting.pages for index in range(number)]
    kernel.read(record, *(setting.message(page, offset=8 * page) for page in pages))
    for page in pages:
        kernel.copy(setting, record, page)
    stop(kernel, record)
    assert run(kernel, record) == Return.STOPPED
    assert setting.present() == set(pages)
    assert counts(record) == {
        "reads": 2,
        "received": number,
        "fetches": number,
        "installs": number,
        "interrupts": 1,
        "returns": 1,
    }


def test_a_page_that_another_reader_has_is_dropped(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.reader()
    setting.claim(2)
    kernel.read(record, setting.message(2), setting.message(3), setting.message(3))
    kernel.copy(setting, record, 3)
    stop(kernel, record)
    assert run(kernel, record) == Return.STOPPED
    assert setting.present() == {3}
    assert (record.received, record.lost_claims, record.installs) == (3, 2, 1)


def test_a_stop_between_two_messages_leaves_the_second(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.reader()
    kernel.read(record, setting.message(1), setting.message(2))
    kernel.copy(setting, record, 1, do=lambda: setattr(record, "stop", 1))
    assert run(kernel, record) == Return.STOPPED
    assert (record.received, record.next) == (1, record.messages + 32)


def test_an_interrupted_read_is_repeated(kernel: ScriptedKernel, setting: Setting) -> None:
    record = setting.reader()
    kernel.read_error(record, -errno.EINTR)
    stop(kernel, record)
    assert run(kernel, record) == Return.STOPPED
    assert counts(record) == {"reads": 2, "interrupts": 2, "returns": 1}


@pytest.mark.parametrize("error", [errno.EINVAL, errno.EBADF, errno.EFAULT])
def test_a_read_that_fails_is_named(kernel: ScriptedKernel, setting: Setting, error: int) -> None:
    record = setting.reader()
    kernel.read_error(record, -error)
    assert run(kernel, record) == Return.FAILED
    assert failure(record) == (Call.READ, error)
    assert counts(record) == {"reads": 1, "returns": 1}


def test_the_end_of_a_userfaultfd_is_no_message(kernel: ScriptedKernel, setting: Setting) -> None:
    record = setting.reader()
    record.error = 99
    kernel.read_error(record, 0)
    assert run(kernel, record) == Return.EVENT
    assert record.error == 0


@pytest.mark.parametrize("length", [1, 31, 33, 511])
def test_a_read_of_an_odd_length_is_handed_to_python_and_none_of_it_used(
    kernel: ScriptedKernel, setting: Setting, length: int
) -> None:
    record = setting.reader()
    kernel.read_error(record, length)
    assert run(kernel, record) == Return.EVENT
    assert record.error == length
    assert record.next == record.end == record.messages
    assert counts(record) == {"reads": 1, "returns": 1}
    stop(kernel, record)
    assert run(kernel, record) == Return.STOPPED
    assert record.received == 0


# --- a rare path in the middle of a batch, and back ----------------------------------------------


def test_an_odd_event_goes_to_python_and_the_batch_goes_on_behind_it(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.reader()
    odd = uffd_abi.uffd_msg(event=EVENT_FORK)
    kernel.read(record, setting.message(1), odd, setting.message(2))
    kernel.copy(setting, record, 1)
    assert run(kernel, record) == Return.EVENT
    assert record.error == EVENT_FORK
    kernel.copy(setting, record, 2)
    stop(kernel, record)
    assert run(kernel, record) == Return.STOPPED
    assert setting.present() == {1, 2}
    assert (record.reads, record.received, record.returns) == (2, 2, 2)


@pytest.mark.parametrize("page", [-1, 23, 1 << 30])
def test_a_message_from_outside_goes_to_python_and_the_batch_goes_on_behind_it(
    kernel: ScriptedKernel, setting: Setting, page: int
) -> None:
    record = setting.reader()
    kernel.read(record, setting.message(page), setting.message(22))
    assert run(kernel, record) == Return.OUTSIDE
    assert record.page == page % 2**52
    kernel.copy(setting, record, 22)
    stop(kernel, record)
    assert run(kernel, record) == Return.STOPPED
    assert (setting.present(), record.received) == ({22}, 2)


def test_an_install_that_fails_goes_to_python_and_the_batch_goes_on_behind_it(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.reader()
    kernel.read(record, setting.message(1), setting.message(2))
    kernel.copy(setting, record, 1, reply=-errno.ENOENT)
    assert run(kernel, record) == Return.FAILED
    assert failure(record) == (Call.UFFDIO_COPY, errno.ENOENT)
    assert record.page == 1
    kernel.copy(setting, record, 2)
    stop(kernel, record)
    assert run(kernel, record) == Return.STOPPED
    assert setting.present() == {2}


def test_a_stop_ends_the_sleep_of_a_blocking_reader(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.reader()
    record.fetch_delay_ns = 50
    kernel.read(record, setting.message(1), setting.message(2))
    kernel.monotonic(100, record=record)
    kernel.sleep(record, 150, reply=-errno.EINTR, do=lambda: setattr(record, "stop", 1))
    assert run(kernel, record, "uffd+delay") == Return.STOPPED
    assert setting.present() == set()


def test_a_blocking_reader_sleeps_for_each_page_before_it_looks_at_the_next(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.reader()
    record.fetch_delay_ns = 50
    kernel.read(record, setting.message(1), setting.message(2))
    for now, page in ((100, 1), (200, 2)):
        kernel.monotonic(now, record=record)
        kernel.sleep(record, now + 50)
        kernel.copy(setting, record, page)
    stop(kernel, record)
    assert run(kernel, record, "uffd+delay") == Return.STOPPED
    assert setting.present() == {1, 2}


# --- waiting -----------------------------------------------------------------------------------


@EPOLLS
def test_a_reader_waits_only_when_there_is_no_message(
    kernel: ScriptedKernel, setting: Setting, epoll: int
) -> None:
    record = setting.reader(epoll=epoll)
    kernel.read(record)
    kernel.poll(record)
    kernel.read(record, setting.message(4))
    kernel.copy(setting, record, 4)
    kernel.read(record)
    kernel.poll_until_stop(record)
    assert run(kernel, record) == Return.STOPPED
    assert counts(record) == {
        "reads": 3,
        "reads_empty": 2,
        "polls": 2,
        "wakeups": 1,
        "received": 1,
        "fetches": 1,
        "installs": 1,
        "interrupts": 1,
        "returns": 1,
    }


@EPOLLS
def test_a_wake_up_that_finds_the_message_taken_is_counted(
    kernel: ScriptedKernel, setting: Setting, epoll: int
) -> None:
    record = setting.reader(epoll=epoll)
    kernel.read(record)
    for _ in range(3):
        kernel.poll(record)
        kernel.read(record)
    # Nothing woke it this time, so a read that finds nothing afterwards is not held against it.
    kernel.poll(record, reply=-errno.EINTR)
    kernel.read(record)
    kernel.poll_until_stop(record)
    assert run(kernel, record) == Return.STOPPED
    assert (record.wakeups, record.wakeups_empty) == (3, 3)
    assert (record.polls, record.reads_empty, record.interrupts) == (5, 5, 2)


def test_a_wake_up_is_forgotten_once_a_message_came(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.reader()
    kernel.read(record)
    kernel.poll(record)
    kernel.read_error(record, -errno.EINTR)  # the wake-up still stands
    kernel.read(record, setting.message(1))
    kernel.copy(setting, record, 1)
    kernel.read(record)
    kernel.poll_until_stop(record)
    assert run(kernel, record) == Return.STOPPED
    assert (record.wakeups, record.wakeups_empty) == (1, 0)


@pytest.mark.parametrize(("epoll", "call"), [(-1, Call.PPOLL), (61, Call.EPOLL_PWAIT2)])
@pytest.mark.parametrize("error", [errno.ENOMEM, errno.ENOSYS])
def test_a_wait_that_fails_is_named(
    kernel: ScriptedKernel, setting: Setting, epoll: int, call: Call, error: int
) -> None:
    record = setting.reader(epoll=epoll)
    kernel.read(record)
    kernel.poll(record, reply=-error)
    assert run(kernel, record) == Return.FAILED
    assert failure(record) == (call, error)
    assert counts(record) == {"reads": 1, "reads_empty": 1, "polls": 1, "returns": 1}


# --- other ways to wait ------------------------------------------------------------------------


@pytest.mark.parametrize("messages", [1, 3, 1000])
def test_a_read_takes_as_many_messages_as_it_is_told_to(
    kernel: ScriptedKernel, setting: Setting, messages: int
) -> None:
    record = setting.reader()
    record.read_bytes = messages * ctypes.sizeof(uffd_abi.uffd_msg)
    kernel.expect("read", record.uffd, record.messages, 32 * messages, reply=-errno.EAGAIN)
    kernel.poll_until_stop(record)
    assert run(kernel, record) == Return.STOPPED


def test_a_read_that_blocks_is_all_the_waiting_there_is(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.reader()
    record.poll_fd = -1  # it never polls
    for page in (4, 2):
        kernel.read(record, setting.message(page))
        kernel.copy(setting, record, page)
    stop(kernel, record)
    assert run(kernel, record, "uffd+read") == Return.STOPPED
    assert counts(record) == {
        "reads": 3,
        "received": 2,
        "fetches": 2,
        "installs": 2,
        "interrupts": 1,
        "returns": 1,
    }


def test_a_read_that_should_block_and_finds_nothing_is_no_reason_to_spin(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.reader()
    record.woken = 1
    kernel.read(record)
    assert run(kernel, record, "uffd+read") == Return.FAILED
    assert failure(record) == (Call.READ, errno.EAGAIN)


def test_a_reader_that_spins_reads_until_there_is_a_message(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.reader()
    setting.shared.gate = 1
    for page in (4, 2):
        for _ in range(3):
            kernel.read(record)
        kernel.read(record, setting.message(page))
        kernel.copy(setting, record, page)
    kernel.read_error(record, -errno.EAGAIN, lambda: setattr(record, "stop", 1))
    assert run(kernel, record, "uffd+spin") == Return.STOPPED
    assert counts(record) == {
        "reads": 9,
        "reads_empty": 7,
        "spins": 7,
        "received": 2,
        "fetches": 2,
        "installs": 2,
        "returns": 1,
    }


@EPOLLS
@pytest.mark.parametrize("build", ["uffd+spin", "uffd+adaptive"])
def test_a_reader_that_spins_gives_way_now_and_then(
    kernel: ScriptedKernel, setting: Setting, build: str, epoll: int
) -> None:
    record = setting.reader(epoll=epoll if "adaptive" in build else -1)
    setting.shared.gate = 1
    record.spin_cycles = FAR
    kernel.read(record, setting.message(4))
    kernel.copy(setting, record, 4)
    for _ in range(3):
        for _ in range(LOOKS_PER_YIELD):
            kernel.read(record)
        kernel.expect("sched_yield")
    stop(kernel, record)
    assert run(kernel, record, build) == Return.STOPPED
    assert (record.spins, record.polls) == (3 * LOOKS_PER_YIELD, 0)


def test_a_reader_that_spins_sleeps_as_long_as_the_gate_is_closed(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.reader()
    kernel.read(record)
    kernel.poll(record, do=lambda: setattr(setting.shared, "gate", 1))
    kernel.read(record)  # another one has it
    kernel.read(record, setting.message(4))
    kernel.copy(setting, record, 4)
    kernel.read(record)
    stop(kernel, record)
    assert run(kernel, record, "uffd+spin") == Return.STOPPED
    assert (record.polls, record.wakeups, record.wakeups_empty, record.spins) == (1, 1, 1, 2)


@EPOLLS
def test_an_adaptive_reader_spins_for_a_time_and_then_sleeps(
    kernel: ScriptedKernel, setting: Setting, epoll: int
) -> None:
    record = setting.reader(epoll=epoll)
    record.spin_cycles = FAR
    kernel.read(record)
    kernel.poll(record)  # nothing is done yet that it could spin after
    before = tsc()
    for page in (4, 2):
        kernel.read(record, setting.message(page))
        kernel.copy(setting, record, page)
        kernel.read(record)
        kernel.read(record)
        kernel.read_error(record, -errno.EAGAIN, lambda: check_spin(record, before))
        kernel.poll(record, reply=-errno.EINTR)
    kernel.read(record)  # and no spin after a sleep that nothing came of
    kernel.poll_until_stop(record)
    assert run(kernel, record, "uffd+adaptive") == Return.STOPPED
    assert counts(record) == {
        "reads": 10,
        "reads_empty": 8,
        "spins": 4,
        "polls": 4,
        "wakeups": 1,
        "received": 2,
        "fetches": 2,
        "installs": 2,
        "interrupts": 3,
        "returns": 1,
    }


def check_spin(record: ReaderRecord, before: int) -> None:
    """Check when the spin ends, and let it end now."""
    assert before + FAR < record.spin_until < tsc() + FAR
    record.spin_until = before // 2


@EPOLLS
def test_an_adaptive_reader_that_may_not_spin_sleeps_at_once(
    kernel: ScriptedKernel, setting: Setting, epoll: int
) -> None:
    record = setting.reader(epoll=epoll)
    kernel.read(record, setting.message(4))
    kernel.copy(setting, record, 4)
    kernel.read(record)
    kernel.poll(record)
    kernel.read(record)
    kernel.poll_until_stop(record)
    assert run(kernel, record, "uffd+adaptive") == Return.STOPPED
    assert (record.polls, record.wakeups, record.wakeups_empty, record.spins) == (2, 1, 1, 0)


# --- pipelined ---------------------------------------------------------------------------------
# No script sets the TSC. A page whose fetch takes no time is due as soon as it is looked at, one
# with FAR to go never is, until a test lets it come in.

FAR = 1 << 60
NS_PER_CYCLE_Q32 = 0x6123_4567


def delayed(
    setting: Setting, delay_cycles: int = FAR, *, epoll: int = -1, ring: int = 4
) -> ReaderRecord:
    record = setting.reader(epoll=epoll, ring=ring)
    record.fetch_delay_cycles, record.ns_per_cycle_q32 = delay_cycles, NS_PER_CYCLE_Q32
    return record


def entry(record: ReaderRecord, number: int) -> PendingRecord:
    """Return the entry of the ring that was put in as `number`."""
    size = ctypes.sizeof(PendingRecord)
    return PendingRecord.from_address(record.queue + (number & record.queue_mask) * size)


def come_in(record: ReaderRecord, *numbers: int) -> None:
    """Make these entries due."""
    for number in numbers:
        entry(record, number).due_cycles = 0


@EPOLLS
def test_pages_are_installed_in_order_once_they_come_in_while_the_reader_reads_on(
    kernel: ScriptedKernel, setting: Setting, epoll: int
) -> None:
    record = delayed(setting, epoll=epoll)
    kernel.read(record, setting.message(9), setting.message(4))
    kernel.read(record)
    kernel.poll(record, timed=True, reply=1)
    kernel.read(record, setting.message(7))
    kernel.read(record)
    # The second before the first, which cannot be: they come in one behind the other.
    kernel.poll(record, timed=True, reply=0, do=lambda: come_in(record, 1))
    kernel.read(record)
    kernel.poll(record, timed=True, reply=0, do=lambda: come_in(record, 0))
    kernel.copy(setting, record, 9)
    kernel.copy(setting, record, 4)
    kernel.read(record)
    kernel.poll(record, timed=True, reply=0, do=lambda: come_in(record, 2))
    kernel.copy(setting, record, 7)
    kernel.read(record)
    kernel.poll_until_stop(record)
    assert run(kernel, record, "pipelined") == Return.STOPPED
    assert setting.present() == {9, 4, 7}
    assert counts(record) == {
        "reads": 7,
        "reads_empty": 5,
        "polls": 5,
        "wakeups": 1,
        "received": 3,
        "queue_head": 3,
        "queue_tail": 3,
        "fetches": 3,
        "installs": 3,
        "interrupts": 1,
        "returns": 1,
    }


def test_a_reader_that_spins_installs_what_comes_in_meanwhile(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = delayed(setting)
    setting.shared.gate = 1
    kernel.read(record, setting.message(9))
    kernel.read(record)
    kernel.read_error(record, -errno.EAGAIN, lambda: come_in(record, 0))
    kernel.copy(setting, record, 9)
    kernel.read(record)
    stop(kernel, record)
    assert run(kernel, record, "pipelined+spin") == Return.STOPPED
    assert setting.present() == {9}
    assert (record.spins, record.polls) == (3, 0)


@EPOLLS
def test_an_adaptive_reader_sleeps_until_a_page_is_due_and_spins_again_after_it(
    kernel: ScriptedKernel, setting: Setting, epoll: int
) -> None:
    record = delayed(setting, epoll=epoll)
    record.spin_cycles = FAR

    def spin_ends() -> None:
        record.spin_until = 0

    kernel.read(record, setting.message(9))
    kernel.read(record)
    kernel.read_error(record, -errno.EAGAIN, spin_ends)
    kernel.poll(record, timed=True, reply=0, do=lambda: come_in(record, 0))
    kernel.copy(setting, record, 9, reply=-errno.EEXIST)  # brought, if not by itself
    kernel.wake_range(setting, record, 9)
    kernel.read(record)
    kernel.read_error(record, -errno.EAGAIN, spin_ends)
    kernel.poll_until_stop(record)
    assert run(kernel, record, "pipelined+adaptive") == Return.STOPPED
    assert setting.present() == {9}
    assert (record.fetches, record.installs) == (1, 0)
    assert (record.spins, record.polls, record.wakeups) == (2, 2, 0)


def test_a_page_is_due_one_delay_after_its_claim_and_the_wait_lasts_until_then(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = delayed(setting)
    before = tsc()
    kernel.read(record, setting.message(9))
    kernel.read(record)
    waits: list[tuple[int, int]] = []
    kernel.poll(record, timed=True, do=lambda: waits.append((record.timeout_ns, tsc())))
    stop(kernel, record)
    assert run(kernel, record, "pipelined") == Return.STOPPED
    [(timeout_ns, waiting)] = waits
    due = entry(record, 0).due_cycles
    assert entry(record, 0).page == 9
    assert before < due - FAR < waiting
    shortest, longest = ((due - at) * NS_PER_CYCLE_Q32 / 2**32 for at in (waiting, before))
    assert shortest < timeout_ns < longest + 2
    assert timeout_ns > 2**40, "more than 64 bits of it are needed on the way"


def test_a_wait_is_rounded_up_so_that_it_never_ends_before_the_page_is_due(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = delayed(setting)
    record.ns_per_cycle_q32 = 0  # less than a nanosecond, however long it is in cycles
    kernel.read(record, setting.message(9))
    kernel.read(record)
    waits: list[int] = []
    kernel.poll(record, timed=True, do=lambda: waits.append(record.timeout_ns))
    stop(kernel, record)
    assert run(kernel, record, "pipelined") == Return.STOPPED
    assert waits == [1]


def test_a_fetch_lasts_from_the_claim_to_the_install_and_is_no_part_of_it(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    delay, late = 1 << 40, 12_345
    record = delayed(setting, delay)
    kernel.read(record, setting.message(1))
    kernel.read(record)
    stamps: list[int] = []

    def come_in_late() -> None:
        stamps.append(tsc())
        entry(record, 0).due_cycles = stamps[0] - late

    kernel.poll(record, timed=True, reply=0, do=come_in_late)
    kernel.copy(setting, record, 1, do=lambda: stamps.extend([tsc(), tsc()]))
    stop(kernel, record)
    assert run(kernel, record, "pipelined") == Return.STOPPED
    in_poll, copying, copied = stamps
    fetched = in_poll + record.fetch_cycles - delay - late
    assert in_poll < fetched < copying
    assert copied - copying < record.install_cycles < tsc() - fetched


def test_each_install_is_timed_from_its_own_beginning(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.reader()
    before = tsc()
    kernel.read(record, *(setting.message(page) for page in (1, 2, 3)))
    for page in (1, 2, 3):
        kernel.copy(setting, record, page)
    stop(kernel, record)
    assert run(kernel, record) == Return.STOPPED
    assert 0 < record.install_cycles < tsc() - before


def test_the_times_of_several_pages_add_up(kernel: ScriptedKernel, setting: Setting) -> None:
    record = delayed(setting, 0)
    before, record.fetch_cycles, record.install_cycles = tsc(), 1 << 50, 1 << 51
    kernel.read(record, setting.message(1), setting.message(2))
    kernel.copy(setting, record, 1)
    kernel.copy(setting, record, 2)
    stop(kernel, record)
    assert run(kernel, record, "pipelined") == Return.STOPPED
    took = tsc() - before
    # They were fetched side by side.
    assert 0 < record.fetch_cycles - (1 << 50) < 2 * took
    assert 0 < record.install_cycles - (1 << 51) < took


def test_every_message_of_a_read_is_taken_before_a_page_that_is_due_is_installed(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = delayed(setting, 0)
    seen: list[tuple[int, int]] = []
    # Page 1 twice: a message that comes too late is no occasion to install, either.
    kernel.read(record, *(setting.message(page) for page in (1, 1, 2, 3)))
    for page in (1, 2, 3):
        note = lambda: seen.append((record.queue_head, record.queue_tail))  # noqa: E731
        kernel.copy(setting, record, page, do=note)
    stop(kernel, record)
    assert run(kernel, record, "pipelined") == Return.STOPPED
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_stop_between_two_installs_leaves_the_second_in_the_ring(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = delayed(setting, 0)
    kernel.read(record, setting.message(1), setting.message(2))
    kernel.copy(setting, record, 1, do=lambda: setattr(record, "stop", 1))
    assert run(kernel, record, "pipelined") == Return.STOPPED
    assert (setting.present(), record.queue_head, record.queue_tail) == ({1}, 1, 2)


def test_an_odd_event_in_a_batch_of_pages_under_way_goes_to_python_and_all_come_in(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = delayed(setting, 0)
    odd = uffd_abi.uffd_msg(event=EVENT_FORK)
    kernel.read(record, setting.message(1), odd, setting.message(2))
    assert run(kernel, record, "pipelined") == Return.EVENT
    assert (setting.claimed(), setting.present()) == ({1}, set())
    taken: list[int] = []
    kernel.copy(setting, record, 1, do=lambda: taken.append(record.queue_tail))
    kernel.copy(setting, record, 2)
    stop(kernel, record)
    assert run(kernel, record, "pipelined") == Return.STOPPED
    assert taken == [2], "the rest of the batch was taken first"
    assert (setting.present(), record.reads) == ({1, 2}, 2)


def test_a_ring_goes_round(kernel: ScriptedKernel, setting: Setting) -> None:
    record = delayed(setting, 0, ring=4)
    for page in range(11):
        kernel.read(record, setting.message(page))
        kernel.copy(setting, record, page)
    stop(kernel, record)
    assert run(kernel, record, "pipelined") == Return.STOPPED
    assert setting.present() == set(range(11))
    assert (record.queue_head, record.queue_tail) == (11, 11)


def test_a_full_ring_is_no_loss_but_a_defect_that_is_told(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = delayed(setting, ring=4)
    kernel.read(record, *(setting.message(page) for page in range(5)))
    assert run(kernel, record, "pipelined") == Return.FULL
    assert (record.page, record.queue_tail - record.queue_head) == (4, 4)


def test_a_page_under_way_is_not_fetched_again(kernel: ScriptedKernel, setting: Setting) -> None:
    record = delayed(setting)
    setting.claim(2)
    kernel.read(record, setting.message(1), setting.message(1), setting.message(2))
    stop(kernel, record)
    assert run(kernel, record, "pipelined") == Return.STOPPED
    assert (record.lost_claims, record.queue_tail) == (2, 1)


def test_an_install_that_fails_is_named_and_the_rest_of_the_ring_still_comes_in(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = delayed(setting, 0)
    kernel.read(record, setting.message(1), setting.message(2))
    kernel.copy(setting, record, 1, reply=-errno.ENOMEM)
    assert run(kernel, record, "pipelined") == Return.FAILED
    assert failure(record) == (Call.UFFDIO_COPY, errno.ENOMEM)
    assert record.page == 1
    kernel.copy(setting, record, 2)
    stop(kernel, record)
    assert run(kernel, record, "pipelined") == Return.STOPPED
    assert setting.present() == {2}


def test_a_pipelined_page_that_was_there_already_wakes_its_range(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = delayed(setting, 0)
    kernel.read(record, setting.message(1))
    kernel.copy(setting, record, 1, reply=-errno.EEXIST)
    kernel.wake_range(setting, record, 1)
    stop(kernel, record)
    assert run(kernel, record, "pipelined") == Return.STOPPED
    assert (record.eexist, record.wakes) == (1, 1)


def test_the_address_of_a_message_may_lie_anywhere_in_its_page(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.reader()
    kernel.read(record, *(setting.message(page, offset=PAGE_BYTES - 1) for page in (1, 22)))
    kernel.copy(setting, record, 1)
    kernel.copy(setting, record, 22)
    stop(kernel, record)
    assert run(kernel, record) == Return.STOPPED
    assert setting.present() == {1, 22}
