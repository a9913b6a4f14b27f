"""Which pages are still missing: the two bitmaps of a trial, as KVM's own has them."""

from __future__ import annotations

import ctypes
from typing import Self

from kvmpc.kernel import syscalls

__all__ = ["MissingBitmap"]


class MissingBitmap:
    """One bit a page, twice: `missing` (1 = not installed) and `claimed` (1 = somebody fetches it).

    Arrays of u64, bit i = page i, as KVM's own bitmap has them. Both live until close; the native
    loops change them through the addresses given here.
    """

    def __init__(self, pages: int) -> None:
        self.pages = pages
        size_bytes = -(-pages // 64) * 8
        self._missing = syscalls.Mapping.anonymous(size_bytes, what="missing bitmap")
        try:
            # Resident: its first touch would be a fault of ours in the measured path.
            self._claimed = syscalls.Mapping.anonymous(
                size_bytes, populate=True, what="claimed bitmap"
            )
        except BaseException:
            self._missing.close()
            raise
        self.missing_address = self._missing.address
        self.claimed_address = self._claimed.address
        ctypes.memset(self.missing_address, 0xFF, pages // 8)
        if pages % 8:
            ctypes.c_uint8.from_address(self.missing_address + pages // 8).value = (
                1 << pages % 8
            ) - 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmap both."""
        self._claimed.close()
        self._missing.close()

    def is_missing(self, page: int) -> bool:
        """Return the missing bit of `page`."""
        byte = ctypes.c_uint8.from_address(self.missing_address + page // 8).value
        return bool(byte >> page % 8 & 1)

    def missing(self, first_page: int, pages: int) -> int:
        """Return the missing bits of a range as one number; bit 0 is `first_page`."""
        return _bits(self.missing_address, first_page, pages)

    def claimed(self, first_page: int, pages: int) -> int:
        """Return the claimed bits of a range in the same way."""
        return _bits(self.claimed_address, first_page, pages)


def _bits(address: int, first_page: int, pages: int) -> int:
    first_byte, last_byte = first_page // 8, (first_page + pages + 7) // 8
    raw = ctypes.string_at(address + first_byte, last_byte - first_byte)
    return int.from_bytes(raw, "little") >> first_page % 8 & ((1 << pages) - 1)
