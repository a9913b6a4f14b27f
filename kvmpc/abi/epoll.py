"""epoll(7). Source: include/uapi/linux/eventpoll.h."""

import ctypes
from ctypes import c_uint32 as u32
from ctypes import c_uint64 as u64

__all__ = ["EPOLLEXCLUSIVE", "EPOLLIN", "EPOLL_CTL_ADD", "epoll_event"]

EPOLL_CTL_ADD = 1

EPOLLIN = 0x00000001
EPOLLEXCLUSIVE = 1 << 28


class epoll_event(ctypes.Structure):
    # EPOLL_PACKED: x86-64 alone gives it the layout of 32-bit x86. `_layout_` names what `_pack_`
    # implies, which Python 3.14 asks for.
    _layout_ = "ms"
    _pack_ = 1
    _fields_ = (("events", u32), ("data", u64))
