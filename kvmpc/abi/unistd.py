"""System call numbers of x86-64. Source: arch/x86/entry/syscalls/syscall_64.tbl, asm/unistd_64.h.

The header says ``__NR_read``; ``SYS_read`` is libc's name for it (sys/syscall.h), which inside a
Python class is not mangled.
"""

__all__ = [
    "SYS_clock_gettime",
    "SYS_clock_nanosleep",
    "SYS_epoll_create1",
    "SYS_epoll_ctl",
    "SYS_epoll_pwait2",
    "SYS_futex",
    "SYS_getcpu",
    "SYS_getrusage",
    "SYS_gettid",
    "SYS_ioctl",
    "SYS_mbind",
    "SYS_ppoll",
    "SYS_process_vm_readv",
    "SYS_process_vm_writev",
    "SYS_read",
    "SYS_rt_sigaction",
    "SYS_sched_yield",
    "SYS_tgkill",
    "SYS_userfaultfd",
]

SYS_read = 0
SYS_rt_sigaction = 13
SYS_ioctl = 16
SYS_sched_yield = 24
SYS_getrusage = 98
SYS_gettid = 186
SYS_futex = 202
SYS_clock_gettime = 228
SYS_clock_nanosleep = 230
SYS_epoll_ctl = 233
SYS_tgkill = 234
SYS_mbind = 237
SYS_ppoll = 271
SYS_epoll_create1 = 291
SYS_getcpu = 309
SYS_process_vm_readv = 310
SYS_process_vm_writev = 311
SYS_userfaultfd = 323
SYS_epoll_pwait2 = 441  # Linux 5.11
