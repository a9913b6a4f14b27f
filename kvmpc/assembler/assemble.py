"""Assemble kvmpc's own loops, trusting keystone with one checked instruction at a time.

Keystone 0.9.2 drops an unknown base register, reads memory where a symbol was meant, truncates
what does not fit, takes ``010`` for octal, ``656`` now and then for 0x656, and ``;`` for a new
statement, all in silence. So this
module parses each line itself and hands over only what `kvmpc.assembler.x86_64` has checked:
registers, mnemonics and literals. Branches to labels are encoded here, always with a 32-bit
distance, so that lengths never depend on distances.

The language: Intel syntax, one statement a line, ``;`` to the end of the line is a comment;
``name:`` (``.name:`` is local to the last ``name:`` of its file) alone or before an instruction;
``.if NAME``, ``.if !NAME``, ``.else``, ``.endif``, ``.align N``. ``SYSCALL`` is a system call, or
in a test build a call of the scripted kernel. ``.macro name a, b`` to ``.endm`` gives instructions
a name: where it stands as a mnemonic, they are put in with its operands for `a` and `b`; it holds
no label, no directive and no other macro, and is known to all files behind it.

Whatever is wrong with a source is an AssemblerError with file, line and reason. It is a defect of
kvmpc's own, never of what a user typed, so it stands outside the tree of `kvmpc.errors`; a keystone
that is none, or does not work, is a HostError.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kvmpc.assembler.x86_64 import (
    CONDITIONS,
    CONSTANT,
    FORMS,
    PREFIXES,
    REGISTERS,
    Defect,
    Field,
    Symbols,
    canonical,
    parse_operands,
)
from kvmpc.errors import HostError

__all__ = [
    "AssemblerError",
    "Field",
    "Program",
    "Statement",
    "Symbols",
    "assemble",
    "assembler_version",
]


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
class _Macro:
    """What a macro's name stands for; `lines` has the parameters by their names."""

    parameters: tuple[str, ...]
    lines: list[str] = dataclasses.field(default_factory=list)

    def expand(self, operands: Sequence[str]) -> list[str]:
        """Return the lines with `operands` for the parameters."""
        if len(operands) != len(self.parameters):
            raise Defect(f"takes {len(self.parameters)} operands, not {len(operands)}")
        given = dict(zip(self.parameters, operands, strict=True))
        return [_WORD.sub(lambda word: given.get(word[0], word[0]), line) for line in self.lines]


@dataclass(frozen=True)
class Statement:
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
    listing: tuple[Statement, ...]

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


_BRANCHES = {"jmp": b"\xe9", "call": b"\xe8"} | {
    f"j{name}": bytes((0x0F, 0x80 + code)) for name, code in CONDITIONS.items()
}
_LABEL = re.compile(r"\.?[a-z_][a-z0-9_]*")
_WORD = re.compile(r"[A-Za-z_][\w.]*")
_LABELLED = re.compile(r"([^:]*):[ \t]*(.*)")


_KNOWN_CODE = ("add rax, 1", b"\x48\x83\xc0\x01")
_KEYSTONE_REMEDY = f"install it with this Python: {sys.executable} -m pip install keystone-engine"


@functools.cache
def _keystone() -> Any:
    """Return the assembler; imported here since the import alone takes 0.15 s.

    Raises: HostError where it is not there, is another module of that name (OpenStack has one), is
    broken, or does not assemble.
    """
    try:
        import keystone

        engine = keystone.Ks(keystone.KS_ARCH_X86, keystone.KS_MODE_64)
        encoding, _ = engine.asm(_KNOWN_CODE[0])
        if bytes(encoding or ()) != _KNOWN_CODE[1]:
            raise ValueError(f"it makes {encoding!r} of {_KNOWN_CODE[0]!r}")
        _ = keystone.KsError, keystone.__version__
    # Whatever another module of that name does, or a library that does not fit this machine.
    except Exception as error:
        raise _no_keystone(error) from error
    return engine


def _no_keystone(error: Exception) -> HostError:
    """Return what is wrong with keystone, and with which: where its file is."""
    module = sys.modules.get("keystone")
    if isinstance(error, MemoryError):
        reason, remedy = (
            "no memory to load it",
            "raise ulimit -v, or the memory limit of the cgroup",
        )
        return HostError("keystone-engine", reason, remedy)
    found = None if module else importlib.util.find_spec("keystone")
    if module is None and found is None:
        return HostError("keystone-engine", "not installed", _KEYSTONE_REMEDY)
    path = getattr(module, "__file__", None) or (found and found.origin) or "without __init__.py"
    folder = os.path.dirname(path)
    said = f"{type(error).__name__}: {error}"
    if not os.path.exists(os.path.join(folder, "keystone_const.py")):
        return HostError(
            "keystone-engine",
            f"the module named keystone here is another one: {path} ({said})",
            "take it out of PYTHONPATH, or use a virtual environment of its own; "
            + _KEYSTONE_REMEDY,
        )
    library = os.path.join(folder, "libkeystone.so")
    if isinstance(error, ImportError):
        # Its own words are of the last place that it looked in, or of a distutils that is no more.
        there = os.path.exists(library)
        said = f"{library} {'cannot be loaded by this Python' if there else 'is not there'}"
    return HostError(
        "keystone-engine",
        f"{path} does not work here ({said})",
        f"{_KEYSTONE_REMEDY} --force-reinstall, for a library of this machine's architecture; this "
        "process must be allowed to map and execute it",
    )


def assembler_version() -> str:
    """Return which assembler this is, after it has assembled something. Raises: HostError."""
    _keystone()
    import keystone

    return f"keystone {keystone.__version__}"


@functools.cache
def _encode(text: str) -> bytes:
    """Return the bytes of one canonical instruction. Raises: HostError, Defect."""
    engine = _keystone()
    import keystone

    try:
        encoding, count = engine.asm(text)
    except keystone.KsError as error:
        raise Defect(f"keystone refuses {text!r}: {error}") from error
    # Keystone counts a prefix as a statement of its own.
    if not encoding or count != 1 + (text.split()[0] in PREFIXES):
        raise Defect(f"keystone made {count} statements of {text!r}")
    return bytes(encoding)


class _Builder:
    """The program so far; `add` takes one source line at a time."""

    def __init__(self, symbols: Symbols, syscall: str | None) -> None:
        self.symbols = symbols
        self.syscall = syscall
        self.code = bytearray()
        self.labels: dict[str, int] = {}
        self.listing: list[Statement] = []
        self.fixups: list[tuple[int, str]] = []  # index in the listing, label
        self.origin = ("", 0)
        self.scope = ""
        self.conditions: list[tuple[int, bool, bool]] = []  # line of .if, active now, .else seen
        self.macros: dict[str, _Macro] = {}
        self.open_macro: tuple[int, _Macro] | None = None  # line of .macro

    def add_source(self, source: str, text: str) -> None:
        self.scope = ""
        # Not splitlines(): it would also split at characters that a comment may hold.
        for number, line in enumerate(text.split("\n"), start=1):
            self.origin = (source, number)
            self.add(line.partition(";")[0].strip(" \t"))
        if self.conditions:
            self.origin = (source, self.conditions[-1][0])
            raise Defect(".if without .endif")
        if self.open_macro:
            self.origin = (source, self.open_macro[0])
            raise Defect(".macro without .endm")

    def add(self, statement: str) -> None:
        odd = re.search(r"[^\t -~]", statement)
        if odd:
            raise Defect(f"unexpected character {odd[0]!r}")
        if self.in_macro(statement) or self.conditional(statement):
            return
        if not all(active for _, active, _ in self.conditions):
            return
        labelled = _LABELLED.fullmatch(statement)
        if labelled:
            self.define(labelled[1].strip(" \t"))
            statement = labelled[2]
        words = statement.split(maxsplit=1)
        if words and words[0] == ".align" and not labelled:
            self.align(words[1] if len(words) == 2 else "")
        elif words and words[0] == ".macro" and not labelled:
            self.begin_macro(words[1] if len(words) == 2 else "")
        elif words and words[0].startswith("."):
            raise Defect(f"unknown directive {words[0]!r}, or not alone on its line")
        elif words and words[0] in self.macros:
            self.expand(words[0], words[1] if len(words) == 2 else "")
        elif words:
            self.instruction(words[0], words[1] if len(words) == 2 else "")

    def begin_macro(self, text: str) -> None:
        name, _, rest = text.partition(" ")
        parameters = tuple(word.strip() for word in rest.split(",")) if rest.strip() else ()
        for word in (name, *parameters):
            if not _LABEL.fullmatch(word) or word.startswith(".") or word in REGISTERS:
                raise Defect(f"{word!r} cannot be the name of a macro or of its operand")
        if name in self.macros or name in FORMS or name in _BRANCHES or name in PREFIXES:
            raise Defect(f"{name!r} means something already")
        if len(set(parameters)) < len(parameters):
            raise Defect(f"two operands of {name!r} have one name")
        self.open_macro = (self.origin[1], _Macro(parameters))
        self.macros[name] = self.open_macro[1]

    def in_macro(self, statement: str) -> bool:
        """Keep a line of the macro that is open; return whether there was one."""
        if self.open_macro is None:
            return False
        words = statement.split(maxsplit=1)
        if statement == ".endm":
            self.open_macro = None
        elif words:
            if ":" in statement or words[0].startswith(".") or words[0] in self.macros:
                raise Defect("a macro holds no label, no directive and no macro")
            self.open_macro[1].lines.append(statement)
        return True

    def expand(self, name: str, text: str) -> None:
        operands = [word.strip(" \t") for word in text.split(",")] if text else []
        for line in self.macros[name].expand(operands):
            mnemonic, *rest = line.split(maxsplit=1)
            self.instruction(mnemonic, rest[0] if rest else "")

    def conditional(self, statement: str) -> bool:
        """Obey .if, .else and .endif; return whether it was one of them."""
        words = statement.split()
        if not words or words[0] not in (".if", ".else", ".endif"):
            return False
        if words[0] == ".if":
            name = words[1].removeprefix("!") if len(words) == 2 else ""
            if not CONSTANT.fullmatch(name):
                raise Defect(".if takes one UPPER_CASE name, or !NAME")
            active = (name in self.symbols.flags) != words[1].startswith("!")
            self.conditions.append((self.origin[1], active, False))
            return True
        if len(words) > 1:
            raise Defect(f"{words[0]} takes nothing")
        if not self.conditions:
            raise Defect(f"{words[0]} without .if")
        line, active, else_seen = self.conditions.pop()
        if words[0] == ".else":
            if else_seen:
                raise Defect("second .else for one .if")
            self.conditions.append((line, not active, True))
        return True

    def qualified(self, label: str) -> str:
        if label.startswith(".") and not self.scope:
            raise Defect(f"local label {label!r} before any global label of this file")
        return self.scope + label if label.startswith(".") else label

    def define(self, label: str) -> None:
        if not _LABEL.fullmatch(label) or label in REGISTERS:
            raise Defect(f"{label!r} cannot be a label")
        name = self.qualified(label)
        if name in self.labels:
            raise Defect(f"label {label!r} is defined twice")
        self.labels[name] = len(self.code)
        if not label.startswith("."):
            self.scope = label

    def align(self, text: str) -> None:
        operands = parse_operands(text, self.symbols)
        boundary = operands[0].value if len(operands) == 1 else 0
        if boundary.bit_count() != 1 or not 0 < boundary <= 4096:
            raise Defect(".align takes a power of two up to 4096")
        padding = -len(self.code) % boundary
        if padding:
            self.emit(b"\x90" * padding, f".align {boundary}")

    def instruction(self, mnemonic: str, text: str) -> None:
        if mnemonic == "SYSCALL":
            if text:
                raise Defect("SYSCALL takes no operands; one statement a line")
            if self.syscall is None:
                self.emit(_encode("syscall"), "syscall")
                return
            mnemonic, text = "call", self.syscall
        if mnemonic in _BRANCHES:
            if _LABEL.fullmatch(text) and text not in REGISTERS:
                self.branch(mnemonic, self.qualified(text))
                return
            if mnemonic not in FORMS:
                raise Defect(f"{mnemonic} takes a label, not {text!r}")
        words = [mnemonic]
        if mnemonic in PREFIXES:
            words += text.split(maxsplit=1)[:1]
            text = text[len(words[-1]) :] if len(words) == 2 else ""
        checked = canonical(words, text.strip(" \t"), self.symbols)
        self.emit(_encode(checked), checked)

    def branch(self, mnemonic: str, label: str) -> None:
        self.fixups.append((len(self.listing), label))
        self.emit(_BRANCHES[mnemonic] + bytes(4), f"{mnemonic} {label}")

    def emit(self, code: bytes, text: str) -> None:
        self.listing.append(Statement(*self.origin, len(self.code), code, text))
        self.code += code

    def link(self, aliases: Mapping[str, str]) -> Program:
        """Fill in the distance of every branch, now that all labels are known."""
        self.origin = ("aliases", 0)
        labels = dict(self.labels)
        for alias, target in aliases.items():
            if alias in self.labels:
                raise Defect(f"alias {alias!r} is also defined as a label")
            if target not in self.labels:
                raise Defect(f"alias {alias!r} stands for the undefined label {target!r}")
            labels[alias] = self.labels[target]
        for index, label in self.fixups:
            item = self.listing[index]
            self.origin = (item.source, item.line)
            if label not in labels:
                raise Defect(f"undefined label {label!r}")
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
    except Defect as defect:
        raise AssemblerError(*builder.origin, str(defect)) from defect
