"""A kernel that refuses system calls: a launcher, ``refusing.py --errno EPERM CALL... -- COMMAND``.

Whatever COMMAND starts gets that errno from each CALL, which is not run. A CALL is a name of
`NUMBERS` or a number, and may be told apart by the lower 32 bits of one argument, counted from 0:
``ioctl:1=0xc018aa3f`` where it is that value, ``openat:2&0x80`` where it has one of those bits.
Launchers nest: two errnos are ``refusing.py ... -- refusing.py ... -- COMMAND``.

Exits as COMMAND does, or with 99 where this kernel takes no filter.
Source: Documentation/userspace-api/seccomp_filter.rst.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import os
import re
import sys
from typing import NoReturn

__all__ = ["NUMBERS", "SETUP_FAILED", "refusing"]

NUMBERS = {
    "read": 0, "write": 1, "open": 2, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7,
    "lseek": 8, "mmap": 9, "mprotect": 10, "munmap": 11, "rt_sigaction": 13, "rt_sigprocmask": 14,
    "ioctl": 16, "pread64": 17, "pwrite64": 18, "writev": 20, "access": 21, "mremap": 25,
    "mincore": 27, "madvise": 28, "dup": 32, "dup2": 33, "clone": 56, "execve": 59, "fcntl": 72,
    "flock": 73, "fsync": 74, "fdatasync": 75, "truncate": 76, "ftruncate": 77, "getcwd": 79,
    "rename": 82, "mkdir": 83, "link": 86, "unlink": 87, "symlink": 88, "readlink": 89,
    "chmod": 90, "fchmod": 91, "getrlimit": 97, "sysinfo": 99, "mlock": 149, "prctl": 157,
    "setrlimit": 160, "gettid": 186, "futex": 202, "sched_setaffinity": 203,
    "sched_getaffinity": 204, "epoll_wait": 232, "tgkill": 234, "mbind": 237,
    "set_mempolicy": 238, "get_mempolicy": 239, "openat": 257, "mkdirat": 258, "newfstatat": 262,
    "unlinkat": 263, "renameat": 264, "linkat": 265, "faccessat": 269, "epoll_pwait": 281,
    "eventfd2": 290, "epoll_create1": 291, "dup3": 292, "pipe2": 293, "perf_event_open": 298,
    "prlimit64": 302, "sched_setattr": 314, "renameat2": 316, "getrandom": 318,
    "memfd_create": 319, "bpf": 321, "userfaultfd": 323, "membarrier": 324, "statx": 332,
    "rseq": 334, "pidfd_send_signal": 424, "pidfd_open": 434, "clone3": 435,
    "faccessat2": 439, "process_madvise": 440, "epoll_pwait2": 441,
}  # fmt: skip
"""x86-64's. Source: arch/x86/entry/syscalls/syscall_64.tbl."""

SETUP_FAILED = 99

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
_SECCOMP_MODE_FILTER = 2
_RET_ALLOW, _RET_ERRNO = 0x7FFF0000, 0x00050000
_AUDIT_ARCH_X86_64 = 0xC000003E
_LOAD, _JEQ, _JSET, _RET = 0x20, 0x15, 0x45, 0x06
_NR, _ARCH, _ARGS = 0, 4, 16  # offsets in struct seccomp_data


def refusing(number: int, *calls: str) -> list[str]:
    """Return the command that runs its arguments where `calls` fail with errno `number`."""
    return [sys.executable, __file__, "--errno", errno.errorcode[number], *calls, "--"]


class _Instruction(ctypes.Structure):
    """``struct sock_filter`` of include/uapi/linux/filter.h."""

    _fields_ = (
        ("code", ctypes.c_uint16),
        ("jt", ctypes.c_uint8),
        ("jf", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    """``struct sock_fprog`` of include/uapi/linux/filter.h."""

    _fields_ = (("len", ctypes.c_uint16), ("filter", ctypes.POINTER(_Instruction)))


def _refuse_one(call: str, number: int) -> list[tuple[int, int, int, int]]:
    """Return the instructions that end with `number` where this is `call`, else go on."""
    match = re.fullmatch(r"(\w+)(?::([0-5])([=&])(\w+))?", call)
    if match is None:
        raise ValueError(f"{call!r}: a system call, or CALL:ARGUMENT=VALUE, or CALL:ARGUMENT&BITS")
    name, argument, relation, value = match.groups()
    nr = int(name, 0) if name[0].isdigit() else NUMBERS[name]
    ending = (_RET, 0, 0, _RET_ERRNO | number)
    if argument is None:
        return [(_LOAD, 0, 0, _NR), (_JEQ, 0, 1, nr), ending]
    compare = _JEQ if relation == "=" else _JSET
    return [
        (_LOAD, 0, 0, _NR),
        (_JEQ, 0, 3, nr),
        (_LOAD, 0, 0, _ARGS + 8 * int(argument)),
        (compare, 0, 1, int(value, 0)),
        ending,
    ]


def _install(number: int, calls: list[str]) -> None:
    """Refuse `calls` in this process and all that it starts. Raises: OSError."""
    body = [part for call in calls for part in _refuse_one(call, number)]
    lines = [
        (_LOAD, 0, 0, _ARCH),
        (_JEQ, 1, 0, _AUDIT_ARCH_X86_64),
        (_RET, 0, 0, _RET_ALLOW),
        *body,
        (_RET, 0, 0, _RET_ALLOW),
    ]
    program = _Program(len(lines), (_Instruction * len(lines))(*lines))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0),
    ):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), "prctl")


def main() -> NoReturn:
    """Refuse, and become the command. Raises: OSError where there is no such command."""
    split = sys.argv.index("--")
    parser = argparse.ArgumentParser()
    parser.add_argument("--errno", required=True)
    parser.add_argument("calls", nargs="+")
    given, command = parser.parse_args(sys.argv[1:split]), sys.argv[split + 1 :]
    try:
        _install(getattr(errno, given.errno), given.calls)
    except OSError as error:
        print(f"no filter can be set: {error}", file=sys.stderr)
        sys.exit(SETUP_FAILED)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
