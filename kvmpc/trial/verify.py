"""What must hold for a trial's rate to be believed. Each check raises `VerifyError`.

Before the gate no page may be there yet. Afterwards the guest's own view (tags), the kernel's
(pagemap), and the loops' bitmaps and counts must all say that exactly the expected pages are there,
each fetched and installed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from kvmpc.errors import VerifyError
from kvmpc.kernel import syscalls
from kvmpc.loops.program import NativeProgram
from kvmpc.loops.records import (
    WRITTEN_WORD,
    InspectRecord,
    ReaderRecord,
    ResolverRecord,
    Return,
    VcpuRecord,
)
from kvmpc.trial.outcome import Finding
from kvmpc.vm.bitmap import MissingBitmap
from kvmpc.vm.contents import part_fields
from kvmpc.vm.guest import Guest
from kvmpc.vm.memory import DATA_GPA, GuestMemory
from kvmpc.vm.presence import Presence
from kvmpc.work.layout import Layout
from kvmpc.work.tags import ZERO, TagRule
from kvmpc.work.work import Work

__all__ = [
    "verified",
    "verify_absent",
    "verify_bitmap",
    "verify_contents",
    "verify_counts",
    "verify_guest",
    "verify_presence",
]

_Check = Callable[[], None]

_PIECE = 1 << 16
"""Pages read back between two looks at whether somebody wants to stop."""


def _parts(layout: Layout, check: _Check) -> Iterator[int]:
    """Yield each part's first page.

    `check` is called between parts: a large guest takes seconds, and somebody may want to stop.
    """
    for part in range(layout.work.parts):
        check()
        yield part * layout.work.pages_per_part


def verify_absent(presence: Presence, layout: Layout, check: _Check = lambda: None) -> None:
    """No page is present in this process: whatever supplies them, it has all of them to supply.

    A page that is there too early costs its vCPU no fault, so it would make a pager look better
    than it is. Raises: VerifyError, OSError, KernelError, what `check` raises.
    """
    pages = layout.work.pages_per_part
    if not any(presence.any_resident(first, pages) for first in _parts(layout, check)):
        return
    found, first_found = 0, 0
    for first in _parts(layout, check):
        present = presence.present(first, pages)
        if not found and 1 in present:
            first_found = first + present.index(1)
        found += sum(present)
    raise VerifyError(
        f"pages were there before the gate that nobody had touched: {found} of "
        f"{layout.work.total_pages}; {presence.describe(first_found)}"
    )


def verify_guest(guest: Guest, presence: Presence, layout: Layout, tags: TagRule) -> None:
    """Every vCPU has touched every page of its order, and found the right tags.

    Names the first wrong page by vCPU and page. Raises: VerifyError, OSError.
    """
    for vcpu in range(layout.work.vcpus):
        record = guest.record(vcpu)
        if record.touched != record.touches:
            raise VerifyError(f"vcpu{vcpu} touched {record.touched} of {record.touches} pages")
        if record.mismatches:
            gpa = record.wrong_gpa
            page = (gpa - DATA_GPA) // layout.work.unit_bytes
            raise VerifyError(
                f"vcpu{vcpu} found a wrong tag in {record.mismatches} of its pages, first in page "
                f"{page} (gpa {gpa:#x}): "
                f"{record.wrong_first:#018x} and {record.wrong_last:#018x} in its first and last "
                f"word, not {tags.tag(gpa):#018x} and {tags.last_word(gpa):#018x}; "
                f"{presence.describe(page)}"
            )


def verify_presence(presence: Presence, layout: Layout, check: _Check = lambda: None) -> None:
    """Exactly the touched pages are present in this process.

    Raises: VerifyError, OSError, what `check` raises.
    """
    pages = layout.work.pages_per_part
    for first in _parts(layout, check):
        present = presence.present(first, pages)
        if present == layout.expected_part:
            continue
        wrong = next(page for page in range(pages) if present[page] != layout.expected_part[page])
        state = "present, though nobody touched it" if present[wrong] else "missing"
        raise VerifyError(
            f"page {first + wrong} is {state}; {sum(present)} pages of part {first // pages} are "
            f"present, {layout.work.touched_per_part} expected"
        )


def verify_bitmap(bitmap: MissingBitmap, layout: Layout) -> None:
    """Exactly the touched pages are claimed, and not missing any more. Raises: VerifyError."""
    pages = layout.work.pages_per_part
    # One digit a page, page 0 last: the fast way from bytes to bits.
    touched = int(layout.expected_part[::-1].translate(bytes.maketrans(b"\0\1", b"01")), 2)
    untouched = touched ^ (1 << pages) - 1
    for first in range(0, layout.work.total_pages, pages):
        for found, expected, too_many, too_few in (
            (bitmap.missing(first, pages), untouched, "still marked missing", "not marked missing"),
            (bitmap.claimed(first, pages), touched, "claimed", "not claimed"),
        ):
            if difference := found ^ expected:
                wrong = (difference & -difference).bit_length() - 1
                state = too_many if found >> wrong & 1 else too_few
                raise VerifyError(f"page {first + wrong} is {state} in the bitmap")


def verify_counts(records: Sequence[ResolverRecord], expected_pages: int) -> None:
    """The threads together have fetched and installed every expected page once, and no more.

    A page is claimed before it is fetched, and a claim is never given back, so however many vCPUs
    and readers meet at a page one of them fetches it and calls UFFDIO_COPY for it, whatever else
    they do: the others lose the claim. EEXIST is then a page that something else has put there, or
    a claim that did not hold; there is no race in which it would be right.

    What came in adds up to the same: each message of a page fault that a reader took, and each exit
    of a vCPU for a page, is one claim, won or lost. How many of them are lost is up to the race:
    vCPUs meet in one page, and a fault that something wakes in between is told again.

    Raises: VerifyError.
    """
    fetched = sum(record.fetches for record in records)
    installed = sum(record.installs for record in records)
    found = sum(record.eexist for record in records)
    if (fetched, installed, found) != (expected_pages, expected_pages, 0):
        raise VerifyError(
            f"{fetched} pages were fetched, {installed} installed and {found} found present "
            f"already; {expected_pages} expected, each fetched and installed once"
        )
    came_in = sum(getattr(record, name) for record in records for name in _notices(record))
    lost = sum(record.lost_claims for record in records)
    if came_in != fetched + lost:
        raise VerifyError(
            f"{came_in} faults came in, but {fetched + lost} claims were made of their pages: "
            f"{fetched} won, {lost} lost"
        )


def _notices(record: ResolverRecord) -> tuple[str, ...]:
    """Return the counters of what told the record's thread of a missing page."""
    if isinstance(record, ReaderRecord):
        return ("received",)
    if isinstance(record, VcpuRecord):
        return ("exits_annotated", "exits_registers", "exits_mmio")
    return ()


def verify_contents(
    program: NativeProgram,
    memory: GuestMemory,
    layout: Layout,
    tags: TagRule,
    check: _Check = lambda: None,
    *,
    stamped: bool = False,
) -> None:
    """Every touched page still holds its tags, and the word that the guest wrote when it came.

    So a page that was lost after its vCPU had gone on, and filled again, is found: the second fill
    has the same tags, but not that word. With read access nobody writes to a page, the two fills
    are the same to the last bit, and only the counts may tell of the second one. Where the work
    verifies the whole page, every byte of it is looked at, but for the stamps of a latency split
    (`stamped`).

    To be called once `verify_presence` has passed and the userfaultfds are unregistered: pages are
    read where they are, so none may be missing, nor wait for anybody.
    Raises: VerifyError, OSError, KernelError, what `check` raises.
    """
    work = layout.work
    for first in range(0, work.total_pages, work.pages_per_part):
        record = InspectRecord(**part_fields(memory, layout, tags, first, stamped=stamped))
        record.written = ~0 if work.access == "write" else 0
        for end in range(_PIECE, work.touched_per_part + _PIECE, _PIECE):
            check()
            record.end = min(end, work.touched_per_part)
            if program.call("inspect", record) != Return.OK:
                page = first + layout.page_of_index(record.index)
                raise VerifyError(_difference(memory, work, page, record))


def _difference(memory: GuestMemory, work: Work, page: int, record: InspectRecord) -> str:
    """Return what page `page` holds, and `record` says it should not.

    Raises: OSError, KernelError.
    """
    gpa, size = DATA_GPA + page * work.unit_bytes, work.unit_bytes
    tags = TagRule(record.tag_multiplier, record.tag_seed)
    words = memoryview(syscalls.read_own_memory(memory.hva_of_page(page), size)).cast("Q")
    wanted = dict.fromkeys(range(size - 8 - 8 * record.body_words, size - 8, 8), record.body)
    wanted |= {0: tags.tag(gpa), WRITTEN_WORD: gpa & record.written, size - 8: tags.last_word(gpa)}
    wrong = [offset for offset, word in sorted(wanted.items()) if words[offset // 8] != word]
    if wrong == [WRITTEN_WORD] and not words[WRITTEN_WORD // 8]:
        told = "its tags are right, but what the guest wrote is gone: it was filled a second time"
    else:
        told = "; ".join(
            f"byte {offset}: {words[offset // 8]:#018x}, not {wanted[offset]:#018x}"
            for offset in wrong[:3]
        )
        if len(wrong) > 3:
            told += f"; and {len(wrong) - 3} more words"
    return (
        f"page {page} (gpa {gpa:#x}) does not hold what it did when the guest looked: {told}; "
        f"{memory.presence.describe(page)}"
    )


def verified(work: Work, tags: TagRule) -> Finding:
    """Return how far the pages of a trial are verified that has passed all checks."""
    if not work.checked:
        return Finding(verified="presence only")
    if tags == ZERO:
        return Finding(verified="zeros")
    return Finding(verified="whole" if work.verify == "page" else "yes")
