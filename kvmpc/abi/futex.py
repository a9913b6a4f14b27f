"""futex(2). Source: include/uapi/linux/futex.h."""

__all__ = ["FUTEX_PRIVATE_FLAG", "FUTEX_WAIT", "FUTEX_WAKE"]

FUTEX_WAIT = 0
FUTEX_WAKE = 1
FUTEX_PRIVATE_FLAG = 128
