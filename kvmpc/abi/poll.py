"""poll(2) and ppoll(2). Source: include/uapi/asm-generic/poll.h."""

import ctypes
from ctypes import c_int16 as s16
from ctypes import c_int32 as s32

__all__ = ["POLLIN", "pollfd"]

POLLIN = 0x0001


class pollfd(ctypes.Structure):
    _fields_ = (("fd", s32), ("events", s16), ("revents", s16))
