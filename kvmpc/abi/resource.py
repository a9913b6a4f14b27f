"""What a thread has used. Source: include/uapi/linux/resource.h."""

import ctypes
from ctypes import c_long as slong

from kvmpc.abi.clock import timeval

__all__ = ["RUSAGE_THREAD", "rusage"]

RUSAGE_THREAD = 1


class rusage(ctypes.Structure):
    _fields_ = (
        ("ru_utime", timeval),
        ("ru_stime", timeval),
        ("ru_maxrss", slong),
        ("ru_ixrss", slong),
        ("ru_idrss", slong),
        ("ru_isrss", slong),
        ("ru_minflt", slong),
        ("ru_majflt", slong),
        ("ru_nswap", slong),
        ("ru_inblock", slong),
        ("ru_oublock", slong),
        ("ru_msgsnd", slong),
        ("ru_msgrcv", slong),
        ("ru_nsignals", slong),
        ("ru_nvcsw", slong),
        ("ru_nivcsw", slong),
    )
