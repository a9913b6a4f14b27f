"""The resolver: claim, fetch, stage, install, publish, wake, and what a lost claim does."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kvmpc.abi import userfaultfd as uffd_abi
from kvmpc.loops.records import SPIN_CYCLES, Call, Return, SharedRecord
from kvmpc.units import PAGE_BYTES
from kvmpc.work.layout import shares
from tests.fakes.scripted import STEPS, ScriptedKernel, Setting, counts, failure, tsc

BUILDS = ("uffd", "exit")
INSTALLED = {"fetches": 1, "installs": 1}


# --- install -----------------------------------------------------------------------------------


@pytest.mark.parametrize("build", ["uffd", "pipelined", "exit"])
@pytest.mark.parametrize("page", [0, 7, 22])
def test_a_missing_page_is_claimed_installed_and_published(
    kernel: ScriptedKernel, setting: Setting, build: str, page: int
) -> None:
    record = setting.resolver()
    record.copy_mode = uffd_abi.UFFDIO_COPY_MODE_DONTWAKE if build == "exit" else 0
    seen: list[tuple[set[int], set[int]]] = []
    kernel.copy(
        setting, record, page, do=lambda: seen.append((setting.claimed(), setting.present()))
    )
    assert kernel.run("resolve", record, page=page, build=build) == Return.OK
    assert seen == [({page}, set())], "claimed before, present only after the install"
    assert (setting.claimed(), setting.present()) == ({page}, {page})
    assert counts(record) == INSTALLED
    assert record.page == page
    assert record.install_cycles > 0
    assert record.fetch_cycles == 0


@pytest.mark.parametrize("build", STEPS)
def test_the_script_refuses_an_install_of_a_page_that_is_published_already(
    kernel: ScriptedKernel, setting: Setting, build: str
) -> None:
    # So every test that expects an install, of whatever build, shows the order of the two.
    record = setting.reader()
    setting.back(record)
    if "delay" in build:
        kernel.monotonic(NOW_NS, record=record)
        kernel.sleep(record, NOW_NS)
    kernel.copy(setting, record, 9)
    setting.publish(9)
    with pytest.raises(AssertionError, match="published before it is installed"):
        kernel.run("resolve", record, page=9, build=build)


def test_every_page_of_a_bitmap_of_many_words_has_a_bit_of_its_own(kernel: ScriptedKernel) -> None:
    setting = Setting(pages=997)
    record = setting.resolver()
    done: set[int] = set()
    for page in (0, 31, 32, 63, 64, 65, 511, 512, 991, 992, 996):
        kernel.copy(setting, record, page)
        assert kernel.run("resolve", record, page=page) == Return.OK
        done.add(page)
        assert (setting.claimed(), setting.present()) == (done, done)
    setting.close()


@pytest.mark.parametrize(
    "error", [errno.ENOENT, errno.ESRCH, errno.ENOMEM, errno.EINVAL, errno.ENOSPC, errno.EFAULT]
)
@pytest.mark.parametrize("build", BUILDS)
def test_an_install_that_fails_is_named_and_not_published(
    kernel: ScriptedKernel, setting: Setting, build: str, error: int
) -> None:
    record = setting.resolver()
    kernel.copy(setting, record, 22, reply=-error, copied=-error)
    assert kernel.run("resolve", record, page=22, build=build) == Return.FAILED
    assert failure(record) == (Call.UFFDIO_COPY, error)
    assert record.page == 22
    assert setting.present() == set()
    assert counts(record) == {"fetches": 1}


def test_a_page_that_was_there_already_is_published_and_its_range_woken(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.resolver()
    kernel.copy(setting, record, 9, reply=-errno.EEXIST, copied=-errno.EEXIST)
    kernel.wake_range(setting, record, 9)
    assert kernel.run("resolve", record, page=9) == Return.OK
    assert setting.present() == {9}
    assert counts(record) == {"fetches": 1, "eexist": 1, "wakes": 1}


def test_where_nobody_sleeps_in_a_fault_a_page_that_was_there_already_wakes_nobody(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.resolver()
    kernel.copy(setting, record, 9, reply=-errno.EEXIST, copied=-errno.EEXIST)
    assert kernel.run("resolve", record, page=9, build="exit") == Return.OK
    assert setting.present() == {9}
    assert counts(record) == {"fetches": 1, "eexist": 1}


def test_an_install_after_one_that_found_the_page_there_wakes_no_range(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.resolver()
    kernel.copy(setting, record, 1, reply=-errno.EEXIST)
    kernel.wake_range(setting, record, 1)
    assert kernel.run("resolve", record, page=1) == Return.OK
    kernel.copy(setting, record, 2)
    assert kernel.run("resolve", record, page=2) == Return.OK
    assert record.wakes == 1


def test_a_wake_that_fails_is_named(kernel: ScriptedKernel, setting: Setting) -> None:
    record = setting.resolver()
    kernel.copy(setting, record, 9, reply=-errno.EEXIST)
    kernel.wake_range(setting, record, 9, reply=-errno.EINVAL)
    assert kernel.run("resolve", record, page=9) == Return.FAILED
    assert failure(record) == (Call.UFFDIO_WAKE, errno.EINVAL)
    assert record.page == 9


@pytest.mark.parametrize("copied", [None, -errno.EAGAIN])
@pytest.mark.parametrize("build", BUILDS)
def test_a_copy_that_has_to_be_repeated_begins_again_where_it_was(
    kernel: ScriptedKernel, setting: Setting, build: str, copied: int | None
) -> None:
    record = setting.resolver()
    for _ in range(3):
        kernel.copy(setting, record, 9, reply=-errno.EAGAIN, copied=copied)
    kernel.copy(setting, record, 9)
    assert kernel.run("resolve", record, page=9, build=build) == Return.OK
    assert counts(record) == INSTALLED | {"eagain": 3}
    assert setting.present() == {9}


def test_a_copy_that_came_half_way_goes_on_from_there(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.resolver()
    kernel.copy(setting, record, 9, reply=-errno.EAGAIN, copied=1024)
    kernel.copy(setting, record, 9, reply=-errno.EAGAIN, copied=512, skipped=1024)
    kernel.copy(setting, record, 9, reply=-errno.EAGAIN, copied=-errno.EAGAIN, skipped=1536)
    kernel.copy(setting, record, 9, skipped=1536)
    assert kernel.run("resolve", record, page=9) == Return.OK
    assert counts(record) == INSTALLED | {"eagain": 3}


@pytest.mark.parametrize("copied", [-errno.EAGAIN, 1024])
def test_a_stop_ends_the_repetition_of_a_copy(
    kernel: ScriptedKernel, setting: Setting, copied: int
) -> None:
    record = setting.resolver()
    kernel.copy(setting, record, 9, reply=-errno.EAGAIN, copied=copied)
    kernel.copy(
        setting,
        record,
        9,
        reply=-errno.EAGAIN,
        skipped=max(copied, 0),
        do=lambda: setattr(record, "stop", 1),
    )
    assert kernel.run("resolve", record, page=9) == Return.STOPPED
    assert setting.present() == set()
    assert counts(record) == {"fetches": 1, "eagain": 2}


# --- which userfaultfd -------------------------------------------------------------------------


def _fd_of_each_page(pages: int, count: int) -> list[int]:
    return [100 + i for i, (_, length) in enumerate(shares(pages, count)) for _ in range(length)]


@pytest.mark.parametrize(
    ("pages", "count"),
    [
        *((1, 1), (2, 2), (23, 1), (23, 2), (23, 7), (23, 22), (23, 23), (24, 5)),
        *((997, 2), (997, 13), (997, 160), (997, 996), (997, 997), (1024, 3), (1024, 160)),
    ],
)
def test_a_page_goes_to_the_userfaultfd_that_has_its_share(
    kernel: ScriptedKernel, pages: int, count: int
) -> None:
    setting = Setting(pages, range(100, 100 + count))
    record = setting.resolver()
    for page, fd in enumerate(_fd_of_each_page(pages, count)):
        kernel.expect("ioctl", fd, uffd_abi.UFFDIO_COPY)
        assert kernel.run("install", record, page=page) == Return.OK
    assert record.installs == pages
    setting.close()


@pytest.mark.parametrize("build", BUILDS)
def test_each_bound_between_two_shares_of_a_huge_guest_is_where_the_shares_say(
    kernel: ScriptedKernel, setting: Setting, build: str
) -> None:
    count, pages = 160, 160 << 20 | 1
    record = setting.resolver()
    fds = (ctypes.c_uint32 * count)(*range(100, 100 + count))
    record.pages, record.uffds, record.uffd_count = pages, ctypes.addressof(fds), count
    for share, (first, length) in enumerate(shares(pages, count)):
        for page in (first, first + length - 1):
            kernel.expect("ioctl", 100 + share, uffd_abi.UFFDIO_COPY)
            assert kernel.run("install", record, page=page, build=build) == Return.OK
            assert record.copy_dst == setting.data_hva + page * PAGE_BYTES


@pytest.mark.parametrize("page", range(23))
def test_the_wake_goes_to_the_userfaultfd_that_said_the_page_is_there(
    kernel: ScriptedKernel, page: int
) -> None:
    setting = Setting(23, range(100, 105))
    record, fd = setting.resolver(), _fd_of_each_page(23, 5)[page]
    kernel.expect("ioctl", fd, uffd_abi.UFFDIO_COPY, reply=-errno.EEXIST)
    kernel.expect("ioctl", fd, uffd_abi.UFFDIO_WAKE)
    assert kernel.run("resolve", record, page=page) == Return.OK
    assert record.range_start == setting.data_hva + page * PAGE_BYTES
    setting.close()


# --- fetch -------------------------------------------------------------------------------------

DELAY_NS = 2_500_000_000
NOW_NS = 7_600_000_000
DUE_NS = NOW_NS + DELAY_NS


@pytest.mark.parametrize("build", ["uffd+delay", "exit+delay"])
def test_a_simulated_fetch_sleeps_to_its_time_before_the_install(
    kernel: ScriptedKernel, setting: Setting, build: str
) -> None:
    record = setting.resolver()
    record.fetch_delay_ns = DELAY_NS
    kernel.monotonic(NOW_NS, record=record)
    seen: list[set[int]] = []
    stamps = [tsc()]

    def sleep() -> None:
        seen.append(setting.claimed())
        stamps.extend([tsc(), tsc()])

    kernel.sleep(record, DUE_NS, do=sleep)
    kernel.copy(setting, record, 3)
    assert kernel.run("resolve", record, page=3, build=build) == Return.OK
    stamps.append(tsc())
    assert seen == [{3}], "claimed before the fetch"
    assert counts(record) == INSTALLED
    before, asleep, awake, after = stamps
    assert record.fetch_cycles >= awake - asleep
    assert record.install_cycles > 0
    assert record.fetch_cycles + record.install_cycles <= after - before


@pytest.mark.parametrize("build", ["uffd+delay", "exit+delay"])
def test_the_times_of_several_pages_add_up(
    kernel: ScriptedKernel, setting: Setting, build: str
) -> None:
    record = setting.resolver()
    before, record.fetch_cycles, record.install_cycles = tsc(), 1 << 50, 1 << 51
    for page in (3, 4):
        kernel.monotonic(NOW_NS, record=record)
        kernel.sleep(record, NOW_NS)
        kernel.copy(setting, record, page)
        assert kernel.run("resolve", record, page=page, build=build) == Return.OK
    took = tsc() - before
    assert 0 < record.fetch_cycles - (1 << 50) < took
    assert 0 < record.install_cycles - (1 << 51) < took


def test_a_sleep_that_a_signal_ends_goes_on_to_the_same_time(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.resolver()
    record.fetch_delay_ns = DELAY_NS
    kernel.monotonic(NOW_NS, record=record)
    kernel.sleep(record, DUE_NS, reply=-errno.EINTR)
    kernel.sleep(record, DUE_NS, reply=-errno.EINTR)
    kernel.sleep(record, DUE_NS)
    kernel.copy(setting, record, 3)
    assert kernel.run("resolve", record, page=3, build="exit+delay") == Return.OK
    assert counts(record) == INSTALLED | {"interrupts": 2}


@pytest.mark.parametrize("before", [True, False])
def test_a_stop_ends_a_simulated_fetch(
    kernel: ScriptedKernel, setting: Setting, before: bool
) -> None:
    record = setting.resolver()
    record.stop = before
    kernel.monotonic(NOW_NS, record=record)
    if not before:
        stop = lambda: setattr(record, "stop", 1)  # noqa: E731
        kernel.sleep(record, NOW_NS, reply=-errno.EINTR, do=stop)
    assert kernel.run("resolve", record, page=3, build="exit+delay") == Return.STOPPED
    assert counts(record) == ({} if before else {"interrupts": 1})
    assert setting.present() == set()


def test_a_simulated_fetch_without_a_clock_is_named(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.resolver()
    kernel.monotonic(NOW_NS, record=record, reply=-errno.EINVAL)
    assert kernel.run("resolve", record, page=3, build="exit+delay") == Return.FAILED
    assert failure(record) == (Call.CLOCK_GETTIME, errno.EINVAL)
    assert (record.page, counts(record)) == (3, {})


def test_a_sleep_that_fails_is_named(kernel: ScriptedKernel, setting: Setting) -> None:
    record = setting.resolver()
    kernel.monotonic(NOW_NS, record=record)
    kernel.sleep(record, NOW_NS, reply=-errno.EINVAL)
    assert kernel.run("resolve", record, page=3, build="exit+delay") == Return.FAILED
    assert failure(record) == (Call.CLOCK_NANOSLEEP, errno.EINVAL)
    assert (record.page, counts(record)) == (3, {})


# --- a lost claim ------------------------------------------------------------------------------


@contextmanager
def balanced_waiters(setting: Setting) -> Iterator[None]:
    """Check that a thread has signed off when it comes back, however that is."""
    setting.shared.waiters = 6
    yield
    assert setting.shared.waiters == 6


@pytest.mark.parametrize("build", ["uffd", "uffd+delay"])
def test_a_reader_drops_a_page_that_another_has_claimed(
    kernel: ScriptedKernel, setting: Setting, build: str
) -> None:
    record = setting.resolver()
    setting.claim(11)
    with balanced_waiters(setting):
        assert kernel.run("resolve", record, page=11, build=build) == Return.OK
    assert counts(record) == {"lost_claims": 1}
    assert setting.present() == set()
    assert record.page == 11


@pytest.mark.parametrize("page", [0, 11, 31, 32, 63, 64, 996])
def test_a_lost_page_that_is_there_needs_no_wait(kernel: ScriptedKernel, page: int) -> None:
    setting = Setting(997)
    record = setting.resolver()
    setting.claim(page)
    setting.publish(page)
    with balanced_waiters(setting):
        assert kernel.run("resolve", record, page=page, build="exit") == Return.OK
    assert counts(record) == {"lost_claims": 1}
    setting.close()


@pytest.mark.parametrize("page", [0, 11, 31, 32, 63, 64, 996])
@pytest.mark.parametrize("reply", [0, -errno.EAGAIN, -errno.EINTR])
def test_a_vcpu_waits_on_the_word_that_holds_its_page_until_it_is_there(
    kernel: ScriptedKernel, page: int, reply: int
) -> None:
    setting = Setting(997)
    record = setting.resolver()
    setting.claim(page)
    address, value = setting.missing_word(page)

    def publish() -> None:
        assert setting.shared.waiters == 7, "announced before it sleeps"
        setting.publish(page)

    kernel.futex_wait(address, value, reply=reply, do=publish)
    with balanced_waiters(setting):
        assert kernel.run("resolve", record, page=page, build="exit") == Return.OK
    interrupts = {"interrupts": 1} if reply == -errno.EINTR else {}
    assert counts(record) == {"lost_claims": 1, "waits": 1} | interrupts
    setting.close()


def test_a_wake_up_for_a_neighbours_page_is_counted_and_the_wait_goes_on(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.resolver()
    setting.claim(11)
    address, value = setting.missing_word(11)
    kernel.futex_wait(address, value, do=lambda: setting.publish(12))
    value &= ~(1 << 12)
    kernel.futex_wait(address, value, reply=-errno.EAGAIN, do=lambda: setting.publish(13))
    value &= ~(1 << 13)
    kernel.futex_wait(address, value, reply=-errno.EINTR)
    kernel.futex_wait(address, value, do=lambda: setting.publish(11))
    with balanced_waiters(setting):
        assert kernel.run("resolve", record, page=11, build="exit") == Return.OK
    assert counts(record) == {"lost_claims": 1, "waits": 4, "waits_empty": 3, "interrupts": 1}


@pytest.mark.parametrize("reply", [0, -errno.EAGAIN, -errno.EINTR])
def test_a_stop_ends_the_wait_for_anothers_page(
    kernel: ScriptedKernel, setting: Setting, reply: int
) -> None:
    record = setting.resolver()
    setting.claim(11)
    address, value = setting.missing_word(11)
    kernel.futex_wait(address, value, reply=reply, do=lambda: setattr(record, "stop", 1))
    with balanced_waiters(setting):
        assert kernel.run("resolve", record, page=11, build="exit") == Return.STOPPED
    assert record.waits_empty == 1


def test_a_vcpu_spins_for_a_while_before_it_waits_but_not_for_a_page_that_is_there(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.resolver()
    record.stop = 1
    took: dict[int, list[int]] = {Return.STOPPED: [], Return.OK: []}
    for code, spans in took.items():
        for _ in range(20):
            assert kernel.run("probe_lost", record, page=11, build="exit") == code
            spans.append(record.end_cycles - record.start_cycles)
        setting.publish(11)
    assert SPIN_CYCLES <= min(took[Return.STOPPED]) < 100 * SPIN_CYCLES
    assert min(took[Return.OK]) < SPIN_CYCLES


def test_a_stop_keeps_a_thread_from_waiting(kernel: ScriptedKernel, setting: Setting) -> None:
    record = setting.resolver()
    record.stop = 1
    setting.claim(11)
    with balanced_waiters(setting):
        assert kernel.run("resolve", record, page=11, build="exit") == Return.STOPPED
    assert counts(record) == {"lost_claims": 1}


def test_a_wait_that_fails_is_named(kernel: ScriptedKernel, setting: Setting) -> None:
    record = setting.resolver()
    setting.claim(11)
    address, value = setting.missing_word(11)
    kernel.futex_wait(address, value, reply=-errno.ENOSYS)
    with balanced_waiters(setting):
        assert kernel.run("resolve", record, page=11, build="exit") == Return.FAILED
    assert failure(record) == (Call.FUTEX, errno.ENOSYS)
    assert (record.page, counts(record)) == (11, {"lost_claims": 1, "waits": 1})


def test_a_page_that_comes_between_the_announcement_and_the_sleep_is_not_slept_for(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    # The word of the bitmap is the counter of waiters itself: announcing changes it, as another
    # thread's install would just then, and clears page 0's bit (1 becomes 2).
    record = setting.resolver()
    setting.claim(0)
    setting.shared.waiters = 1
    record.missing = ctypes.addressof(setting.shared) + SharedRecord.waiters.offset
    assert kernel.run("resolve", record, page=0, build="exit") == Return.OK
    assert setting.shared.waiters == 1
    assert counts(record) == {"lost_claims": 1}


# --- waking the losers -------------------------------------------------------------------------


@pytest.mark.parametrize("build", ["exit", "exit+split"])
@pytest.mark.parametrize("page", [0, 31, 32, 996])
def test_losers_are_woken_on_the_word_of_the_page_after_its_bit_is_clear(
    kernel: ScriptedKernel, page: int, build: str
) -> None:
    setting = Setting(997)
    record = setting.resolver()
    if "split" in build:
        setting.back(record)
    setting.shared.waiters = 1
    address, _ = setting.missing_word(page)
    kernel.copy(setting, record, page)
    seen: list[set[int]] = []
    kernel.futex_wake(address, reply=3, do=lambda: seen.append(setting.present()))
    assert kernel.run("resolve", record, page=page, build=build) == Return.OK
    assert seen == [{page}]
    assert counts(record) == INSTALLED
    setting.close()


def test_nobody_is_woken_where_nobody_waits(kernel: ScriptedKernel, setting: Setting) -> None:
    record = setting.resolver()
    kernel.copy(setting, record, 5)
    assert kernel.run("resolve", record, page=5, build="exit") == Return.OK


def test_losers_are_woken_also_for_a_page_that_was_there_already(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.resolver()
    setting.shared.waiters = 1
    kernel.copy(setting, record, 5, reply=-errno.EEXIST)
    kernel.futex_wake(setting.missing_word(5)[0])
    assert kernel.run("resolve", record, page=5, build="exit") == Return.OK


@pytest.mark.parametrize("error", [errno.EPERM, errno.EFAULT])
def test_losers_that_cannot_be_woken_are_an_error(
    kernel: ScriptedKernel, setting: Setting, error: int
) -> None:
    record = setting.resolver()
    setting.shared.waiters = 1
    kernel.copy(setting, record, 5)
    kernel.futex_wake(setting.missing_word(5)[0], reply=-error)
    assert kernel.run("resolve", record, page=5, build="exit") == Return.FAILED
    assert failure(record) == (Call.FUTEX, error)
    assert record.page == 5


@pytest.mark.parametrize("build", STEPS)
def test_a_page_is_resolved_once_whatever_the_steps(
    kernel: ScriptedKernel, setting: Setting, build: str
) -> None:
    # A pipelined reader's stamps come from its ring.
    later = STEPS[build].stage == "stage_stamped_later"
    record = setting.reader() if later else setting.resolver()
    if "split" in build:
        setting.back(record)
    if "delay" in build:
        kernel.monotonic(NOW_NS, record=record)
        kernel.sleep(record, NOW_NS)
    kernel.copy(setting, record, 5)
    assert kernel.run("resolve", record, page=5, build=build) == Return.OK
    assert kernel.run("resolve", record, page=5, build=build) == Return.OK
    assert counts(record) == INSTALLED | {"lost_claims": 1}
