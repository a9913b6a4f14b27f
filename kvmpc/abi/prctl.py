"""prctl(2). Source: include/uapi/linux/prctl.h."""

__all__ = ["PR_GET_MDWE", "PR_SET_NAME", "PR_SET_TIMERSLACK"]

PR_SET_NAME = 15
PR_SET_TIMERSLACK = 29
PR_GET_MDWE = 66  # Linux 6.3
