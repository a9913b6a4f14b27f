"""poll(2) and ppoll(2). Source: include/uapi/asm-generic/poll.h."""

import ctypes
from ctypes import c_int16 as s16
from ctypes import c_int32 as s32

__all__ = ["POLLERR", "POLLIN", "pollfd"]

POLLIN = 0x0001
POLLERR = 0x0008


class pollfd(ctypes.Structure):
    _fields_ = (("fd", s32), ("events", s16), ("revents", s16))
