"""A processor for the guest's program: runs what was assembled, on memory and time of the test's.

It reads the listing's instructions, those that guest/x86_64 has and what they could become by a
slip, and nothing else. Time passes only where memory is touched, as long as the test says, and
``rdtsc`` reads it as early as the architecture lets it: from where the last ``lfence`` stood. So a
fence that is missing shows in the times, as it might on a real processor.

Source: Intel SDM vol. 2 (instructions), vol. 3A 8.2.5 (LFENCE), RDTSC.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from kvmpc.assembler.assemble import Program
from kvmpc.assembler.x86_64 import CONDITIONS, REGISTERS

__all__ = ["Access", "ScriptedCpu", "UnknownInstruction"]

_MASK = (1 << 64) - 1
_PLAIN = ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di")
_MEMORY = re.compile(r"(byte|word|dword|qword) ptr \[(.*)\]")
_BITS = {"byte": 8, "word": 16, "dword": 32, "qword": 64}


class UnknownInstruction(NotImplementedError):
    """An instruction that this processor has not: it says nothing about the program."""


@dataclass(frozen=True)
class Access:
    """One access to memory: what a load found, or a store left."""

    kind: str
    address: int
    bits: int
    value: int


@dataclass
class ScriptedCpu:
    """One vCPU; `memory` maps where a region begins to its bytes.

    cost: cycles that an access takes. accesses: all of them, in order. reached: (file, line) of
    every instruction that ran, on any of them.
    """

    reached: ClassVar[set[tuple[str, int]]] = set()

    program: Program
    memory: dict[int, bytearray]
    cost: Callable[[Access], int] = lambda _: 0
    registers: dict[str, int] = field(default_factory=dict)
    cr2: int = 0
    now: int = 0
    accesses: list[Access] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in (*(f"r{name}" for name in _PLAIN), *(f"r{n}" for n in range(8, 16))):
            self.registers.setdefault(name, 0x5A5A_5A5A_5A5A_5A5A)
        self._carry = self._zero = self._sign = self._overflow = False
        self._fence = self.now
        self._code = {item.offset: item for item in self.program.listing}
        self.rip = 0

    def run(self, label: str | None = None, *, steps: int = 100_000) -> tuple[str, int]:
        """Run from `label`, or on, to the next word for the host.

        Returns ("out", port), ("hlt", 0) or ("ud2", 0). Raises: AssertionError, where it does not
        come to one, or leaves its code or its memory.
        """
        if label is not None:
            self.rip = self.program.labels[label]
        for _ in range(steps):
            assert self.rip in self._code, f"it runs away to {self.rip:#x}"
            item = self._code[self.rip]
            self.reached.add((item.source, item.line))
            self.rip += len(item.code)
            if (word := self._step(item.text)) is not None:
                # It is left and entered again: nothing passes that.
                self._fence = self.now
                return word
        raise AssertionError(f"no word to the host in {steps} steps")

    # Operands.

    def _register(self, name: str) -> tuple[str, int]:
        bits = REGISTERS[name]
        if name.startswith("r") and name[1].isdigit():
            return name.rstrip("dwb"), bits
        stem = name[:1] + "x" if name in ("al", "bl", "cl", "dl") else name.removesuffix("l")
        return f"r{stem[1:] if len(stem) == 3 else stem}", bits

    def _address(self, inside: str) -> int:
        total = 0
        for sign, term in re.findall(r"([+-]?) ?([^ +-]+)", inside):
            name, _, scale = term.partition("*")
            value = self.registers[name] if name in self.registers else int(name, 0)
            total += (-1 if sign == "-" else 1) * value * int(scale or "1", 0)
        return total & _MASK

    def _bytes(self, address: int, bits: int) -> tuple[bytearray, int]:
        for start, data in self.memory.items():
            if start <= address and address + bits // 8 <= start + len(data):
                return data, address - start
        raise AssertionError(f"it touches {address:#x}, where nothing is")

    def _touch(self, kind: str, address: int, bits: int, value: int) -> None:
        access = Access(kind, address, bits, value)
        self.accesses.append(access)
        self.now += self.cost(access)

    def _bits(self, operand: str) -> int:
        if match := _MEMORY.fullmatch(operand):
            return _BITS[match[1]]
        return REGISTERS.get(operand, 0)

    def _read(self, operand: str, bits: int) -> int:
        if match := _MEMORY.fullmatch(operand):
            address = self._address(match[2])
            data, at = self._bytes(address, bits)
            value = int.from_bytes(data[at : at + bits // 8], "little")
            self._touch("load", address, bits, value)
            return value
        if operand == "cr2":
            return self.cr2
        if operand in REGISTERS:
            name, own = self._register(operand)
            return self.registers[name] & (1 << own) - 1
        return int(operand, 0) & (1 << bits) - 1

    def _write(self, operand: str, bits: int, value: int) -> None:
        value &= (1 << bits) - 1
        if match := _MEMORY.fullmatch(operand):
            address = self._address(match[2])
            data, at = self._bytes(address, bits)
            data[at : at + bits // 8] = value.to_bytes(bits // 8, "little")
            self._touch("store", address, bits, value)
            return
        name, own = self._register(operand)
        if own >= 32:  # a 32-bit result clears the upper half
            self.registers[name] = value
        else:
            self.registers[name] = self.registers[name] & ~((1 << own) - 1) | value

    def _flags(self, result: int, bits: int, carry: bool, overflow: bool = False) -> int:
        value = result & (1 << bits) - 1
        self._zero, self._sign = value == 0, bool(value >> bits - 1)
        self._carry, self._overflow = carry, overflow
        return value

    def _holds(self, condition: str) -> bool:
        code = CONDITIONS[condition]
        found = (
            self._overflow,
            self._carry,
            self._zero,
            self._carry or self._zero,
            self._sign,
            False,  # parity: nothing here asks for it
            self._sign != self._overflow,
            self._zero or self._sign != self._overflow,
        )[code >> 1]
        return found != bool(code & 1)

    # Instructions.

    def _step(self, text: str) -> tuple[str, int] | None:
        text = text.removeprefix("lock ")
        mnemonic, _, rest = text.partition(" ")
        operands = rest.split(", ") if rest else []
        bits = max([self._bits(operand) for operand in operands], default=0) or 64
        if mnemonic in ("jmp", "call"):
            if mnemonic == "call":
                self._push(self.rip)
            self.rip = self.program.labels[operands[0]]
        elif mnemonic.startswith("j"):
            if self._holds(mnemonic[1:]):
                self.rip = self.program.labels[operands[0]]
        elif mnemonic.startswith("cmov"):
            value = self._read(operands[1], bits)
            if self._holds(mnemonic[4:]):
                self._write(operands[0], bits, value)
        elif mnemonic == "out":
            return "out", int(operands[0], 0)
        elif mnemonic in ("hlt", "ud2"):
            return mnemonic, 0
        elif mnemonic in _BINARY:
            self._binary(mnemonic, operands[0], self._read(operands[1], bits), bits)
        elif mnemonic in _SIMPLE:
            _SIMPLE[mnemonic](self, operands, bits)
        else:
            raise UnknownInstruction(text)
        return None

    def _binary(self, mnemonic: str, to: str, other: int, bits: int) -> None:
        value = self._read(to, bits) if mnemonic != "mov" else 0
        sign = 1 << bits - 1
        if mnemonic in ("add", "sub", "cmp"):
            result = value + other if mnemonic == "add" else value - other
            flipped = other if mnemonic == "add" else ~other
            overflow = bool(~(value ^ flipped) & (value ^ result) & sign)
            carry = not 0 <= result < 1 << bits
            result = self._flags(result, bits, carry, overflow)
        elif mnemonic in ("and", "or", "xor", "test"):
            result = {"or": value | other, "xor": value ^ other}.get(mnemonic, value & other)
            result = self._flags(result, bits, carry=False)
        elif mnemonic == "imul":
            result = value * other
        else:
            result = other
        if mnemonic not in ("cmp", "test"):
            self._write(to, bits, result)

    def _shift(self, mnemonic: str, operands: list[str], bits: int) -> None:
        count = self._read(operands[1], 8) & (bits - 1)
        value, bits = self._read(operands[0], bits), self._bits(operands[0])
        if count == 0:
            return
        if mnemonic == "rol":
            result = value << count | value >> bits - count
        elif mnemonic == "ror":
            result = value >> count | value << bits - count
        elif mnemonic == "shl":
            result = self._flags(value << count, bits, bool(value >> bits - count & 1))
        else:
            result = self._flags(value >> count, bits, bool(value >> count - 1 & 1))
        self._write(operands[0], bits, result)

    def _count(self, operands: list[str], bits: int, by: int) -> None:
        carry = self._carry
        result = self._flags(self._read(operands[0], bits) + by, bits, carry)
        self._write(operands[0], bits, result)

    def _scan(self, operands: list[str], bits: int, *, highest: bool) -> None:
        value = self._read(operands[1], bits)
        self._zero = value == 0
        if value:  # else the destination is undefined, and left
            found = value if highest else value & -value
            self._write(operands[0], bits, found.bit_length() - 1)

    def _push(self, value: int) -> None:
        self.registers["rsp"] -= 8
        self._write("qword ptr [rsp]", 64, value)

    def _pop(self, operand: str) -> None:
        value = self._read("qword ptr [rsp]", 64)
        self.registers["rsp"] += 8
        self._write(operand, 64, value)

    def _ret(self) -> None:
        self.rip = self._read("qword ptr [rsp]", 64)
        self.registers["rsp"] += 8

    def _lfence(self) -> None:
        self._fence = self.now

    def _rdtsc(self) -> None:
        self.registers["rax"], self.registers["rdx"] = self._fence & 0xFFFFFFFF, self._fence >> 32


_BINARY = ("add", "sub", "cmp", "and", "or", "xor", "test", "mov", "imul")
_SIMPLE: dict[str, Callable[[ScriptedCpu, list[str], int], None]] = {
    **{
        name: lambda cpu, operands, bits, name=name: cpu._shift(name, operands, bits)  # type: ignore[misc]
        for name in ("shl", "shr", "rol", "ror")
    },
    "inc": lambda cpu, operands, bits: cpu._count(operands, bits, 1),
    "dec": lambda cpu, operands, bits: cpu._count(operands, bits, -1),
    "bsr": lambda cpu, operands, bits: cpu._scan(operands, bits, highest=True),
    "bsf": lambda cpu, operands, bits: cpu._scan(operands, bits, highest=False),
    "push": lambda cpu, operands, _: cpu._push(cpu._read(operands[0], 64)),
    "pop": lambda cpu, operands, _: cpu._pop(operands[0]),
    "ret": lambda cpu, _, __: cpu._ret(),
    "lfence": lambda cpu, _, __: cpu._lfence(),
    "rdtsc": lambda cpu, _, __: cpu._rdtsc(),
}
