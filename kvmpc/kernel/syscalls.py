"""The only caller of libc: prototypes set once, every failure a `KernelError`.

Owns nothing. It knows how to call, not what a call means: who keeps a pointer alive is stated where
the pointer is handed over. The measured path does not come through here; it makes raw system calls
from ``kvmpc/loops``.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Collection
from typing import Any

from kvmpc.abi import mman, prctl, unistd
from kvmpc.errors import KernelError
from kvmpc.host.headroom import shortage
from kvmpc.units import PAGE_BYTES

__all__ = [
    "Mapping",
    "close_fd",
    "current_cpu",
    "denies_write_execute",
    "ioctl",
    "madvise",
    "mbind",
    "mincore",
    "mprotect",
    "open_fd",
    "read_own_memory",
    "set_affinity",
    "set_native_handler",
    "set_thread_name",
    "set_timer_slack_ns",
    "share_heap",
    "syscall",
    "tgkill",
    "thread_id",
    "write_own_memory",
]

_libc = ctypes.CDLL(None, use_errno=True)


def _prototype(name: str, restype: Any, *argtypes: Any) -> Any:
    function = getattr(_libc, name)
    function.restype = restype
    function.argtypes = argtypes
    return function


_ioctl = _prototype("ioctl", ctypes.c_int, ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)
_mmap = _prototype(
    "mmap",
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_munmap = _prototype("munmap", ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
_mprotect = _prototype("mprotect", ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_madvise = _prototype("madvise", ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_mincore = _prototype("mincore", ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
_sigaction = _prototype("sigaction", ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_prctl = _prototype("prctl", ctypes.c_int, ctypes.c_int, *[ctypes.c_ulong] * 4)
_syscall = _prototype("syscall", ctypes.c_long, ctypes.c_long, *[ctypes.c_long] * 6)

_M_ARENA_MAX = -8  # glibc's malloc.h

_MAP_FAILED = ctypes.c_void_p(-1).value


def _failed(call: str, hint: str = "", wanted_bytes: int = 0) -> KernelError:
    """Return the error of the libc call just made, with the limit that it ran into, if it is one.

    wanted_bytes: what it would have mapped.
    """
    number = ctypes.get_errno()
    return KernelError(
        call, number, "; ".join(filter(None, (hint, shortage(number, wanted_bytes))))
    )


def ioctl(fd: int, request: int, argument: int | Any = 0, *, call: str, hint: str = "") -> int:
    """Call ioctl(2) and return what it returns.

    `argument` is an integer, or a ctypes object that is passed by reference and lives at least as
    long as the call (the caller holds it). `call` is the request's name, for the error.
    Raises: KernelError.
    """
    value = argument if isinstance(argument, int) else ctypes.addressof(argument)
    result: int = _ioctl(fd, request, value)
    if result < 0:
        raise _failed(call, hint)
    return result


def syscall(number: int, *arguments: int, call: str, hint: str = "") -> int:
    """Make system call `number` through syscall(2). Raises: KernelError."""
    padded = arguments + (0,) * (6 - len(arguments))
    result: int = _syscall(number, *padded)
    if result < 0:
        raise _failed(call, hint)
    return result


def open_fd(path: str, flags: int) -> int:
    """Open `path` close-on-exec. Raises: KernelError."""
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        number = error.errno or 0
        raise KernelError(f"open {path}", number, shortage(number)) from error


def close_fd(fd: int) -> None:
    """Close `fd`. An error of close(2) cannot be acted on and does not keep the fd open."""
    try:
        os.close(fd)
    except OSError as error:
        if error.errno == errno.EBADF:
            raise  # closed twice: a defect of ours that would close somebody else's fd next time


class Mapping:
    """One anonymous or fd-backed mmap(2) that this object alone unmaps.

    `address` is its hva, `size_bytes` its length. Safe to close twice.
    """

    def __init__(
        self, size_bytes: int, *, prot: int, flags: int, fd: int = -1, what: str = "memory"
    ) -> None:
        address = _mmap(None, size_bytes, prot, flags, fd, 0)
        if address == _MAP_FAILED:
            raise _failed(f"mmap of {size_bytes} bytes of {what}", wanted_bytes=size_bytes)
        self.address: int = address
        self.size_bytes = size_bytes

    @classmethod
    def anonymous(cls, size_bytes: int, *, populate: bool = False, what: str = "memory") -> Mapping:
        """Map zeroed private memory; unreserved, so that a large sparse guest is legal."""
        flags = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_NORESERVE
        if populate:
            flags |= mman.MAP_POPULATE
        return cls(size_bytes, prot=mman.PROT_READ | mman.PROT_WRITE, flags=flags, what=what)

    def __enter__(self) -> Mapping:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmap. Raises: KernelError where the kernel cannot split a mapping (never here)."""
        if self.size_bytes:
            size_bytes, self.size_bytes = self.size_bytes, 0
            if _munmap(self.address, size_bytes) < 0:
                raise _failed("munmap")


def mprotect(address: int, size_bytes: int, prot: int) -> None:
    """Change a mapping's protection. Raises: KernelError."""
    if _mprotect(address, size_bytes, prot) < 0:
        raise _failed("mprotect")


def madvise(address: int, size_bytes: int, advice: int, *, call: str) -> None:
    """Call madvise(2). Raises: KernelError naming `call`."""
    if _madvise(address, size_bytes, advice) < 0:
        raise _failed(call)


def mbind(address: int, size_bytes: int, mode: int, nodes: Collection[int]) -> None:
    """Set the NUMA policy of a mapping: `mode` is ``MPOL_*``, `nodes` what it applies to.

    Pages that are there stay where they are. Source: mbind(2). Raises: KernelError.
    """
    mask = sum(1 << node for node in nodes)
    # The kernel counts one bit less than it is told (get_nodes in mm/mempolicy.c).
    bits = mask.bit_length() + 1 if mask else 0
    words = (ctypes.c_uint64 * max(1, -(-bits // 64)))()
    for index in range(len(words)):
        words[index] = mask >> 64 * index & (1 << 64) - 1
    syscall(
        unistd.SYS_mbind,
        address,
        size_bytes,
        mode,
        ctypes.addressof(words) if mask else 0,
        bits,
        0,
        call="mbind",
    )


def set_affinity(cpus: Collection[int]) -> None:
    """Let the calling thread run on `cpus` alone, and move it there. Raises: KernelError."""
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as error:
        call = f"sched_setaffinity to CPUs {sorted(cpus)}"
        raise KernelError(call, error.errno or 0, "were they taken away meanwhile?") from error


def current_cpu() -> int:
    """Return the CPU that the calling thread is on: where it may stay only if pinned.

    Raises: KernelError.
    """
    cpu = ctypes.c_uint32()
    syscall(unistd.SYS_getcpu, ctypes.addressof(cpu), call="getcpu")
    return cpu.value


def mincore(address: int, pages: int) -> bytes:
    """Return one byte a page, 1 where it is in memory, as mincore(2) says. Raises: KernelError."""
    found = (ctypes.c_uint8 * pages)()
    if _mincore(address, pages * PAGE_BYTES, ctypes.addressof(found)) < 0:
        raise _failed("mincore")
    return bytes(found)


def set_timer_slack_ns(slack_ns: int) -> None:
    """Set how late the kernel may end a sleep of the calling thread.

    The default of 50 us would more than double a 30 us simulated fetch.
    Source: prctl(2), PR_SET_TIMERSLACK. Raises: KernelError.
    """
    if _prctl(prctl.PR_SET_TIMERSLACK, slack_ns, 0, 0, 0) < 0:
        raise _failed("prctl(PR_SET_TIMERSLACK)")


def set_thread_name(name: str) -> None:
    """Name the calling thread in the kernel: for top, perf, debuggers, and the name of a core.

    The kernel keeps 15 bytes. Source: prctl(2), PR_SET_NAME; core(5), %e. Raises: KernelError.
    """
    buffer = ctypes.create_string_buffer(name.encode())
    if _prctl(prctl.PR_SET_NAME, ctypes.addressof(buffer), 0, 0, 0) < 0:
        raise _failed("prctl(PR_SET_NAME)")


def denies_write_execute() -> bool:
    """Return whether this process gave up to make memory executable that it could write.

    Source: prctl(2), PR_GET_MDWE; before Linux 6.3 nobody can.
    """
    flags: int = _prctl(prctl.PR_GET_MDWE, 0, 0, 0, 0)
    return flags > 0


def share_heap() -> None:
    """Let threads that are yet to come share the heaps there are; nothing where libc has but one.

    Source: mallopt(3), M_ARENA_MAX.
    """
    if hasattr(_libc, "mallopt"):
        _prototype("mallopt", ctypes.c_int, ctypes.c_int, ctypes.c_int)(_M_ARENA_MAX, 1)


class _SigAction(ctypes.Structure):
    """libc's, which knows how to return from a handler. Source: bits/sigaction.h."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_uint64 * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


def set_native_handler(signal_number: int, address: int) -> None:
    """Let native code at `address` handle a signal, in whichever thread; it must stay there.

    Raises: KernelError.
    """
    action = _SigAction(handler=address)
    if _sigaction(signal_number, ctypes.addressof(action), None) < 0:
        raise _failed("sigaction")


def thread_id() -> int:
    """Return the calling thread's kernel id (gettid(2))."""
    return syscall(unistd.SYS_gettid, call="gettid")


def tgkill(tid: int, signal_number: int) -> bool:
    """Signal one thread of this process; False when it has ended meanwhile.

    By kernel id, not pthread_kill(3): Python's threads are detached, and a pthread_t is dangling
    the moment its thread has ended. Raises: KernelError.
    """
    try:
        syscall(unistd.SYS_tgkill, os.getpid(), tid, signal_number, call="tgkill")
    except KernelError as error:
        if error.errno != errno.ESRCH:
            raise
        return False
    return True


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_uint64), ("len", ctypes.c_uint64))


def _process_vm(number: int, address: int, buffer: Any, call: str) -> None:
    local = _IoVec(ctypes.addressof(buffer), ctypes.sizeof(buffer))
    remote = _IoVec(address, ctypes.sizeof(buffer))
    moved = syscall(
        number,
        os.getpid(),
        ctypes.addressof(local),
        1,
        ctypes.addressof(remote),
        1,
        0,
        call=f"{call} at {address:#x}",
    )
    if moved != ctypes.sizeof(buffer):
        raise KernelError(f"{call} at {address:#x}", errno.EFAULT)


def read_own_memory(address: int, size_bytes: int) -> bytes:
    """Copy bytes out of this process without dereferencing them.

    The kernel does the access, so a page that a userfaultfd holds back is EFAULT here and not a
    SIGBUS, or a hang that holds the GIL. Raises: KernelError.
    """
    buffer = (ctypes.c_uint8 * size_bytes)()
    _process_vm(unistd.SYS_process_vm_readv, address, buffer, "process_vm_readv")
    return bytes(buffer)


def write_own_memory(address: int, data: bytes) -> None:
    """Copy bytes into this process as `read_own_memory` reads them. Raises: KernelError."""
    buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
    _process_vm(unistd.SYS_process_vm_writev, address, buffer, "process_vm_writev")
