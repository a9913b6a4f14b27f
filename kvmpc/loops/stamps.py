"""Which words of a page hold time stamps in a trial with a latency split: byte offsets.

A page's first and last words are its tags (kvmpc/work/tags.py) and its second one the guest's
(WRITTEN_WORD); these lie between, on the first cache line. All are TSC cycles, of the host or, by
`Vcpu.share_host_tsc`, the same in the guest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["STAMPS"]

STAMPS: Final[Mapping[str, int]] = {
    "STAMP_CLAIMED": 16,
    "STAMP_FETCHED": 24,
    "STAMP_INSTALL": 32,
    "STAMP_TOUCHED": 40,
    "STAMP_BACK": 48,
    "STAMP_INSTALLED": 56,
}
"""Resolver: has the page, has its bytes, begins to install it. Guest: before and after its touch.
Resolver again: UFFDIO_COPY has returned."""
