"""How fast the host's CPU runs what the kernel has no part in: a fixed stretch of work, timed.

Two runs are told apart by it: where this changed, the host did (its frequency, a neighbour on the
core or in its caches), and not only the kernel's page faults. The work is the same on every host
and in every version of kvmpc: multiplications and words of a buffer of 256 KiB that is there
already, in user mode, with no system call and no fault.
"""

from __future__ import annotations

import ctypes
import time
from ctypes import c_uint64
from functools import cache
from importlib import resources
from typing import Final

from kvmpc.assembler.assemble import Symbols, assemble
from kvmpc.loops.program import NativeProgram
from kvmpc.loops.records import FieldSpec, RecordArray, ctypes_fields, record_symbols

__all__ = ["SPEED_BUFFER_BYTES", "SpeedRecord", "read_sources", "steps_per_s"]

SPEED_BUFFER_BYTES: Final = 1 << 18
"""What `speed` works on: more than a first cache holds, less than a second does."""

STEPS: Final = 1 << 15
"""Of one span: a fifth of a millisecond, so that most spans have no interrupt in them."""

SPANS: Final = 9
_MULTIPLIER: Final = 6364136223846793005
"""Knuth's, of MMIX: its high bits do not repeat for long."""

_FIELDS = (
    FieldSpec("steps", c_uint64, "steps", "in", "how many to do; at least 1"),
    FieldSpec("buffer", c_uint64, "hva", "in", "SPEED_BUFFER_BYTES to work on"),
    FieldSpec("multiplier", c_uint64, "number", "in", "what each step multiplies by"),
    FieldSpec("value", c_uint64, "number", "out", "computed so far; Python sets its beginning"),
)


class SpeedRecord(ctypes.Structure):
    """A fixed stretch of work to time."""

    _fields_ = ctypes_fields(_FIELDS)


def steps_per_s() -> float:
    """Return how many steps a second the calling thread does on its CPU: the median of nine spans.

    Takes about 2 ms. An interrupt, or another thread's turn, spoils a span or two and no median.
    Raises: HostError, KernelError.
    """
    program, records = _program(), _records()
    record = records.records[0]
    record.steps, record.buffer = STEPS, records.tails[0]
    record.multiplier, record.value = _MULTIPLIER, 1
    program.call("speed", record)  # so that buffer and code are in the caches
    spans_ns = []
    for _ in range(SPANS):
        begin_ns = time.monotonic_ns()
        program.call("speed", record)
        spans_ns.append(time.monotonic_ns() - begin_ns)
    return STEPS / (sorted(spans_ns)[SPANS // 2] / 1e9)


def read_sources() -> list[tuple[str, str]]:
    """Return (file name, text) of the assembly files, in the order they are linked."""
    folder = resources.files("kvmpc.loops") / "x86_64"
    return [(name, (folder / name).read_text("ascii")) for name in ("entry.asm", "speed.asm")]


@cache
def _program() -> NativeProgram:
    constants = {"SPEED_SHIFT": 64 - (SPEED_BUFFER_BYTES // 8 - 1).bit_length()}
    symbols = Symbols(constants, record_symbols("speed", SpeedRecord, _FIELDS))
    return NativeProgram(assemble(read_sources(), symbols))


@cache
def _records() -> RecordArray[SpeedRecord]:
    return RecordArray(SpeedRecord, 1, tail_bytes=SPEED_BUFFER_BYTES)
