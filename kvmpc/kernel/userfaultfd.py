"""Userfaultfd: the owner of one userfaultfd that sees the faults KVM takes for a guest.

It opens, registers and unregisters. Reading messages and installing pages are the measured path and
happen in ``loops/``, on the fd that this object owns.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final, Self

from kvmpc.abi import unistd
from kvmpc.abi import userfaultfd as abi
from kvmpc.errors import HostError, KernelError
from kvmpc.host.confinement import CAP_SYS_PTRACE, REFUSALS, Confinement, either
from kvmpc.host.files import read_int
from kvmpc.kernel import syscalls
from kvmpc.kernel.need import Need

__all__ = ["DEVICE_PATH", "FEATURE_SIGBUS", "USERFAULTFD", "Userfaultfd", "query_features"]

DEVICE_PATH = "/dev/userfaultfd"

_SYSCTL = Path("/proc/sys/vm/unprivileged_userfaultfd")


def _refused(error: KernelError, device: KernelError | None) -> HostError:
    """Return why there is no userfaultfd, and what would help this very process.

    device: why the device cannot be opened; None where it was.
    Source: ``userfaultfd_syscall_allowed`` in fs/userfaultfd.c: CAP_SYS_PTRACE, or
    vm.unprivileged_userfaultfd (since Linux 5.2).
    """
    own = Confinement.read()
    remedies = own.remedies("userfaultfd", error.errno, capability=CAP_SYS_PTRACE)
    if error.errno == errno.ENOSYS:
        reason = f"this kernel has none, or a seccomp filter hides it ({error})"
        remedies[-1] = "use a kernel with CONFIG_USERFAULTFD=y"
    else:
        reason = f"not permitted ({error})"
        if read_int(_SYSCTL) == 0 and not own.may(CAP_SYS_PTRACE):
            remedies.append("sysctl vm.unprivileged_userfaultfd=1")
    # Since Linux 6.1, and misc(4): where there is a driver, there may be a device.
    if device is not None and os.path.exists("/sys/class/misc/userfaultfd"):
        remedies.append(own.access(DEVICE_PATH))
    return HostError("userfaultfd", reason, either(remedies))


def _open_fd(*, blocking: bool = False) -> int:
    """Return a new userfaultfd that handles kernel-mode faults, as KVM's are.

    blocking: whether a read of it waits for a message; then nothing can poll it.

    The device first: it needs a file permission only. Source: admin-guide/mm/userfaultfd.rst,
    "Creating a userfaultfd" (the device since Linux 6.1).
    """
    flags = os.O_CLOEXEC if blocking else os.O_CLOEXEC | os.O_NONBLOCK
    closed: KernelError | None = None
    try:
        device = syscalls.open_fd(DEVICE_PATH, os.O_RDWR)
    except KernelError as error:
        device, closed = -1, error
    if device >= 0:
        try:
            return syscalls.ioctl(
                device, abi.USERFAULTFD_IOC_NEW, flags, call="USERFAULTFD_IOC_NEW"
            )
        except KernelError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise
        finally:
            syscalls.close_fd(device)
    try:
        return syscalls.syscall(unistd.SYS_userfaultfd, flags, call="userfaultfd")
    except KernelError as error:
        if error.errno in REFUSALS:
            raise _refused(error, closed) from error
        raise


def _enable(fd: int, features: int) -> int:
    api = abi.uffdio_api(api=abi.UFFD_API, features=features)
    syscalls.ioctl(fd, abi.UFFDIO_API, api, call=f"UFFDIO_API with features {features:#x}")
    return int(api.features)


def query_features() -> int:
    """Return the features that this kernel's userfaultfd offers (bits ``UFFD_FEATURE_*``).

    On an fd of its own, since UFFDIO_API works once per fd. Raises: HostError, KernelError.
    """
    fd = _open_fd()
    try:
        return _enable(fd, 0)
    finally:
        syscalls.close_fd(fd)


def _sigbus() -> str:
    if not query_features() & abi.UFFD_FEATURE_SIGBUS:
        raise HostError("UFFD_FEATURE_SIGBUS", "not offered", "use Linux 4.14 or newer")
    return "offered"


USERFAULTFD: Final = Need(
    "userfaultfd", lambda: f"kernel faults handled, features {query_features():#x}"
)
FEATURE_SIGBUS: Final = Need("UFFD_FEATURE_SIGBUS", _sigbus, within=USERFAULTFD)


class Userfaultfd:
    """A userfaultfd with `features` enabled and the ranges registered on it.

    blocking: whether a read of it waits for a message; then poll(2) and epoll report an error of
    it. Source: ``userfaultfd_poll`` in fs/userfaultfd.c.
    Raises: HostError when not permitted or not offered, KernelError otherwise.
    """

    def __init__(self, features: int = 0, *, blocking: bool = False) -> None:
        self._ranges: list[tuple[int, int]] = []
        self.fd = _open_fd(blocking=blocking)
        try:
            _enable(self.fd, features)
        except KernelError as error:
            self.close()
            if error.errno != errno.EINVAL:
                raise
            raise HostError(
                "userfaultfd",
                f"this kernel does not offer the features {features:#x}",
                "use a newer kernel (UFFD_FEATURE_SIGBUS needs Linux 4.14)",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def register(
        self, hva: int, size_bytes: int, mode: int = abi.UFFDIO_REGISTER_MODE_MISSING
    ) -> None:
        """Register a range for faults of `mode` (``UFFDIO_REGISTER_MODE_*``).

        The caller keeps it mapped until unregistered. Raises: KernelError.
        """
        request = abi.uffdio_register(mode=mode)
        request.range.start, request.range.len = hva, size_bytes
        syscalls.ioctl(
            self.fd,
            abi.UFFDIO_REGISTER,
            request,
            call=f"UFFDIO_REGISTER of {size_bytes} bytes",
            hint="EBUSY: another userfaultfd has the range; ENOMEM: vm.max_map_count is reached",
        )
        self._ranges.append((hva, size_bytes))

    def unregister(self) -> None:
        """Unregister every range: it frees each thread that sleeps in a fault there.

        Before Linux 6.2 nothing else does, short of closing the fd. May be called from any thread
        and again. Raises: KernelError, after all ranges were tried.
        """
        failed: KernelError | None = None
        for start, length in self._ranges:
            try:
                syscalls.ioctl(
                    self.fd,
                    abi.UFFDIO_UNREGISTER,
                    abi.uffdio_range(start=start, len=length),
                    call="UFFDIO_UNREGISTER",
                )
            except KernelError as error:
                failed = failed or error
        self._ranges.clear()
        if failed is not None:
            raise failed

    def close(self) -> None:
        """Close the fd; the kernel drops its registrations."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            self._ranges.clear()
            syscalls.close_fd(fd)
