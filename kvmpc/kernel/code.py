"""Machine code in memory of its own: written first, then executable, never both."""

from __future__ import annotations

import ctypes
import errno
from pathlib import Path
from typing import Final

from kvmpc.abi import mman
from kvmpc.errors import HostError, KernelError
from kvmpc.host.confinement import Confinement, either
from kvmpc.host.files import read_int
from kvmpc.kernel import syscalls
from kvmpc.kernel.need import Need

__all__ = ["EXECUTABLE_MEMORY", "Code"]

_RET = b"\xc3"


class Code(syscalls.Mapping):
    """`code`, executable at `address` until close. Raises: HostError, KernelError."""

    def __init__(self, code: bytes) -> None:
        super().__init__(
            len(code),
            prot=mman.PROT_READ | mman.PROT_WRITE,
            flags=mman.MAP_PRIVATE | mman.MAP_ANONYMOUS,
            what="native code",
        )
        try:
            ctypes.memmove(self.address, code, len(code))
            syscalls.mprotect(self.address, len(code), mman.PROT_READ | mman.PROT_EXEC)
        except KernelError as error:
            self.close()
            if error.errno in (errno.EACCES, errno.EPERM):
                raise _denied(error) from error
            raise


def _denied(error: KernelError) -> HostError:
    """Return who keeps written memory from becoming executable here, or who may.

    Source: prctl(2), PR_SET_MDWE (Linux 6.3); systemd.exec(5), MemoryDenyWriteExecute=, which is
    that or a seccomp filter; ``selinux_file_mprotect`` in security/selinux/hooks.c.
    """
    systemd = "set MemoryDenyWriteExecute=no for the service (systemd)"
    seccomp = "allow mprotect(PROT_EXEC) in the seccomp filter that is in force here"
    selinux = "allow its SELinux domain execmem (ausearch -m avc)"
    if syscalls.denies_write_execute():
        found = [f"{systemd}, or run it where PR_SET_MDWE was not asked for"]
    elif Confinement.read().filtered:
        found = [systemd, seccomp]
    elif read_int(Path("/sys/fs/selinux/enforce")) == 1:
        found = [selinux]
    else:
        found = [systemd, selinux, seccomp]
    return HostError(
        "executable memory",
        f"the loops are assembled at start-up, and memory that was written may not be executed here"
        f" ({error})",
        either(found),
    )


def _find() -> str:
    Code(_RET).close()
    return "memory that was written may be made executable"


EXECUTABLE_MEMORY: Final = Need("executable memory", _find)
