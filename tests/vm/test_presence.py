"""Which pages are there, as the kernel says."""

from __future__ import annotations

from kvmpc.kernel import syscalls
from kvmpc.units import GIB, MIB, PAGE_BYTES
from kvmpc.vm.backing import AnonymousBacking
from kvmpc.vm.memory import GuestMemory
from kvmpc.vm.presence import Presence


def test_presence_is_read_without_touching_a_page() -> None:
    with GuestMemory(16 * PAGE_BYTES, 997 * PAGE_BYTES) as memory:
        there = memory.presence
        assert there.present(0, 997) == bytes(997)
        assert not there.any_resident(0, 997)
        for page in (0, 22, 996):
            syscalls.write_own_memory(memory.hva_of_page(page) + 8, b"x")
        present = there.present(0, 997)
        assert [page for page in range(997) if present[page]] == [0, 22, 996]
        assert there.present(20, 5) == present[20:25]
        assert there.any_resident(20, 5)
        assert not there.any_resident(23, 973)
        assert there.describe(22).startswith("page 22 is present; its mapping: ")
        assert "Rss: 12 kB" in there.describe(23)
        assert sum(there.pages_per_node().values()) in (0, 3)


def test_pages_are_units_whatever_the_base_page_is() -> None:
    with AnonymousBacking(23 * 2 * MIB) as backing:
        there = Presence(backing.hva, backing.size_bytes, 2 * MIB)
        for unit in (3, 22):
            syscalls.write_own_memory(backing.hva + unit * 2 * MIB, b"x")
        present = there.present(0, 23)
        assert [unit for unit in range(23) if present[unit]] == [3, 22]
        assert there.present(3, 1) == b"\1"
        assert there.any_resident(20, 3)
        assert not there.any_resident(4, 18)
        assert there.describe(22).startswith("page 22 is present; ")
        assert there.describe(21).startswith("page 21 is missing; ")


def test_a_terabyte_of_memory_is_mapped_without_taking_any() -> None:
    with GuestMemory(PAGE_BYTES, 1024 * GIB) as memory:
        assert not any(memory.presence.present(1024 * GIB // PAGE_BYTES - 23, 23))
