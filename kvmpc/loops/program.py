"""Native programs: the loops of one pager, assembled, made executable, and called.

A pager names its variant of each step; `load` puts the program together once a process and keeps it
(code is never changed, so trials and threads share it). Code pages are written, then executable,
never both.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources

from kvmpc.abi import mman
from kvmpc.assembler.assemble import Program, assemble
from kvmpc.kernel import syscalls
from kvmpc.loops.records import host_symbols

__all__ = ["DEFAULT_STEPS", "NativeProgram", "build", "load", "read_sources"]

DEFAULT_STEPS: Mapping[str, str] = {
    "fetch": "fetch_now",
    "stage": "stage_tags",
    "publish": "publish_bit",
    "lost": "lost_drop",
    "wake": "wake_range",
    "take": "take_now",
    "install_due": "due_none",
}
"""Every step that has variants, with the one that is linked unless a pager says otherwise."""

_FILES = (
    "entry",
    "clock",
    "gate",
    "vcpu",
    "reader",
    "take",
    "resolve",
    "fetch",
    "lost",
    "wake",
    "fill",
    "stamp",
)

_CALL = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p)


def read_sources() -> list[tuple[str, str]]:
    """Return (file name, text) of every assembly file, in the order they are linked."""
    folder = resources.files("kvmpc.loops")
    return [(f"{name}.asm", (folder / f"{name}.asm").read_text("ascii")) for name in _FILES]


def build(
    steps: Mapping[str, str],
    *,
    extra: Sequence[tuple[str, str]] = (),
    syscall: str | None = None,
) -> Program:
    """Assemble the loops with `steps` in place of the defaults.

    `extra` are further (file name, text) sources, whose labels `steps` may name. `syscall` is the
    label that stands in for the system-call instruction: tests put a scripted kernel there.
    Raises: AssemblerError.
    """
    return assemble(
        [*read_sources(), *extra], host_symbols(), {**DEFAULT_STEPS, **steps}, syscall=syscall
    )


class NativeProgram:
    """An assembled program in executable memory of its own."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._mapping = syscalls.Mapping.anonymous(len(program.code), what="native code")
        try:
            ctypes.memmove(self._mapping.address, program.code, len(program.code))
            syscalls.mprotect(
                self._mapping.address, len(program.code), mman.PROT_READ | mman.PROT_EXEC
            )
        except BaseException:
            self._mapping.close()
            raise
        self._call = _CALL(self._mapping.address + program.labels["call_native"])

    def address(self, function: str) -> int:
        """Return where `function` is in this process."""
        return self._mapping.address + self.program.labels[function]

    def call(self, function: str, record: ctypes.Structure, page: int = 0) -> int:
        """Run `function` on `record` (and `page`) and return its code, without the GIL.

        The record, and all it points to, must stay until this returns.
        """
        result: int = self._call(ctypes.addressof(record), page, self.address(function))
        return result

    def close(self) -> None:
        """Unmap the code; nothing may be running in it."""
        self._mapping.close()


@cache
def _load(steps: tuple[tuple[str, str], ...], extra: tuple[tuple[str, str], ...]) -> NativeProgram:
    return NativeProgram(build(dict(steps), extra=extra))


def load(steps: Mapping[str, str], extra: Sequence[tuple[str, str]] = ()) -> NativeProgram:
    """Return the program for `steps`, assembled at its first use in this process."""
    return _load(tuple(sorted(steps.items())), tuple(extra))
