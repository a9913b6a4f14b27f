"""Guest memory: what is written to its low slot."""

from __future__ import annotations

import pytest

from kvmpc.units import PAGE_BYTES
from kvmpc.vm.memory import GuestMemory


@pytest.mark.parametrize("gpa", [-1, 4 * PAGE_BYTES - 2, 4 * PAGE_BYTES])
def test_a_write_outside_the_low_slot_is_refused(gpa: int) -> None:
    with (
        GuestMemory(4 * PAGE_BYTES, PAGE_BYTES) as memory,
        pytest.raises(ValueError, match="do not fit the low slot"),
    ):
        memory.write_low(gpa, b"abc")
