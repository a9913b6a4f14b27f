"""The anonymous backing: where it lies, and that nothing makes a huge page of it."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest

from kvmpc.abi import mman
from kvmpc.errors import KernelError
from kvmpc.kernel import syscalls
from kvmpc.units import MIB, PAGE_BYTES
from kvmpc.vm.backing import AnonymousBacking
from kvmpc.vm.memory import GuestMemory


@pytest.mark.parametrize("pages", [1, 23, 997])
def test_a_backing_is_aligned_and_gone_when_it_is_closed(pages: int) -> None:
    with AnonymousBacking(pages * PAGE_BYTES) as backing:
        assert backing.hva % (2 * MIB) == 0
        assert backing.unit_bytes == PAGE_BYTES
        assert not any(syscalls.mincore(backing.hva, pages))
    with pytest.raises(KernelError, match="ENOMEM"):
        syscalls.mincore(backing.hva, pages)


@pytest.mark.parametrize(
    ("advice", "number", "does_without"),
    [
        (mman.MADV_NOHUGEPAGE, errno.EINVAL, True),
        (mman.MADV_NOHUGEPAGE, errno.ENOMEM, False),
        (mman.MADV_DONTFORK, errno.EINVAL, False),
    ],
)
def test_only_a_kernel_without_huge_pages_may_refuse_the_advice_against_them(
    monkeypatch: pytest.MonkeyPatch, advice: int, number: int, does_without: bool
) -> None:
    def madvise(address: int, size_bytes: int, given: int, *, call: str) -> None:
        if given == advice:
            raise KernelError(call, number)
        plain(address, size_bytes, given, call=call)

    plain = syscalls.madvise
    monkeypatch.setattr(syscalls, "madvise", madvise)
    before = Path("/proc/self/maps").read_text().count("\n")
    if does_without:
        AnonymousBacking(23 * PAGE_BYTES).close()
    else:
        with pytest.raises(KernelError):
            AnonymousBacking(23 * PAGE_BYTES)
    # At most: what Python itself maps meanwhile may come to lie beside.
    assert Path("/proc/self/maps").read_text().count("\n") <= before + 1


@pytest.mark.parametrize("pages", [1, 23, 511, 512, 513, 3680])
def test_nothing_accessible_shares_a_huge_page_with_guest_memory(pages: int) -> None:
    with GuestMemory(165 * PAGE_BYTES, pages * PAGE_BYTES) as memory:
        start, end = memory.data_hva, memory.hva_of_page(pages)
        huge_end = -(-end // (2 * MIB)) * (2 * MIB)
        areas = [
            (int(low, 16), int(high, 16), access)
            for low, high, access in re.findall(
                r"^([0-9a-f]+)-([0-9a-f]+) (\S+)", Path("/proc/self/maps").read_text(), re.M
            )
        ]
        there = [area for area in areas if area[0] < huge_end and area[1] > start]
        assert there[0] == (start, end, "rw-p")
        assert [access for _, _, access in there[1:]] == ["---p"] * (end < huge_end)
