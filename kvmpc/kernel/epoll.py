"""epoll_pwait2(2): how several readers wait at one userfaultfd."""

from __future__ import annotations

import ctypes
from typing import Final

from kvmpc.abi import unistd
from kvmpc.errors import HostError, KernelError, describe_errno
from kvmpc.host.confinement import REFUSALS, Confinement, either
from kvmpc.kernel import syscalls
from kvmpc.kernel.kvm import Fd
from kvmpc.kernel.need import Need

__all__ = ["EPOLL_PWAIT2"]


def _find() -> str:
    with Fd(syscalls.syscall(unistd.SYS_epoll_create1, 0, call="epoll_create1")) as epoll:
        # Both are the kernel's for the length of the call; a timeout of 0 waits for nothing.
        event, zero = (ctypes.c_uint8 * 16)(), (ctypes.c_uint64 * 2)(0, 0)
        try:
            syscalls.syscall(
                unistd.SYS_epoll_pwait2,
                epoll.fd,
                ctypes.addressof(event),
                1,
                ctypes.addressof(zero),
                call="epoll_pwait2",
            )
        except KernelError as error:
            if error.errno not in REFUSALS:
                raise
            remedies = Confinement.read().remedies("epoll_pwait2", error.errno, since="5.11")
            raise HostError(
                "epoll_pwait2",
                f"not offered: {describe_errno(error.errno)}",
                either([*remedies, "use readers=1 or wait=poll"]),
            ) from error
    return "offered"


EPOLL_PWAIT2: Final = Need("epoll_pwait2", _find)
