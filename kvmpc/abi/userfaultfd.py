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
    "UFFDIO_COPY",
    "UFFDIO_COPY_MODE_DONTWAKE",
    "UFFDIO_REGISTER",
    "UFFDIO_REGISTER_MODE_MISSING",
    "UFFDIO_UNREGISTER",
    "UFFDIO_WAKE",
    "UFFD_API",
    "UFFD_EVENT_PAGEFAULT",
    "UFFD_FEATURE_SIGBUS",
    "USERFAULTFD_IOC",
    "USERFAULTFD_IOC_NEW",
    "_UFFDIO_API",
    "_UFFDIO_COPY",
    "_UFFDIO_REGISTER",
    "_UFFDIO_UNREGISTER",
    "_UFFDIO_WAKE",
    "uffd_msg",
    "uffdio_api",
    "uffdio_copy",
    "uffdio_range",
    "uffdio_register",
]

# ioctls for /dev/userfaultfd (Linux 6.1)
USERFAULTFD_IOC = 0xAA
USERFAULTFD_IOC_NEW = _IO(USERFAULTFD_IOC, 0x00)

UFFD_API = 0xAA

# read() structure: struct uffd_msg

UFFD_EVENT_PAGEFAULT = 0x12


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

UFFD_FEATURE_SIGBUS = 1 << 7


class uffdio_api(ctypes.Structure):
    _fields_ = (("api", u64), ("features", u64), ("ioctls", u64))


class uffdio_range(ctypes.Structure):
    _fields_ = (("start", u64), ("len", u64))


# struct uffdio_register

UFFDIO_REGISTER_MODE_MISSING = 1 << 0


class uffdio_register(ctypes.Structure):
    _fields_ = (("range", uffdio_range), ("mode", u64), ("ioctls", u64))


# struct uffdio_copy; `copy` is the bytes done, or a negative errno

UFFDIO_COPY_MODE_DONTWAKE = 1 << 0


class uffdio_copy(ctypes.Structure):
    _fields_ = (("dst", u64), ("src", u64), ("len", u64), ("mode", u64), ("copy", s64))


# ioctl numbers, and bit numbers in what UFFDIO_API and UFFDIO_REGISTER leave in `ioctls`

_UFFDIO_REGISTER = 0x00
_UFFDIO_UNREGISTER = 0x01
_UFFDIO_WAKE = 0x02
_UFFDIO_COPY = 0x03
_UFFDIO_API = 0x3F

# UNREGISTER and WAKE are _IOR although the kernel reads them: the header says why, and keeps it.
UFFDIO = 0xAA
UFFDIO_API = _IOWR(UFFDIO, _UFFDIO_API, uffdio_api)
UFFDIO_REGISTER = _IOWR(UFFDIO, _UFFDIO_REGISTER, uffdio_register)
UFFDIO_UNREGISTER = _IOR(UFFDIO, _UFFDIO_UNREGISTER, uffdio_range)
UFFDIO_WAKE = _IOR(UFFDIO, _UFFDIO_WAKE, uffdio_range)
UFFDIO_COPY = _IOWR(UFFDIO, _UFFDIO_COPY, uffdio_copy)
