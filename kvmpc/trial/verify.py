"""What must hold for a trial's rate to be believed. Each check raises `VerifyError`.

Before the gate no page may be there yet. Afterwards the guest's own view (tags), the kernel's
(pagemap), and the loops' counts must all say that exactly the expected pages are there, each
installed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from kvmpc.errors import VerifyError
from kvmpc.loops.records import ResolverRecord
from kvmpc.trial.outcome import Finding
from kvmpc.vm.bitmap import MissingBitmap
from kvmpc.vm.guest import Guest
from kvmpc.vm.memory import DATA_GPA
from kvmpc.vm.presence import Presence
from kvmpc.work.layout import Layout
from kvmpc.work.tags import ZERO, TagRule
from kvmpc.work.work import Work

__all__ = [
    "verified",
    "verify_absent",
    "verify_bitmap",
    "verify_guest",
    "verify_installs",
    "verify_presence",
]

_Check = Callable[[], None]


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
    """Exactly the touched pages have their missing bit cleared. Raises: VerifyError."""
    pages = layout.work.pages_per_part
    # One digit a page, page 0 last: the fast way from bytes to bits.
    digits = layout.expected_part[::-1].translate(bytes.maketrans(b"\0\1", b"10"))
    expected = int(digits, 2)
    for part in range(layout.work.parts):
        missing = bitmap.missing(part * pages, pages)
        if missing != expected:
            difference = missing ^ expected
            wrong = (difference & -difference).bit_length() - 1
            state = "still marked missing" if missing >> wrong & 1 else "not marked missing"
            raise VerifyError(f"page {part * pages + wrong} is {state} in the bitmap")


def verify_installs(records: Sequence[ResolverRecord], expected_pages: int) -> None:
    """The threads together have installed as many pages as expected. Raises: VerifyError."""
    installed = sum(record.installs for record in records)
    if installed != expected_pages:
        found = sum(record.eexist for record in records)
        raise VerifyError(
            f"{installed} pages were installed and {found} found present already, "
            f"{expected_pages} expected"
        )


def verified(work: Work, tags: TagRule) -> Finding:
    """Return how far the pages of a trial are verified that has passed all checks."""
    if not work.checked:
        return Finding(verified="presence only")
    return Finding(verified="zeros" if tags == ZERO else "yes")
