"""The missing bitmap: what it holds at first, and what a bit of it is."""

from __future__ import annotations

import ctypes

import pytest

from kvmpc.vm.bitmap import MissingBitmap


@pytest.mark.parametrize("pages", [1, 7, 8, 9, 23, 63, 64, 65, 127, 997, 4099, 32768, 32771])
def test_at_first_every_page_is_missing_and_nothing_beyond_is(pages: int) -> None:
    with MissingBitmap(pages) as bitmap:
        assert all(bitmap.is_missing(page) for page in range(pages))
        size_bytes = -(-pages // 64) * 8
        raw = int.from_bytes(ctypes.string_at(bitmap.missing_address, size_bytes), "little")
        assert raw == (1 << pages) - 1
        assert not any(ctypes.string_at(bitmap.claimed_address, size_bytes))


@pytest.mark.parametrize(("pages", "cleared"), [(23, 22), (65, 64), (997, 0), (997, 511)])
def test_a_cleared_bit_is_that_pages_alone(pages: int, cleared: int) -> None:
    with MissingBitmap(pages) as bitmap:
        byte = ctypes.c_uint8.from_address(bitmap.missing_address + cleared // 8)
        byte.value &= ~(1 << cleared % 8)
        found = [page for page in range(pages) if not bitmap.is_missing(page)]
        assert found == [cleared]


@pytest.mark.parametrize(
    ("first", "length"), [(0, 997), (1, 996), (23, 23), (64, 64), (990, 7), (5, 1)]
)
def test_a_range_of_bits_is_what_its_single_bits_are(first: int, length: int) -> None:
    with MissingBitmap(997) as bitmap:
        for index in range(0, 125, 3):
            ctypes.c_uint8.from_address(bitmap.missing_address + index).value &= 0xA5
        size_bytes = -(-997 // 64) * 8
        ctypes.memmove(bitmap.claimed_address, bitmap.missing_address, size_bytes)
        for bits in (bitmap.missing(first, length), bitmap.claimed(first, length)):
            assert bits.bit_length() <= length
            assert [bits >> n & 1 for n in range(length)] == [
                bitmap.is_missing(first + n) for n in range(length)
            ]
