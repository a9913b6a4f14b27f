"""The reader loop: reading, waiting, odd messages, re-entry, and the ring of a pipelined reader."""

from __future__ import annotations

import errno

import pytest

from kvmpc.abi import clock
from kvmpc.abi import userfaultfd as uffd_abi
from kvmpc.native.records import READ_MESSAGES, Call, ReaderRecord, Return
from kvmpc.units import PAGE_BYTES
from tests.native.scripted import ScriptedKernel, Setting, counts, failure

EPOLLS = pytest.mark.parametrize("epoll", [-1, 0, 61])
EVENT_FORK = 0x13


def run(kernel: ScriptedKernel, record: ReaderRecord, build: str = "uffd") -> int:
    """Run the loop; the two stamps at its end come last."""
    kernel.stamp_end(record)
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
    kernel.clock(clock.CLOCK_THREAD_CPUTIME_ID, 1, record=record, reply=-errno.EINVAL)
    assert kernel.run("reader_loop", record) == Return.FAILED
    assert failure(record) == (Call.CLOCK_GETTIME, errno.EINVAL)
    assert counts(record) == {}


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
    assert record.wait_cycles > 0


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


# --- pipelined ---------------------------------------------------------------------------------

DELAY_NS = 2_500_000_000
BEGIN_NS = 7_600_000_000


def delayed(setting: Setting, *, epoll: int = -1, ring: int = 4) -> ReaderRecord:
    record = setting.reader(epoll=epoll, ring=ring)
    record.fetch_delay_ns = DELAY_NS
    return record


@EPOLLS
def test_pages_come_in_one_delay_after_their_claim_in_order_while_the_reader_reads_on(
    kernel: ScriptedKernel, setting: Setting, epoll: int
) -> None:
    record = delayed(setting, epoll=epoll)
    first, second, third = BEGIN_NS, BEGIN_NS + 1000, BEGIN_NS + 2500

    kernel.read(record, setting.message(9), setting.message(4))
    kernel.monotonic(first, record=record)  # 9 is claimed
    kernel.monotonic(first + 500, record=record)  # is 9 due?
    kernel.monotonic(second, record=record)  # 4 is claimed
    kernel.monotonic(second + 100, record=record)
    kernel.read(record)
    kernel.poll(record, timeout_ns=DELAY_NS - 1100, reply=1)
    kernel.monotonic(third - 100, record=record)
    kernel.read(record, setting.message(7))
    kernel.monotonic(third - 50, record=record)
    kernel.monotonic(third, record=record)  # 7 is claimed

    kernel.monotonic(third + 200, record=record)
    kernel.read(record)
    kernel.poll(record, timeout_ns=DELAY_NS - 2700, reply=0)
    # Due at the very nanosecond; and with it nothing else.
    kernel.monotonic(first + DELAY_NS, record=record)
    kernel.copy(setting, record, 9)
    kernel.monotonic(second + DELAY_NS - 1, record=record)
    kernel.read(record)
    kernel.poll(record, timeout_ns=1, reply=0)
    # Both that are left at once.
    kernel.monotonic(third + DELAY_NS + 1, record=record)
    kernel.copy(setting, record, 4)
    kernel.monotonic(third + DELAY_NS + 2, record=record)
    kernel.copy(setting, record, 7)
    kernel.read(record)
    kernel.poll_until_stop(record)
    assert run(kernel, record, "pipelined") == Return.STOPPED
    assert setting.present() == {9, 4, 7}
    assert counts(record) == {
        "reads": 6,
        "reads_empty": 4,
        "polls": 4,
        "wakeups": 1,
        "received": 3,
        "queue_head": 3,
        "queue_tail": 3,
        "fetches": 3,
        "installs": 3,
        "interrupts": 1,
        "returns": 1,
    }


def test_a_fetch_lasts_from_the_claim_to_the_install_and_is_no_part_of_it(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = delayed(setting)
    record.start_ns = 0
    kernel.stamp_start(record)
    kernel.read(record, setting.message(1))
    kernel.monotonic(BEGIN_NS, record=record)
    kernel.monotonic(BEGIN_NS, record=record)
    kernel.read(record)
    kernel.poll(record, timeout_ns=DELAY_NS, reply=0)
    kernel.monotonic(BEGIN_NS + DELAY_NS, record=record)
    kernel.copy(setting, record, 1)
    stop(kernel, record)
    assert run(kernel, record, "pipelined") == Return.STOPPED
    total = record.end_cycles - record.start_cycles
    assert 0 < record.wait_cycles < record.fetch_cycles
    assert record.install_cycles > 0
    assert record.fetch_cycles + record.install_cycles < total


def test_a_ring_goes_round(kernel: ScriptedKernel, setting: Setting) -> None:
    record = delayed(setting, ring=4)
    for page in range(11):
        now = BEGIN_NS + page * 2 * DELAY_NS
        kernel.read(record, setting.message(page))
        kernel.monotonic(now, record=record)
        kernel.monotonic(now + DELAY_NS, record=record)
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
    for page in range(4):
        kernel.monotonic(BEGIN_NS + page, record=record)
        kernel.monotonic(BEGIN_NS + page, record=record)
    assert run(kernel, record, "pipelined") == Return.FULL
    assert (record.page, record.queue_tail - record.queue_head) == (4, 4)


def test_a_page_under_way_is_not_fetched_again(kernel: ScriptedKernel, setting: Setting) -> None:
    record = delayed(setting)
    setting.claim(2)
    kernel.read(record, setting.message(1), setting.message(1), setting.message(2))
    for now in range(4):  # claim, then: is it due?, once for each message and before the next read
        kernel.monotonic(BEGIN_NS + now, record=record)
    stop(kernel, record)
    assert run(kernel, record, "pipelined") == Return.STOPPED
    assert (record.lost_claims, record.queue_tail) == (2, 1)
    assert record.timeout_ns == DELAY_NS - 3


@pytest.mark.parametrize("claims", [0, 1])
def test_a_pipelined_reader_without_a_clock_is_named(
    kernel: ScriptedKernel, setting: Setting, claims: int
) -> None:
    record = delayed(setting)
    kernel.read(record, setting.message(1))
    for _ in range(claims):
        kernel.monotonic(BEGIN_NS, record=record)
    kernel.monotonic(0, record=record, reply=-errno.EINVAL)
    assert run(kernel, record, "pipelined") == Return.FAILED
    assert failure(record) == (Call.CLOCK_GETTIME, errno.EINVAL)
    assert (record.queue_head, record.queue_tail) == (0, claims)


def test_an_install_that_fails_is_named_and_the_rest_of_the_ring_still_comes_in(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = delayed(setting)
    kernel.read(record, setting.message(1), setting.message(2))
    kernel.monotonic(BEGIN_NS, record=record)
    kernel.monotonic(BEGIN_NS, record=record)
    kernel.monotonic(BEGIN_NS, record=record)
    kernel.monotonic(BEGIN_NS + DELAY_NS, record=record)
    kernel.copy(setting, record, 1, reply=-errno.ENOMEM)
    assert run(kernel, record, "pipelined") == Return.FAILED
    assert failure(record) == (Call.UFFDIO_COPY, errno.ENOMEM)
    assert record.page == 1
    kernel.monotonic(BEGIN_NS + DELAY_NS, record=record)
    kernel.copy(setting, record, 2)
    stop(kernel, record)
    assert run(kernel, record, "pipelined") == Return.STOPPED
    assert setting.present() == {2}


def test_a_pipelined_page_that_was_there_already_wakes_its_range(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = delayed(setting)
    kernel.read(record, setting.message(1))
    kernel.monotonic(BEGIN_NS, record=record)
    kernel.monotonic(BEGIN_NS + DELAY_NS, record=record)
    kernel.copy(setting, record, 1, reply=-errno.EEXIST)
    kernel.wake_range(setting, record, 1)
    stop(kernel, record)
    assert run(kernel, record, "pipelined") == Return.STOPPED
    assert (record.eexist, record.wakes) == (1, 1)


def test_the_address_of_a_message_may_lie_anywhere_in_its_page(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.reader()
    kernel.read(record, setting.message(22, offset=PAGE_BYTES - 1))
    kernel.copy(setting, record, 22)
    stop(kernel, record)
    assert run(kernel, record) == Return.STOPPED
    assert setting.present() == {22}
