"""Native programs: the loops of one pager, assembled, made executable, and called.

A pager names its variant of each step; `load` puts the program together once a process and keeps it
(code is never changed, so trials and threads share it). Code pages are written, then executable,
never both.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from importlib import resources

from kvmpc.assembler.assemble import Program, assemble
from kvmpc.kernel.code import Code
from kvmpc.loops.records import host_symbols
from kvmpc.loops.steps import Steps
from kvmpc.units import PAGE_BYTES

__all__ = ["NativeProgram", "build", "load", "read_sources"]

_ARCHITECTURE = "x86_64"

_FILES = (
    "entry",
    "clock",
    "gate",
    "vcpu",
    "reader",
    "wait",
    "take",
    "resolve",
    "fetch",
    "install",
    "lost",
    "wake",
    "fill",
    "stamp",
    "inspect",
    "crash",
)

_CALL = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p)


def read_sources() -> list[tuple[str, str]]:
    """Return (file name, text) of every assembly file, in the order they are linked.

    The first holds the rules that the guest shares; see guest/.
    """
    own = resources.files("kvmpc.loops")
    files = [("rules.asm", resources.files("kvmpc._guest") / _ARCHITECTURE / "rules.asm")]
    files += [(f"{name}.asm", own / _ARCHITECTURE / f"{name}.asm") for name in _FILES]
    return [(name, file.read_text("ascii")) for name, file in files]


def build(
    steps: Steps,
    *,
    unit_bytes: int = PAGE_BYTES,
    extra: Sequence[tuple[str, str]] = (),
    syscall: str | None = None,
) -> Program:
    """Assemble the loops with `steps`, for pages of `unit_bytes`.

    `extra` are further (file name, text) sources, whose labels `steps` may name. `syscall` is the
    label that stands in for the system-call instruction: tests put a scripted kernel there.
    Raises: AssemblerError.
    """
    return assemble(
        [*read_sources(), *extra], host_symbols(unit_bytes), vars(steps), syscall=syscall
    )


class NativeProgram:
    """An assembled program in executable memory of its own. Raises: HostError, KernelError."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._code = Code(program.code)
        self._call = _CALL(self.address("call_native"))

    def address(self, function: str) -> int:
        """Return where `function` is in this process."""
        return self._code.address + self.program.labels[function]

    def call(self, function: str, record: ctypes.Structure, page: int = 0) -> int:
        """Run `function` on `record` (and `page`) and return its code, without the GIL.

        The record, and all it points to, must stay until this returns.
        """
        result: int = self._call(ctypes.addressof(record), page, self.address(function))
        return result

    def close(self) -> None:
        """Unmap the code; nothing may be running in it."""
        self._code.close()


@cache
def load(
    steps: Steps, unit_bytes: int = PAGE_BYTES, extra: tuple[tuple[str, str], ...] = ()
) -> NativeProgram:
    """Return the program for `steps`, assembled at its first use in this process."""
    return NativeProgram(build(steps, unit_bytes=unit_bytes, extra=extra))
