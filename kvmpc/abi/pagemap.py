"""/proc/PID/pagemap: one 64-bit entry per page.

Source: Documentation/admin-guide/mm/pagemap.rst; PM_* in fs/proc/task_mmu.c, which is no uapi
header.
"""

__all__ = ["PAGEMAP_ENTRY_BYTES", "PM_PRESENT", "PM_SWAP"]

PAGEMAP_ENTRY_BYTES = 8
"""PM_ENTRY_BYTES in fs/proc/task_mmu.c."""

PM_SWAP = 1 << 62
PM_PRESENT = 1 << 63
