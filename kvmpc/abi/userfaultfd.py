"""userfaultfd(2). Source: include/uapi/linux/userfaultfd.h; later additions name their release."""

import ctypes
from ctypes import c_int64 as s64
from ctypes import c_uint8 as u8
from ctypes import c_uint16 as u16
from ctypes import c_uint32 as u32
from ctypes import c_uint64 as u64

from kvmpc.abi.ioctl import _IO, _IOR, _IOWR

__all__ = [
    "UFFDIO",
    "UFFDIO_API",
    "UFFDIO_CONTINUE",
    "UFFDIO_CONTINUE_MODE_DONTWAKE",
    "UFFDIO_COPY",
    "UFFDIO_COPY_MODE_DONTWAKE",
    "UFFDIO_COPY_MODE_WP",
    "UFFDIO_MOVE",
    "UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES",
    "UFFDIO_MOVE_MODE_DONTWAKE",
    "UFFDIO_POISON",
    "UFFDIO_POISON_MODE_DONTWAKE",
    "UFFDIO_REGISTER",
    "UFFDIO_REGISTER_MODE_MINOR",
    "UFFDIO_REGISTER_MODE_MISSING",
    "UFFDIO_REGISTER_MODE_WP",
    "UFFDIO_UNREGISTER",
    "UFFDIO_WAKE",
    "UFFDIO_ZEROPAGE",
    "UFFDIO_ZEROPAGE_MODE_DONTWAKE",
    "UFFD_API",
    "UFFD_EVENT_FORK",
    "UFFD_EVENT_PAGEFAULT",
    "UFFD_EVENT_REMAP",
    "UFFD_EVENT_REMOVE",
    "UFFD_EVENT_UNMAP",
    "UFFD_FEATURE_EVENT_FORK",
    "UFFD_FEATURE_EVENT_REMAP",
    "UFFD_FEATURE_EVENT_REMOVE",
    "UFFD_FEATURE_EVENT_UNMAP",
    "UFFD_FEATURE_EXACT_ADDRESS",
    "UFFD_FEATURE_MINOR_HUGETLBFS",
    "UFFD_FEATURE_MINOR_SHMEM",
    "UFFD_FEATURE_MISSING_HUGETLBFS",
    "UFFD_FEATURE_MISSING_SHMEM",
    "UFFD_FEATURE_MOVE",
    "UFFD_FEATURE_PAGEFAULT_FLAG_WP",
    "UFFD_FEATURE_POISON",
    "UFFD_FEATURE_SIGBUS",
    "UFFD_FEATURE_THREAD_ID",
    "UFFD_FEATURE_WP_ASYNC",
    "UFFD_FEATURE_WP_HUGETLBFS_SHMEM",
    "UFFD_FEATURE_WP_UNPOPULATED",
    "UFFD_PAGEFAULT_FLAG_MINOR",
    "UFFD_PAGEFAULT_FLAG_WP",
    "UFFD_PAGEFAULT_FLAG_WRITE",
    "UFFD_USER_MODE_ONLY",
    "USERFAULTFD_IOC",
    "USERFAULTFD_IOC_NEW",
    "_UFFDIO_API",
    "_UFFDIO_CONTINUE",
    "_UFFDIO_COPY",
    "_UFFDIO_MOVE",
    "_UFFDIO_POISON",
    "_UFFDIO_REGISTER",
    "_UFFDIO_UNREGISTER",
    "_UFFDIO_WAKE",
    "_UFFDIO_WRITEPROTECT",
    "_UFFDIO_ZEROPAGE",
    "uffd_msg",
    "uffdio_api",
    "uffdio_continue",
    "uffdio_copy",
    "uffdio_move",
    "uffdio_poison",
    "uffdio_range",
    "uffdio_register",
    "uffdio_zeropage",
]

# ioctls for /dev/userfaultfd (Linux 6.1)
USERFAULTFD_IOC = 0xAA
USERFAULTFD_IOC_NEW = _IO(USERFAULTFD_IOC, 0x00)

# flags for the system call
UFFD_USER_MODE_ONLY = 1

UFFD_API = 0xAA

# read() structure: struct uffd_msg

UFFD_EVENT_PAGEFAULT = 0x12
UFFD_EVENT_FORK = 0x13
UFFD_EVENT_REMAP = 0x14
UFFD_EVENT_REMOVE = 0x15
UFFD_EVENT_UNMAP = 0x16

UFFD_PAGEFAULT_FLAG_WRITE = 1 << 0
UFFD_PAGEFAULT_FLAG_WP = 1 << 1
UFFD_PAGEFAULT_FLAG_MINOR = 1 << 2


class _feat(ctypes.Union):
    _fields_ = (("ptid", u32),)


class _pagefault(ctypes.Structure):
    _fields_ = (("flags", u64), ("address", u64), ("feat", _feat))


class _reserved(ctypes.Structure):
    _fields_ = (("reserved1", u64), ("reserved2", u64), ("reserved3", u64))


class _arg(ctypes.Union):
    _fields_ = (("pagefault", _pagefault), ("reserved", _reserved))


class uffd_msg(ctypes.Structure):
    # __attribute__((packed)) in the header, too; `_layout_` as in kvmpc.abi.epoll.
    _layout_ = "ms"
    _pack_ = 1
    _fields_ = (
        ("event", u8),
        ("reserved1", u8),
        ("reserved2", u16),
        ("reserved3", u32),
        ("arg", _arg),
    )


# struct uffdio_api

UFFD_FEATURE_PAGEFAULT_FLAG_WP = 1 << 0
UFFD_FEATURE_EVENT_FORK = 1 << 1
UFFD_FEATURE_EVENT_REMAP = 1 << 2
UFFD_FEATURE_EVENT_REMOVE = 1 << 3
UFFD_FEATURE_MISSING_HUGETLBFS = 1 << 4
UFFD_FEATURE_MISSING_SHMEM = 1 << 5
UFFD_FEATURE_EVENT_UNMAP = 1 << 6
UFFD_FEATURE_SIGBUS = 1 << 7
UFFD_FEATURE_THREAD_ID = 1 << 8
UFFD_FEATURE_MINOR_HUGETLBFS = 1 << 9
UFFD_FEATURE_MINOR_SHMEM = 1 << 10
UFFD_FEATURE_EXACT_ADDRESS = 1 << 11
UFFD_FEATURE_WP_HUGETLBFS_SHMEM = 1 << 12
UFFD_FEATURE_WP_UNPOPULATED = 1 << 13  # Linux 6.4
UFFD_FEATURE_POISON = 1 << 14  # Linux 6.6
UFFD_FEATURE_WP_ASYNC = 1 << 15  # Linux 6.7
UFFD_FEATURE_MOVE = 1 << 16  # Linux 6.8


class uffdio_api(ctypes.Structure):
    _fields_ = (("api", u64), ("features", u64), ("ioctls", u64))


class uffdio_range(ctypes.Structure):
    _fields_ = (("start", u64), ("len", u64))


# struct uffdio_register

UFFDIO_REGISTER_MODE_MISSING = 1 << 0
UFFDIO_REGISTER_MODE_WP = 1 << 1
UFFDIO_REGISTER_MODE_MINOR = 1 << 2


class uffdio_register(ctypes.Structure):
    _fields_ = (("range", uffdio_range), ("mode", u64), ("ioctls", u64))


# struct uffdio_copy; `copy` is the bytes done, or a negative errno

UFFDIO_COPY_MODE_DONTWAKE = 1 << 0
UFFDIO_COPY_MODE_WP = 1 << 1


class uffdio_copy(ctypes.Structure):
    _fields_ = (("dst", u64), ("src", u64), ("len", u64), ("mode", u64), ("copy", s64))


# struct uffdio_zeropage

UFFDIO_ZEROPAGE_MODE_DONTWAKE = 1 << 0


class uffdio_zeropage(ctypes.Structure):
    _fields_ = (("range", uffdio_range), ("mode", u64), ("zeropage", s64))


# struct uffdio_continue

UFFDIO_CONTINUE_MODE_DONTWAKE = 1 << 0


class uffdio_continue(ctypes.Structure):
    _fields_ = (("range", uffdio_range), ("mode", u64), ("mapped", s64))


# struct uffdio_poison (Linux 6.6)

UFFDIO_POISON_MODE_DONTWAKE = 1 << 0


class uffdio_poison(ctypes.Structure):
    _fields_ = (("range", uffdio_range), ("mode", u64), ("updated", s64))


# struct uffdio_move (Linux 6.8)

UFFDIO_MOVE_MODE_DONTWAKE = 1 << 0
UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES = 1 << 1


class uffdio_move(ctypes.Structure):
    _fields_ = (("dst", u64), ("src", u64), ("len", u64), ("mode", u64), ("move", s64))


# ioctl numbers, and bit numbers in what UFFDIO_API and UFFDIO_REGISTER leave in `ioctls`

_UFFDIO_REGISTER = 0x00
_UFFDIO_UNREGISTER = 0x01
_UFFDIO_WAKE = 0x02
_UFFDIO_COPY = 0x03
_UFFDIO_ZEROPAGE = 0x04
_UFFDIO_MOVE = 0x05
_UFFDIO_WRITEPROTECT = 0x06
_UFFDIO_CONTINUE = 0x07
_UFFDIO_POISON = 0x08
_UFFDIO_API = 0x3F

# UNREGISTER and WAKE are _IOR although the kernel reads them: the header says why, and keeps it.
UFFDIO = 0xAA
UFFDIO_API = _IOWR(UFFDIO, _UFFDIO_API, uffdio_api)
UFFDIO_REGISTER = _IOWR(UFFDIO, _UFFDIO_REGISTER, uffdio_register)
UFFDIO_UNREGISTER = _IOR(UFFDIO, _UFFDIO_UNREGISTER, uffdio_range)
UFFDIO_WAKE = _IOR(UFFDIO, _UFFDIO_WAKE, uffdio_range)
UFFDIO_COPY = _IOWR(UFFDIO, _UFFDIO_COPY, uffdio_copy)
UFFDIO_ZEROPAGE = _IOWR(UFFDIO, _UFFDIO_ZEROPAGE, uffdio_zeropage)
UFFDIO_MOVE = _IOWR(UFFDIO, _UFFDIO_MOVE, uffdio_move)
UFFDIO_CONTINUE = _IOWR(UFFDIO, _UFFDIO_CONTINUE, uffdio_continue)
UFFDIO_POISON = _IOWR(UFFDIO, _UFFDIO_POISON, uffdio_poison)
