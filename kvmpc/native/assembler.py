"""Assemble kvmpc's own loops, trusting keystone with one checked instruction at a time.

Keystone 0.9.2 drops an unknown base register, reads memory where a symbol was meant, truncates
what does not fit, takes ``010`` for octal and ``;`` for a new statement, all in silence. So this
module parses each line itself, resolves every name, folds every sum into one literal, checks
that it fits, and hands over registers, mnemonics and literals only. Branches to labels are
encoded here, always with a 32-bit distance, so that lengths never depend on distances.

The language: Intel syntax, one statement a line, ``;`` to the end of the line is a comment;
``name:`` (``.name:`` is local to the last ``name:`` of its file) alone or before an instruction;
``.if NAME``, ``.if !NAME``, ``.else``, ``.endif``, ``.align N``. A value is a sum of products of
decimal or 0x numbers, CONSTANTS and record.fields. ``SYSCALL`` is a system call, or in a test
build a call of the scripted kernel. A new instruction is one entry in the tables below.

Whatever is wrong is an AssemblerError with file, line and reason. It is a defect of kvmpc's own
source, never of what a user typed, so it stands outside the tree of `kvmpc.errors`.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["AssemblerError", "Field", "Line", "Program", "Symbols", "assemble"]


class AssemblerError(Exception):
    """Line `line` of `source` cannot be assembled as written, or not without guessing."""

    def __init__(self, source: str, line: int, reason: str) -> None:
        super().__init__(source, line, reason)
        self.source = source
        self.line = line
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.source}:{self.line}: {self.reason}"


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


@dataclass(frozen=True)
class Line:
    """What one statement became: `code` at `offset`, and `text`, the instruction as encoded."""

    source: str
    line: int
    offset: int
    code: bytes
    text: str


@dataclass(frozen=True)
class Program:
    """Position-independent code; `labels` -> offset holds the aliases too, and ``global.local``."""

    code: bytes
    labels: Mapping[str, int]
    listing: tuple[Line, ...]

    def format_listing(self) -> str:
        """Return one text line per label and per statement: offset, bytes, origin, instruction."""
        names: dict[int, list[str]] = {}
        for name, offset in self.labels.items():
            names.setdefault(offset, []).append(name)
        rows: list[str] = []
        for item in self.listing:
            rows += [f"{name}:" for name in names.pop(item.offset, [])]
            origin = f"{item.source}:{item.line}"
            rows.append(f"{item.offset:6x}  {item.code.hex(' '):<30}  {origin:<20}  {item.text}")
        rows += [f"{name}:" for rest in names.values() for name in rest]
        return "\n".join(rows) + "\n"


_SIZES = {"byte": 8, "word": 16, "dword": 32, "qword": 64}
_SIZE_NAMES = {bits: name for name, bits in _SIZES.items()}
_REGISTERS = {"cr2": 0}  # name -> bits; a control register has no size to share with operands
for _name in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp"):
    _REGISTERS |= {f"r{_name}": 64, f"e{_name}": 32, _name: 16}
    _REGISTERS[_name[0] + "l" if _name.endswith("x") else _name + "l"] = 8
for _name in (f"r{number}" for number in range(8, 16)):
    _REGISTERS |= {_name: 64, f"{_name}d": 32, f"{_name}w": 16, f"{_name}b": 8}

_CONDITION_NAMES = (
    "o|no|b c nae|ae nb nc|e z|ne nz|be na|a nbe|s|ns|p pe|np po|l nge|ge nl|le ng|g nle"
)
_CONDITIONS = {
    name: code for code, names in enumerate(_CONDITION_NAMES.split("|")) for name in names.split()
}
_BRANCHES = {"jmp": b"\xe9", "call": b"\xe8"} | {
    f"j{name}": bytes((0x0F, 0x80 + code)) for name, code in _CONDITIONS.items()
}

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
_FORMS: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
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
        (" ".join(f"cmov{condition}" for condition in _CONDITIONS), "rr rm", _WIDE),
        (" ".join(f"set{condition}" for condition in _CONDITIONS), "r m", _BYTE),
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
_PREFIXES = {
    "lock": "add sub inc dec and or xor xadd cmpxchg bts btr btc",
    "rep": "movsb movsq stosb stosq",
}

_TOKEN = re.compile(r"[ \t]*(\d\w*|\.?[A-Za-z_][\w.]*|[-+*,\[\]])", re.ASCII)
_NUMBER = re.compile(r"0x[0-9a-fA-F]+|0|[1-9][0-9]*")
_CONSTANT = re.compile(r"[A-Z][A-Z0-9_]*")
_LABEL = re.compile(r"\.?[a-z_][a-z0-9_]*")
_LABELLED = re.compile(r"([^:]*):[ \t]*(.*)")


class _Defect(Exception):
    """What is wrong with a statement; `assemble` adds where."""


@dataclass(frozen=True)
class _Operand:
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
                raise _Defect(f"unexpected character {odd!r}")
            self.tokens.append(match[1])
            position = match.end()
        self.fields: list[str] = []
        self.registers: list[tuple[str, int | None]] = []  # name, scale if written

    def take(self, *allowed: str) -> str:
        """Remove and return the next token, if it is one of `allowed` (any, if none is given)."""
        if not self.tokens:
            raise _Defect("the statement ends too early")
        if allowed and self.tokens[0] not in allowed:
            raise _Defect(f"unexpected {self.tokens[0]!r}; one statement a line")
        return self.tokens.pop(0)

    def next_is(self, *allowed: str) -> bool:
        return bool(self.tokens) and self.tokens[0] in allowed

    def all(self) -> list[_Operand]:
        found: list[_Operand] = []
        while self.tokens:
            if found:
                self.take(",")
            found.append(self.operand())
        return found

    def operand(self) -> _Operand:
        if self.next_is("[", *_SIZES):
            return self.memory()
        if self.next_is(*_REGISTERS):
            name = self.take()
            return _Operand("register", name, _REGISTERS[name])
        value = self.sum()
        if self.registers:
            raise _Defect(f"register {self.registers[0][0]} in the sum of an immediate")
        return _Operand("number", _literal(value), value=value)

    def memory(self) -> _Operand:
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
            raise _Defect("a memory operand needs a base or an index register")
        if len(self.registers) > 2 or len(index) > 1:
            raise _Defect("a memory operand has one base and one index at most")
        if len(bases) == 2:
            index = [(bases.pop(), 1)]
        if index and index[0][0] == "rsp":  # keystone would drop it in silence
            raise _Defect("rsp cannot be an index")
        for name, _scale in self.registers:
            if _REGISTERS[name] != 64:
                raise _Defect(f"{name} cannot address memory; only 64-bit registers can")
        self.registers = []
        address = " + ".join(bases + [f"{name}*{scale}" for name, scale in index])
        if displacement:
            address += f" {'-' if displacement < 0 else '+'} {_literal(abs(displacement))}"
        return _Operand("memory", f"[{address}]", bits, displacement, tuple(self.fields))

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
            if self.next_is(*_REGISTERS) and register is None:
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
            raise _Defect(f"{register} has the factor {value}; an index takes 1, 2, 4 or 8")
        self.registers.append((register, value if factors else None))
        return 0

    def atom(self) -> int:
        token = self.take()
        if _NUMBER.fullmatch(token):
            return int(token, 0)
        if token[0].isdigit():
            raise _Defect(f"{token!r} is not a number: decimal without leading zeros, or 0x hex")
        if _CONSTANT.fullmatch(token) and token in self.symbols.constants:
            return self.symbols.constants[token]
        if "." in token and token in self.symbols.fields:
            self.fields.append(token)
            return self.symbols.fields[token].offset
        if token in "+-*,[]":
            raise _Defect(f"unexpected {token!r}; a value was expected")
        raise _Defect(f"unknown name {token!r}: no register, constant or field")


def _literal(value: int) -> str:
    return str(value) if -1024 < value < 1024 else hex(value)


def _check_range(value: int, low: int, high: int, what: str) -> None:
    if not low <= value <= high:
        raise _Defect(f"{_literal(value)} does not fit {what} ({_literal(low)}..{_literal(high)})")


def _matches(letter: str, operand: _Operand) -> bool:
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


def _operand_bits(mnemonic: str, shape: str, operands: Sequence[_Operand]) -> int:
    """Return the one width that all data operands of `shape` have."""
    sized = [item for letter, item in zip(shape, operands, strict=True) if letter in "rwm"]
    given = [item.bits for item in sized if item.bits]
    if mnemonic in _EXTENSIONS:
        if len(given) != 2:
            raise _Defect(f"{mnemonic} needs the size of its memory operand, such as byte ptr")
        if (given[0], given[1]) not in _EXTENSIONS[mnemonic]:
            raise _Defect(f"{mnemonic} does not extend {given[1]} bits to {given[0]}")
        return given[1]
    widths = _QUAD if "k" in shape else _FORMS[mnemonic][1]
    if sized and not given:
        raise _Defect("no operand gives the size; write byte, word, dword or qword ptr")
    if len(set(given)) > 1:
        raise _Defect(f"operand sizes differ: {' and '.join(str(bits) for bits in given)} bits")
    if given and given[0] not in widths:
        raise _Defect(f"{mnemonic} has no form for {given[0]} bits")
    return given[0] if given else widths[-1]


def _canonical(words: Sequence[str], text: str, symbols: Symbols) -> str:
    """Return prefix and mnemonic `words` with the operands `text`, checked and folded."""
    mnemonic = words[-1]
    if mnemonic not in _FORMS:
        hint = "; write SYSCALL" if mnemonic == "syscall" else ""
        raise _Defect(f"unknown mnemonic {mnemonic!r}{hint}")
    operands = _Operands(text, symbols).all()
    if sum(item.kind == "memory" for item in operands) > 1:
        raise _Defect("two memory operands")
    shapes = [shape for shape in _FORMS[mnemonic][0] if len(shape) == len(operands)]
    for shape in shapes:
        if all(map(_matches, shape, operands)):
            break
    else:
        given = ", ".join(item.text for item in operands) or "nothing"
        raise _Defect(f"{mnemonic} does not take these operands: {given}")
    if len(words) == 2 and (
        mnemonic not in _PREFIXES[words[0]].split() or (words[0] == "lock" and shape[0] != "m")
    ):
        raise _Defect(f"{words[0]} is not for this form of {mnemonic}")
    bits = _operand_bits(mnemonic, shape, operands)
    texts: list[str] = []
    for letter, item in zip(shape, operands, strict=True):
        prefix = ""
        if letter == "a" and item.bits:
            raise _Defect(f"{mnemonic} takes an address; leave the operand size out")
        if letter == "m":
            prefix = f"{_SIZE_NAMES[bits]} ptr "
            size = symbols.fields[item.fields[0]].size if len(item.fields) == 1 else 0
            if size and size * 8 != bits:
                raise _Defect(f"{item.fields[0]} has {size} bytes, the access {bits // 8}")
        if letter in "iInp":
            _check_immediate(letter, item.value, bits)
        texts.append(prefix + item.text)
    return f"{' '.join(words)} {', '.join(texts)}".rstrip()


@functools.cache
def _keystone() -> Any:
    """Return the assembler; imported here since the import alone takes 0.15 s."""
    import keystone

    return keystone.Ks(keystone.KS_ARCH_X86, keystone.KS_MODE_64)


@functools.cache
def _encode(text: str) -> bytes:
    """Return the bytes of one canonical instruction."""
    import keystone

    try:
        encoding, count = _keystone().asm(text)
    except keystone.KsError as error:
        raise _Defect(f"keystone refuses {text!r}: {error}") from error
    # Keystone counts a prefix as a statement of its own.
    if not encoding or count != 1 + (text.split()[0] in _PREFIXES):
        raise _Defect(f"keystone made {count} statements of {text!r}")
    return bytes(encoding)


class _Builder:
    """The program so far; `add` takes one source line at a time."""

    def __init__(self, symbols: Symbols, syscall: str | None) -> None:
        self.symbols = symbols
        self.syscall = syscall
        self.code = bytearray()
        self.labels: dict[str, int] = {}
        self.listing: list[Line] = []
        self.fixups: list[tuple[int, str]] = []  # index in the listing, label
        self.origin = ("", 0)
        self.scope = ""
        self.conditions: list[tuple[int, bool, bool]] = []  # line of .if, active now, .else seen

    def add_source(self, source: str, text: str) -> None:
        self.scope = ""
        # Not splitlines(): it would also split at characters that a comment may hold.
        for number, line in enumerate(text.split("\n"), start=1):
            self.origin = (source, number)
            self.add(line.partition(";")[0].strip(" \t"))
        if self.conditions:
            self.origin = (source, self.conditions[-1][0])
            raise _Defect(".if without .endif")

    def add(self, statement: str) -> None:
        odd = re.search(r"[^\t -~]", statement)
        if odd:
            raise _Defect(f"unexpected character {odd[0]!r}")
        if self.conditional(statement) or not all(active for _, active, _ in self.conditions):
            return
        labelled = _LABELLED.fullmatch(statement)
        if labelled:
            self.define(labelled[1].strip(" \t"))
            statement = labelled[2]
        words = statement.split(maxsplit=1)
        if words and words[0] == ".align" and not labelled:
            self.align(words[1] if len(words) == 2 else "")
        elif words and words[0].startswith("."):
            raise _Defect(f"unknown directive {words[0]!r}, or not alone on its line")
        elif words:
            self.instruction(words[0], words[1] if len(words) == 2 else "")

    def conditional(self, statement: str) -> bool:
        """Obey .if, .else and .endif; return whether it was one of them."""
        words = statement.split()
        if not words or words[0] not in (".if", ".else", ".endif"):
            return False
        if words[0] == ".if":
            name = words[1].removeprefix("!") if len(words) == 2 else ""
            if not _CONSTANT.fullmatch(name):
                raise _Defect(".if takes one UPPER_CASE name, or !NAME")
            active = (name in self.symbols.flags) != words[1].startswith("!")
            self.conditions.append((self.origin[1], active, False))
            return True
        if len(words) > 1:
            raise _Defect(f"{words[0]} takes nothing")
        if not self.conditions:
            raise _Defect(f"{words[0]} without .if")
        line, active, else_seen = self.conditions.pop()
        if words[0] == ".else":
            if else_seen:
                raise _Defect("second .else for one .if")
            self.conditions.append((line, not active, True))
        return True

    def qualified(self, label: str) -> str:
        if label.startswith(".") and not self.scope:
            raise _Defect(f"local label {label!r} before any global label of this file")
        return self.scope + label if label.startswith(".") else label

    def define(self, label: str) -> None:
        if not _LABEL.fullmatch(label) or label in _REGISTERS:
            raise _Defect(f"{label!r} cannot be a label")
        name = self.qualified(label)
        if name in self.labels:
            raise _Defect(f"label {label!r} is defined twice")
        self.labels[name] = len(self.code)
        if not label.startswith("."):
            self.scope = label

    def align(self, text: str) -> None:
        operands = _Operands(text, self.symbols).all()
        boundary = operands[0].value if len(operands) == 1 else 0
        if boundary.bit_count() != 1 or not 0 < boundary <= 4096:
            raise _Defect(".align takes a power of two up to 4096")
        padding = -len(self.code) % boundary
        if padding:
            self.emit(b"\x90" * padding, f".align {boundary}")

    def instruction(self, mnemonic: str, text: str) -> None:
        if mnemonic == "SYSCALL":
            if text:
                raise _Defect("SYSCALL takes no operands; one statement a line")
            if self.syscall is None:
                self.emit(_encode("syscall"), "syscall")
                return
            mnemonic, text = "call", self.syscall
        if mnemonic in _BRANCHES:
            if _LABEL.fullmatch(text) and text not in _REGISTERS:
                self.branch(mnemonic, self.qualified(text))
                return
            if mnemonic not in _FORMS:
                raise _Defect(f"{mnemonic} takes a label, not {text!r}")
        words = [mnemonic]
        if mnemonic in _PREFIXES:
            words += text.split(maxsplit=1)[:1]
            text = text[len(words[-1]) :] if len(words) == 2 else ""
        canonical = _canonical(words, text.strip(" \t"), self.symbols)
        self.emit(_encode(canonical), canonical)

    def branch(self, mnemonic: str, label: str) -> None:
        self.fixups.append((len(self.listing), label))
        self.emit(_BRANCHES[mnemonic] + bytes(4), f"{mnemonic} {label}")

    def emit(self, code: bytes, text: str) -> None:
        self.listing.append(Line(*self.origin, len(self.code), code, text))
        self.code += code

    def link(self, aliases: Mapping[str, str]) -> Program:
        """Fill in the distance of every branch, now that all labels are known."""
        self.origin = ("aliases", 0)
        labels = dict(self.labels)
        for alias, target in aliases.items():
            if alias in self.labels:
                raise _Defect(f"alias {alias!r} is also defined as a label")
            if target not in self.labels:
                raise _Defect(f"alias {alias!r} stands for the undefined label {target!r}")
            labels[alias] = self.labels[target]
        for index, label in self.fixups:
            item = self.listing[index]
            self.origin = (item.source, item.line)
            if label not in labels:
                raise _Defect(f"undefined label {label!r}")
            end = item.offset + len(item.code)
            code = item.code[:-4] + (labels[label] - end).to_bytes(4, "little", signed=True)
            self.code[item.offset : end] = code
            text = f"{item.text.split()[0]} {aliases.get(label, label)}"
            self.listing[index] = dataclasses.replace(item, code=code, text=text)
        return Program(bytes(self.code), labels, tuple(self.listing))


def assemble(
    sources: Sequence[tuple[str, str]],
    symbols: Symbols,
    aliases: Mapping[str, str] = {},
    syscall: str | None = None,
) -> Program:
    """Assemble `sources`, (file name, text) pairs that share their global labels, into one program.

    `aliases` chooses steps at link time: {"fetch": "fetch_sleep"} makes ``call fetch`` call
    fetch_sleep. `syscall` is the label that SYSCALL calls; None makes it the instruction.

    Raises: AssemblerError; for a wrong alias its source is "aliases" and its line 0.
    """
    builder = _Builder(symbols, syscall)
    try:
        for source, text in sources:
            builder.add_source(source, text)
        return builder.link(aliases)
    except _Defect as defect:
        raise AssemblerError(*builder.origin, str(defect)) from defect
