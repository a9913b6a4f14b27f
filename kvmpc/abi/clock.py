"""Clocks and their sleeps. Source: include/uapi/linux/time.h."""

import ctypes
from ctypes import c_int64 as s64

__all__ = ["CLOCK_MONOTONIC", "CLOCK_THREAD_CPUTIME_ID", "TIMER_ABSTIME", "timespec", "timeval"]

CLOCK_MONOTONIC = 1
CLOCK_THREAD_CPUTIME_ID = 3
TIMER_ABSTIME = 0x01


class timespec(ctypes.Structure):
    _fields_ = (("tv_sec", s64), ("tv_nsec", s64))


class timeval(ctypes.Structure):
    _fields_ = (("tv_sec", s64), ("tv_usec", s64))
