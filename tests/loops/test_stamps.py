"""The steps of a latency split: which stamp a page carries, and when it was taken."""

from __future__ import annotations

import ctypes

import pytest

from kvmpc.loops.records import PendingRecord, ResolverRecord, Return
from kvmpc.loops.stamps import STAMPS
from kvmpc.units import PAGE_BYTES
from tests.fakes.scripted import JUNK_BYTE, ScriptedKernel, Setting, counts, tsc

JUNK = bytes([JUNK_BYTE] * 8)
NOW_NS = 7_000_000_000
DELAY_NS = 200_000
RESOLVER = ("STAMP_CLAIMED", "STAMP_FETCHED", "STAMP_INSTALL")


def staged(record: ResolverRecord) -> list[int]:
    """Return the stamps in the staging page, in the order in which they are taken."""
    return [ctypes.c_uint64.from_address(record.staging + STAMPS[name]).value for name in RESOLVER]


def test_stamps_have_words_of_their_own_between_the_guests_and_the_last_tag() -> None:
    offsets = list(STAMPS.values())
    assert len(set(offsets)) == len(offsets)
    assert all(16 <= offset < 64 and offset % 8 == 0 for offset in offsets)


@pytest.mark.parametrize("build", ["uffd+split", "exit+split"])
@pytest.mark.parametrize("page", [0, 7, 22])
def test_a_page_carries_its_claim_its_install_and_the_end_of_it(
    kernel: ScriptedKernel, setting: Setting, build: str, page: int
) -> None:
    record = setting.resolver()
    setting.back(record)
    seen: list[list[int]] = []
    times = [tsc()]
    kernel.copy(
        setting, record, page, do=lambda: (seen.append(staged(record)), times.append(tsc()))[0]
    )
    assert kernel.run("resolve", record, page=page, build=build) == Return.OK
    times.append(tsc())
    [[claimed, fetched, install]] = seen
    before, copying, after = times
    assert before < claimed == fetched < install < copying
    assert copying < setting.stamp(page, "STAMP_INSTALLED") < after
    assert counts(record) == {"fetches": 1, "installs": 1}
    assert setting.present() == {page}


@pytest.mark.parametrize("build", ["uffd+delay+split", "exit+delay+split"])
def test_a_fetch_lies_between_the_claim_and_the_stamp_of_its_bytes(
    kernel: ScriptedKernel, setting: Setting, build: str
) -> None:
    record = setting.resolver()
    setting.back(record)
    record.fetch_delay_ns = DELAY_NS
    times: list[int] = []
    kernel.monotonic(NOW_NS, record=record)
    kernel.sleep(record, NOW_NS + DELAY_NS, do=lambda: times.extend([tsc(), tsc()]))
    seen: list[list[int]] = []
    kernel.copy(setting, record, 3, do=lambda: seen.append(staged(record)))
    assert kernel.run("resolve", record, page=3, build=build) == Return.OK
    [[claimed, fetched, install]] = seen
    asleep, awake = times
    assert claimed < asleep < awake < fetched < install
    assert record.fetch_cycles == fetched - claimed


@pytest.mark.parametrize(("ring", "together"), [(2, False), (64, False), (64, True)])
def test_a_page_from_the_ring_carries_the_claim_that_put_it_there(
    kernel: ScriptedKernel, setting: Setting, ring: int, together: bool
) -> None:
    record = setting.reader(ring=ring)
    setting.back(record)
    record.fetch_delay_cycles = 0
    # Three pages through a ring of two: the entry taken last is also found behind the wrap.
    seen: list[list[int]] = []
    claims: list[int] = []
    size = ctypes.sizeof(PendingRecord)
    if together:
        kernel.read(record, *(setting.message(page) for page in (9, 4, 7)))
    for number, page in enumerate((9, 4, 7)):
        if not together:
            kernel.read(record, setting.message(page))

        def copying(number: int = number) -> None:
            at = record.queue + (number & record.queue_mask) * size
            claims.append(PendingRecord.from_address(at).due_cycles)
            seen.append(staged(record))

        kernel.copy(setting, record, page, do=copying)
    kernel.read(record)
    kernel.poll_until_stop(record)
    kernel.stamp_end(record)
    assert kernel.run("reader_loop", record, build="pipelined+split") == Return.STOPPED
    assert [stamps[0] for stamps in seen] == claims
    for claimed, fetched, install in seen:
        assert claimed <= fetched < install
    assert sum(fetched - claimed for claimed, fetched, _ in seen) == record.fetch_cycles
    assert all(setting.stamp(page, "STAMP_INSTALLED") for page in (9, 4, 7))


def test_a_delay_is_not_part_of_the_claim_of_a_page_from_the_ring(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.reader()
    setting.back(record)
    record.fetch_delay_cycles = 1000
    record.queue_head, record.queue_tail = 3, 4
    entry = PendingRecord.from_address(record.queue + 3 * ctypes.sizeof(PendingRecord))
    entry.due_cycles, entry.page = 5000, 1
    setting.claim(1)
    seen: list[list[int]] = []
    kernel.copy(setting, record, 1, do=lambda: seen.append(staged(record)))
    assert kernel.run("due_installs", record, build="pipelined+split") == Return.OK
    assert seen[0][0] == 4000


def test_a_stamp_goes_to_its_page_and_nowhere_else(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.resolver()
    setting.back(record)
    kernel.copy(setting, record, 5)
    assert kernel.run("resolve", record, page=5, build="uffd+split") == Return.OK
    words = (ctypes.c_uint64 * (setting.pages * PAGE_BYTES // 8)).from_address(setting.data_hva)
    written = [index for index, word in enumerate(words) if word.to_bytes(8) != JUNK]
    assert written == [(5 * PAGE_BYTES + STAMPS["STAMP_INSTALLED"]) // 8]
