"""mmap(2), mprotect(2) and madvise(2).

Source: include/uapi/linux/mman.h, include/uapi/asm-generic/mman.h and mman-common.h.
"""

__all__ = [
    "MADV_DONTFORK",
    "MADV_NOHUGEPAGE",
    "MAP_ANONYMOUS",
    "MAP_NORESERVE",
    "MAP_POPULATE",
    "MAP_PRIVATE",
    "MAP_SHARED",
    "PROT_EXEC",
    "PROT_NONE",
    "PROT_READ",
    "PROT_WRITE",
]

# asm-generic/mman-common.h
PROT_NONE = 0x0
PROT_READ = 0x1
PROT_WRITE = 0x2
PROT_EXEC = 0x4

# linux/mman.h
MAP_SHARED = 0x01
MAP_PRIVATE = 0x02

# asm-generic/mman-common.h
MAP_ANONYMOUS = 0x20
MAP_POPULATE = 0x008000

# asm-generic/mman.h
MAP_NORESERVE = 0x4000

# asm-generic/mman-common.h
MADV_DONTFORK = 10
MADV_NOHUGEPAGE = 15
