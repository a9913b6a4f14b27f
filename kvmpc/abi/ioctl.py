"""ioctl number encoding. Source: include/uapi/asm-generic/ioctl.h, which x86 uses unchanged."""

import ctypes

__all__ = [
    "_IO",
    "_IOC",
    "_IOC_DIRBITS",
    "_IOC_DIRSHIFT",
    "_IOC_NONE",
    "_IOC_NRBITS",
    "_IOC_NRSHIFT",
    "_IOC_READ",
    "_IOC_SIZEBITS",
    "_IOC_SIZESHIFT",
    "_IOC_TYPEBITS",
    "_IOC_TYPESHIFT",
    "_IOC_WRITE",
    "_IOR",
    "_IOW",
    "_IOWR",
]

_IOC_NRBITS = 8
_IOC_TYPEBITS = 8
_IOC_SIZEBITS = 14
_IOC_DIRBITS = 2

_IOC_NRSHIFT = 0
_IOC_TYPESHIFT = _IOC_NRSHIFT + _IOC_NRBITS
_IOC_SIZESHIFT = _IOC_TYPESHIFT + _IOC_TYPEBITS
_IOC_DIRSHIFT = _IOC_SIZESHIFT + _IOC_SIZEBITS

# Seen from userspace: "write" means that the kernel reads the argument.
_IOC_NONE = 0
_IOC_WRITE = 1
_IOC_READ = 2


def _IOC(direction: int, type_: int, nr: int, size: int) -> int:
    return (
        direction << _IOC_DIRSHIFT
        | size << _IOC_SIZESHIFT
        | type_ << _IOC_TYPESHIFT
        | nr << _IOC_NRSHIFT
    )


def _IO(type_: int, nr: int) -> int:
    return _IOC(_IOC_NONE, type_, nr, 0)


def _IOR(type_: int, nr: int, argument: type[ctypes.Structure]) -> int:
    return _IOC(_IOC_READ, type_, nr, ctypes.sizeof(argument))


def _IOW(type_: int, nr: int, argument: type[ctypes.Structure]) -> int:
    return _IOC(_IOC_WRITE, type_, nr, ctypes.sizeof(argument))


def _IOWR(type_: int, nr: int, argument: type[ctypes.Structure]) -> int:
    return _IOC(_IOC_READ | _IOC_WRITE, type_, nr, ctypes.sizeof(argument))
