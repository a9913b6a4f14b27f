"""A limit on how deep idle CPUs may sleep: /dev/cpu_dma_latency, held open.

The kernel keeps the limit for all CPUs of the host as long as the descriptor is open, and takes it
back when it is closed, however the process ends.
Source: Documentation/admin-guide/pm/cpuidle.rst, "Power Management Quality of Service for CPUs";
``cpu_latency_qos_write`` in kernel/power/qos.c: one native s32, in microseconds.
"""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path
from typing import Final, Self

from kvmpc.errors import HostError, KernelError
from kvmpc.host.confinement import Confinement
from kvmpc.kernel import syscalls

__all__ = ["LatencyRequest", "check"]

_ROOT = Path("/")
_DEVICE: Final = "/dev/cpu_dma_latency"


def check(root: Path = _ROOT) -> None:
    """Check that a limit can be asked for here. Raises: HostError."""
    # Opening it asks for nothing yet.
    syscalls.close_fd(_open(root))


def _open(root: Path = _ROOT) -> int:
    try:
        return syscalls.open_fd(str(root / _DEVICE.strip("/")), os.O_RDWR)
    except KernelError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            remedy = (
                "use a kernel with CONFIG_CPU_IDLE; in a container, pass the device in "
                f"(docker: --device {_DEVICE})"
            )
        else:
            remedy = Confinement.read(root).access(_DEVICE, root)
        raise HostError("--cpu-latency", str(error), remedy) from error


class LatencyRequest:
    """The limit `limit_us`, in force while this is open. Raises: HostError, KernelError."""

    def __init__(self, limit_us: int) -> None:
        self._fd = _open()
        try:
            os.write(self._fd, struct.pack("=i", limit_us))
        except OSError as error:
            self.close()
            raise KernelError(f"write {_DEVICE}", error.errno or 0) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def in_force_us(self) -> int:
        """Return the limit in force: the lowest that anybody asks for. Raises: KernelError."""
        try:
            return int(struct.unpack("=i", os.pread(self._fd, 4, 0))[0])
        except OSError as error:
            raise KernelError(f"read {_DEVICE}", error.errno or 0) from error

    def close(self) -> None:
        """Take the request back."""
        syscalls.close_fd(self._fd)
