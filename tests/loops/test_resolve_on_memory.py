"""`resolve` on plain memory behind real userfaultfds: no VM, no guest, the builds pagers load."""

from __future__ import annotations

import ctypes
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from kvmpc.abi import mman
from kvmpc.abi import userfaultfd as uffd_abi
from kvmpc.errors import KernelError
from kvmpc.kernel import syscalls
from kvmpc.kernel.userfaultfd import Userfaultfd
from kvmpc.loops.program import load
from kvmpc.loops.records import Call, RecordArray, ResolverRecord, Return, SharedRecord
from kvmpc.units import PAGE_BYTES
from kvmpc.vm.bitmap import MissingBitmap
from kvmpc.vm.memory import DATA_GPA
from kvmpc.work.layout import shares
from kvmpc.work.tags import tag_rule
from tests.fakes.scripted import STEPS, counts, failure

pytestmark = pytest.mark.kvm

LIVENESS_S = 20.0
TAGS = tag_rule(11)
BUILDS = pytest.mark.parametrize("build", ["uffd", "exit"])


class PagedMemory:
    """Registered memory with its bitmaps and the records of two threads."""

    def __init__(self, pages: int, uffds: int, features: int) -> None:
        self.pages = pages
        self.memory = syscalls.Mapping.anonymous(pages * PAGE_BYTES)
        syscalls.madvise(
            self.memory.address, self.memory.size_bytes, mman.MADV_NOHUGEPAGE, call="madvise"
        )
        self.bitmap = MissingBitmap(pages)
        self.shared = SharedRecord()
        self.uffds: list[Userfaultfd] = []
        for first, length in shares(pages, uffds):
            self.uffds.append(Userfaultfd(features))
            self.uffds[-1].register(self.hva(first), length * PAGE_BYTES)
        self.fds = (ctypes.c_uint32 * uffds)(*(uffd.fd for uffd in self.uffds))
        self.array = RecordArray(ResolverRecord, 2, tail_bytes=PAGE_BYTES)
        self.records = list(self.array.records)
        for record, staging in zip(self.records, self.array.tails, strict=True):
            record.shared = ctypes.addressof(self.shared)
            record.missing = self.bitmap.missing_address
            record.claimed = self.bitmap.claimed_address
            record.pages, record.data_hva, record.data_gpa = pages, self.hva(0), DATA_GPA
            record.uffds, record.uffd_count = ctypes.addressof(self.fds), uffds
            record.staging = staging
            record.tag_multiplier, record.tag_seed = TAGS.multiplier, TAGS.seed

    def close(self) -> None:
        """Free whoever sleeps in a fault, then unmap."""
        for uffd in self.uffds:
            uffd.unregister()
            uffd.close()
        self.records = []
        self.array.close()
        self.bitmap.close()
        self.memory.close()

    def hva(self, page: int) -> int:
        return self.memory.address + page * PAGE_BYTES

    def resolve(self, page: int, build: str, thread: int = 0) -> int:
        return load(STEPS[build]).call("resolve", self.records[thread], page)

    def holds_its_tag(self, page: int) -> bool:
        """Return whether the page is exactly what the source makes of it."""
        gpa = DATA_GPA + page * PAGE_BYTES
        first, last = (word.to_bytes(8, "little") for word in (TAGS.tag(gpa), TAGS.last_word(gpa)))
        found = syscalls.read_own_memory(self.hva(page), PAGE_BYTES)
        return found == first + bytes(PAGE_BYTES - 16) + last

    def is_there(self, page: int) -> bool:
        """Return whether a read finds the page; only with UFFD_FEATURE_SIGBUS."""
        try:
            syscalls.read_own_memory(self.hva(page), 1)
        except KernelError as error:
            if error.errno == errno.EFAULT:
                return False
            raise
        return True

    def install_behind_the_back(self, page: int, mode: int) -> None:
        """Install a page as some other process would, past the bitmaps."""
        source = (ctypes.c_uint8 * (2 * PAGE_BYTES))()
        aligned = -(-ctypes.addressof(source) // PAGE_BYTES) * PAGE_BYTES
        copy = uffd_abi.uffdio_copy(dst=self.hva(page), src=aligned, len=PAGE_BYTES, mode=mode)
        syscalls.ioctl(self.fds[0], uffd_abi.UFFDIO_COPY, copy, call="UFFDIO_COPY")


Make = Callable[..., PagedMemory]


@pytest.fixture
def paged() -> Iterator[Make]:
    """Make registered memory; all of it is released at the end, and sleepers with it."""
    made: list[PagedMemory] = []

    def make(
        pages: int = 23, uffds: int = 1, features: int = uffd_abi.UFFD_FEATURE_SIGBUS
    ) -> PagedMemory:
        made.append(PagedMemory(pages, uffds, features))
        return made[-1]

    yield make
    for memory in made:
        memory.close()


@BUILDS
def test_a_page_is_installed_once_with_its_tag_and_no_other_page(paged: Make, build: str) -> None:
    memory = paged()
    assert memory.resolve(7, build) == Return.OK
    assert memory.holds_its_tag(7)
    assert [page for page in range(23) if memory.is_there(page)] == [7]
    assert [page for page in range(23) if not memory.bitmap.is_missing(page)] == [7]
    assert memory.resolve(7, build) == Return.OK
    assert counts(memory.records[0]) == {"fetches": 1, "installs": 1, "lost_claims": 1}


@BUILDS
@pytest.mark.parametrize("uffds", [1, 2, 13, 160, 997])
def test_every_page_of_every_share_is_installed(paged: Make, build: str, uffds: int) -> None:
    # UFFDIO_COPY through a userfaultfd that does not have the page is ENOENT.
    memory = paged(997, uffds)
    for page in range(997):
        assert memory.resolve(page, build) == Return.OK, failure(memory.records[0])
    assert all(memory.holds_its_tag(page) for page in range(997))
    assert memory.bitmap.missing(0, 997) == 0
    assert counts(memory.records[0]) == {"fetches": 997, "installs": 997}


@BUILDS
def test_a_range_that_is_not_registered_any_more_is_enoent(paged: Make, build: str) -> None:
    memory = paged()
    assert memory.resolve(1, build) == Return.OK
    memory.uffds[0].unregister()
    assert memory.resolve(2, build) == Return.FAILED
    record = memory.records[0]
    assert failure(record) == (Call.UFFDIO_COPY, errno.ENOENT)
    assert (record.page, memory.bitmap.is_missing(2)) == (2, True)
    assert counts(record) == {"fetches": 2, "installs": 1}


@BUILDS
def test_a_page_that_was_there_already_keeps_what_it_holds(paged: Make, build: str) -> None:
    memory = paged()
    memory.install_behind_the_back(3, 0)
    syscalls.write_own_memory(memory.hva(3), b"written by the guest")
    assert memory.resolve(3, build) == Return.OK
    assert syscalls.read_own_memory(memory.hva(3), 20) == b"written by the guest"
    assert not memory.bitmap.is_missing(3)
    wakes = {"wakes": 1} if build == "uffd" else {}
    assert counts(memory.records[0]) == {"fetches": 1, "eexist": 1} | wakes


def _reader(memory: PagedMemory, page: int, found: list[bytes]) -> threading.Thread:
    """Start a thread that reads a missing page, and wait until it sleeps in the fault."""

    def read() -> None:
        found.append(syscalls.read_own_memory(memory.hva(page), 8))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    message = uffd_abi.uffd_msg()
    deadline = time.monotonic() + LIVENESS_S
    while time.monotonic() < deadline:
        try:
            data = os.read(memory.fds[0], ctypes.sizeof(message))
        except BlockingIOError:
            time.sleep(0.001)
            continue
        ctypes.memmove(ctypes.addressof(message), data, len(data))
        assert message.arg.pagefault.address == memory.hva(page)
        return thread
    raise AssertionError("no message of the fault")


def test_an_install_wakes_who_sleeps_in_the_fault(paged: Make) -> None:
    memory = paged(features=0)
    found: list[bytes] = []
    thread = _reader(memory, 5, found)
    assert memory.resolve(5, "uffd") == Return.OK
    thread.join(LIVENESS_S)
    assert found == [TAGS.tag(DATA_GPA + 5 * PAGE_BYTES).to_bytes(8, "little")]


def test_a_page_that_was_there_already_still_wakes_who_sleeps_in_the_fault(paged: Make) -> None:
    memory = paged(features=0)
    found: list[bytes] = []
    thread = _reader(memory, 5, found)
    memory.install_behind_the_back(5, uffd_abi.UFFDIO_COPY_MODE_DONTWAKE)
    thread.join(0.05)
    assert found == [], "without the wake it sleeps on, and this test would show nothing"
    assert memory.resolve(5, "uffd") == Return.OK
    thread.join(LIVENESS_S)
    assert found == [bytes(8)]
    assert memory.records[0].wakes == 1


@pytest.mark.parametrize("build", ["uffd", "exit", "exit+delay"])
def test_of_two_threads_that_race_for_a_page_exactly_one_installs_it(
    paged: Make, build: str
) -> None:
    pages = 199
    memory = paged(pages, 2)
    for record in memory.records:
        record.fetch_delay_ns = 20_000
    start = threading.Barrier(2, timeout=LIVENESS_S)
    problems: list[object] = []

    def race(thread: int) -> None:
        for page in range(pages):
            start.wait()
            code = memory.resolve(page, build, thread)
            # In `exit` the loser too comes back only once the page is there.
            late = build != "uffd" and memory.bitmap.is_missing(page)
            if code != Return.OK or late:
                problems.append((thread, page, code, late))

    threads = [threading.Thread(target=race, args=(n,), daemon=True) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIVENESS_S)
    assert not any(thread.is_alive() for thread in threads)
    assert problems == []
    first, second = memory.records
    assert first.installs + second.installs == pages
    assert first.lost_claims + second.lost_claims == pages
    assert first.eexist == second.eexist == 0
    assert memory.shared.waiters == 0
    assert all(memory.holds_its_tag(page) for page in range(pages))
    if build == "exit+delay":
        assert first.waits + second.waits > 0, "the loser never had to sleep"
