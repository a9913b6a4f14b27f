"""What an instruction of kvmpc's own loops may be: registers, mnemonics, operands, sizes.

Turns the words of one statement into one canonical instruction, in which every name is resolved,
every sum folded into one literal, every memory operand sized and every immediate checked to fit:
all that keystone gets wrong in silence. Knows no labels and no lines, and encodes nothing. A value
is a sum of products of decimal or 0x numbers, CONSTANTS and record.fields. A new instruction is
one entry in the tables below.

Whatever is wrong is a Defect; `kvmpc.assembler.assemble` adds where.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = [
    "CONDITIONS",
    "CONSTANT",
    "FORMS",
    "PREFIXES",
    "REGISTERS",
    "Defect",
    "Field",
    "Operand",
    "Symbols",
    "canonical",
    "parse_operands",
]


@dataclass(frozen=True)
class Field:
    """Where a record's field lies, in bytes; `size` is one element's, 0 turns the check off."""

    offset: int
    size: int


@dataclass(frozen=True)
class Symbols:
    """Every name a source may use: UPPER_CASE constants, ``record.field``, true ``.if`` flags."""

    constants: Mapping[str, int]
    fields: Mapping[str, Field]
    flags: frozenset[str] = frozenset()


_SIZES = {"byte": 8, "word": 16, "dword": 32, "qword": 64}
_SIZE_NAMES = {bits: name for name, bits in _SIZES.items()}
REGISTERS = {"cr2": 0}  # name -> bits; a control register has no size to share with operands
for _name in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp"):
    REGISTERS |= {f"r{_name}": 64, f"e{_name}": 32, _name: 16}
    REGISTERS[_name[0] + "l" if _name.endswith("x") else _name + "l"] = 8
for _name in (f"r{number}" for number in range(8, 16)):
    REGISTERS |= {_name: 64, f"{_name}d": 32, f"{_name}w": 16, f"{_name}b": 8}

_CONDITION_NAMES = (
    "o|no|b c nae|ae nb nc|e z|ne nz|be na|a nbe|s|ns|p pe|np po|l nge|ge nl|le ng|g nle"
)
CONDITIONS = {
    name: code for code, names in enumerate(_CONDITION_NAMES.split("|")) for name in names.split()
}
"""Name -> condition code, the low four bits of every opcode that has one."""

# One letter an operand: r register, w register of 16 bits or more, m memory, a address (memory
# that is not accessed as data), i immediate sign-extended from 32 bits, I full-width immediate,
# n bit number or shift count, c cl, d dx, A al/ax/eax, p port number, k cr2.
_KINDS = {
    **dict.fromkeys("rw", "register"),
    **dict.fromkeys("ma", "memory"),
    **dict.fromkeys("iInp", "number"),
}
_NAMED = {"c": ("cl",), "d": ("dx",), "A": ("al", "ax", "eax"), "k": ("cr2",)}
_ANY, _WIDE, _LONG, _QUAD, _BYTE = (8, 16, 32, 64), (16, 32, 64), (32, 64), (64,), (8,)
# Mnemonic -> its operand lists, and the widths its data operands may have.
FORMS: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    name: (tuple(shapes.split()) or ("",), widths)
    for names, shapes, widths in (
        ("add sub adc sbb and or xor cmp", "rr rm mr ri mi", _ANY),
        ("mov", "rr rm mr rI mi rk kr", _ANY),
        ("test", "rr mr ri mi", _ANY),
        ("inc dec neg not mul div idiv", "r m", _ANY),
        ("imul", "r m ww wm wwi wmi", _ANY),
        ("shl shr sar rol ror", "rn mn rc mc", _ANY),
        ("bt bts btr btc", "rr mr rn mn", _WIDE),  # "mr" addresses a bit string of any length
        ("bsr bsf", "rr rm", _WIDE),
        ("xchg", "rr rm mr", _ANY),
        ("xadd cmpxchg", "rr mr", _ANY),
        ("bswap", "r", _LONG),
        ("push", "r m i", _QUAD),
        ("pop call jmp", "r m", _QUAD),
        ("lea", "ra", _LONG),
        ("invlpg prefetcht0 prefetchw clflush", "a", _QUAD),
        ("in", "Ad Ap", _QUAD),
        ("out", "dA pA", _QUAD),
        ("movzx movsx movsxd", "rr rm", _ANY),
        (" ".join(f"cmov{condition}" for condition in CONDITIONS), "rr rm", _WIDE),
        (" ".join(f"set{condition}" for condition in CONDITIONS), "r m", _BYTE),
        ("ret nop pause lfence mfence sfence rdtsc rdtscp hlt ud2 int3 iretq", "", _ANY),
        ("cli sti cld cpuid swapgs cqo cdq rdmsr wrmsr movsb movsq stosb stosq", "", _ANY),
    )
    for name in names.split()
}
_EXTENSIONS = {
    "movzx": ((16, 8), (32, 8), (64, 8), (32, 16), (64, 16)),
    "movsx": ((16, 8), (32, 8), (64, 8), (32, 16), (64, 16)),
    "movsxd": ((64, 32),),
}
PREFIXES = {
    "lock": "add sub inc dec and or xor xadd cmpxchg bts btr btc",
    "rep": "movsb movsq stosb stosq",
}
"""Prefix -> the mnemonics that take it."""

_TOKEN = re.compile(r"[ \t]*(\d\w*|\.?[A-Za-z_][\w.]*|[-+*,\[\]])", re.ASCII)
_NUMBER = re.compile(r"0x[0-9a-fA-F]+|0|[1-9][0-9]*")
CONSTANT = re.compile(r"[A-Z][A-Z0-9_]*")


class Defect(Exception):
    """What is wrong with a statement, without where."""


@dataclass(frozen=True)
class Operand:
    """An operand as parsed: its text without a size, its size if it has one, what it refers to."""

    kind: str  # register, number or memory
    text: str
    bits: int = 0
    value: int = 0
    fields: tuple[str, ...] = ()


class _Operands:
    """Parse the operands of one instruction, resolving and folding as they are read."""

    def __init__(self, text: str, symbols: Symbols) -> None:
        self.symbols = symbols
        self.tokens: list[str] = []
        position = 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                odd = text[position:].lstrip(" \t")[0]
                raise Defect(f"unexpected character {odd!r}")
            self.tokens.append(match[1])
            position = match.end()
        self.fields: list[str] = []
        self.registers: list[tuple[str, int | None]] = []  # name, scale if written

    def take(self, *allowed: str) -> str:
        """Remove and return the next token, if it is one of `allowed` (any, if none is given)."""
        if not self.tokens:
            raise Defect("the statement ends too early")
        if allowed and self.tokens[0] not in allowed:
            raise Defect(f"unexpected {self.tokens[0]!r}; one statement a line")
        return self.tokens.pop(0)

    def next_is(self, *allowed: str) -> bool:
        return bool(self.tokens) and self.tokens[0] in allowed

    def all(self) -> list[Operand]:
        found: list[Operand] = []
        while self.tokens:
            if found:
                self.take(",")
            found.append(self.operand())
        return found

    def operand(self) -> Operand:
        if self.next_is("[", *_SIZES):
            return self.memory()
        if self.next_is(*REGISTERS):
            name = self.take()
            return Operand("register", name, REGISTERS[name])
        value = self.sum()
        if self.registers:
            raise Defect(f"register {self.registers[0][0]} in the sum of an immediate")
        return Operand("number", _literal(value), value=value)

    def memory(self) -> Operand:
        bits = 0
        if not self.next_is("["):
            bits = _SIZES[self.take()]
            self.take("ptr")
        self.take("[")
        self.fields, self.registers = [], []
        displacement = self.sum()
        self.take("]")
        _check_range(displacement, -(1 << 31), (1 << 31) - 1, "a 32-bit displacement")
        index = [(name, scale) for name, scale in self.registers if scale is not None]
        bases = [name for name, scale in self.registers if scale is None]
        if not self.registers:
            raise Defect("a memory operand needs a base or an index register")
        if len(self.registers) > 2 or len(index) > 1:
            raise Defect("a memory operand has one base and one index at most")
        if len(bases) == 2:
            index = [(bases.pop(), 1)]
        if index and index[0][0] == "rsp":  # keystone would drop it in silence
            raise Defect("rsp cannot be an index")
        for name, _scale in self.registers:
            if REGISTERS[name] != 64:
                raise Defect(f"{name} cannot address memory; only 64-bit registers can")
        self.registers = []
        address = " + ".join(bases + [f"{name}*{scale}" for name, scale in index])
        if displacement:
            address += f" {'-' if displacement < 0 else '+'} {_literal(abs(displacement))}"
        return Operand("memory", f"[{address}]", bits, displacement, tuple(self.fields))

    def sum(self) -> int:
        total = self.product(1)
        while self.next_is("+", "-"):
            total += self.product(1 if self.take() == "+" else -1)
        return total

    def product(self, sign: int) -> int:
        value, factors, register = sign, 0, None
        while True:
            while self.next_is("-"):
                self.take()
                value = -value
            if self.next_is(*REGISTERS) and register is None:
                register = self.take()
            else:
                value *= self.atom()
                factors += 1
            if not self.next_is("*"):
                break
            self.take()
        if register is None:
            return value
        if value not in (1, 2, 4, 8):
            raise Defect(f"{register} has the factor {value}; an index takes 1, 2, 4 or 8")
        self.registers.append((register, value if factors else None))
        return 0

    def atom(self) -> int:
        token = self.take()
        if _NUMBER.fullmatch(token):
            return int(token, 0)
        if token[0].isdigit():
            raise Defect(f"{token!r} is not a number: decimal without leading zeros, or 0x hex")
        if CONSTANT.fullmatch(token) and token in self.symbols.constants:
            return self.symbols.constants[token]
        if "." in token and token in self.symbols.fields:
            self.fields.append(token)
            return self.symbols.fields[token].offset
        if token in "+-*,[]":
            raise Defect(f"unexpected {token!r}; a value was expected")
        raise Defect(f"unknown name {token!r}: no register, constant or field")


def parse_operands(text: str, symbols: Symbols) -> list[Operand]:
    """Return the operands in `text`, names resolved and sums folded. Raises: Defect."""
    return _Operands(text, symbols).all()


def _literal(value: int) -> str:
    """Return a number as keystone reads it whatever its radix is.

    Keystone 0.9.2 does not initialise the radix of numbers without a prefix: in one process of
    many ``656`` is 0x656, and the code made of it loads from anywhere (seen: a crash).
    """
    return str(value) if -10 < value < 10 else hex(value)


def _check_range(value: int, low: int, high: int, what: str) -> None:
    if not low <= value <= high:
        raise Defect(f"{_literal(value)} does not fit {what} ({_literal(low)}..{_literal(high)})")


def _matches(letter: str, operand: Operand) -> bool:
    if letter in _NAMED:
        return operand.text in _NAMED[letter]
    if _KINDS[letter] != operand.kind or operand.text == "cr2":
        return False
    return letter != "w" or operand.bits > 8


def _check_immediate(letter: str, value: int, bits: int) -> None:
    """Refuse a `value` that the instruction could only hold changed."""
    if letter == "n":
        _check_range(value, 0, bits - 1, f"a bit number of {bits} bits")
    elif letter == "p":
        _check_range(value, 0, 255, "a port number of 8 bits")
    elif letter == "i" and bits == 64:
        _check_range(value, -(1 << 31), (1 << 31) - 1, "32 bits, sign-extended to 64")
    else:
        _check_range(value, -(1 << bits - 1), (1 << bits) - 1, f"{bits} bits")


def _operand_bits(mnemonic: str, shape: str, operands: Sequence[Operand]) -> int:
    """Return the one width that all data operands of `shape` have."""
    sized = [item for letter, item in zip(shape, operands, strict=True) if letter in "rwm"]
    given = [item.bits for item in sized if item.bits]
    if mnemonic in _EXTENSIONS:
        if len(given) != 2:
            raise Defect(f"{mnemonic} needs the size of its memory operand, such as byte ptr")
        if (given[0], given[1]) not in _EXTENSIONS[mnemonic]:
            raise Defect(f"{mnemonic} does not extend {given[1]} bits to {given[0]}")
        return given[1]
    widths = _QUAD if "k" in shape else FORMS[mnemonic][1]
    if sized and not given:
        raise Defect("no operand gives the size; write byte, word, dword or qword ptr")
    if len(set(given)) > 1:
        raise Defect(f"operand sizes differ: {' and '.join(str(bits) for bits in given)} bits")
    if given and given[0] not in widths:
        raise Defect(f"{mnemonic} has no form for {given[0]} bits")
    return given[0] if given else widths[-1]


def canonical(words: Sequence[str], text: str, symbols: Symbols) -> str:
    """Return prefix and mnemonic `words` with the operands `text`, checked and folded.

    Raises: Defect.
    """
    mnemonic = words[-1]
    if mnemonic not in FORMS:
        hint = "; write SYSCALL" if mnemonic == "syscall" else ""
        raise Defect(f"unknown mnemonic {mnemonic!r}{hint}")
    operands = parse_operands(text, symbols)
    if sum(item.kind == "memory" for item in operands) > 1:
        raise Defect("two memory operands")
    shapes = [shape for shape in FORMS[mnemonic][0] if len(shape) == len(operands)]
    for shape in shapes:
        if all(map(_matches, shape, operands)):
            break
    else:
        given = ", ".join(item.text for item in operands) or "nothing"
        raise Defect(f"{mnemonic} does not take these operands: {given}")
    if len(words) == 2 and (
        mnemonic not in PREFIXES[words[0]].split() or (words[0] == "lock" and shape[0] != "m")
    ):
        raise Defect(f"{words[0]} is not for this form of {mnemonic}")
    bits = _operand_bits(mnemonic, shape, operands)
    texts: list[str] = []
    for letter, item in zip(shape, operands, strict=True):
        prefix = ""
        if letter == "a" and item.bits:
            raise Defect(f"{mnemonic} takes an address; leave the operand size out")
        if letter == "m":
            prefix = f"{_SIZE_NAMES[bits]} ptr "
            size = symbols.fields[item.fields[0]].size if len(item.fields) == 1 else 0
            if size and size * 8 != bits:
                raise Defect(f"{item.fields[0]} has {size} bytes, the access {bits // 8}")
        if letter in "iInp":
            _check_immediate(letter, item.value, bits)
        texts.append(prefix + item.text)
    return f"{' '.join(words)} {', '.join(texts)}".rstrip()
