"""Compare an assembled program with what objdump reads in its bytes.

Shares no table with the assembler, on purpose: a wrong table there must not agree with itself.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from kvmpc.assembler.assemble import Program

__all__ = ["check_against_objdump", "needs_objdump"]

needs_objdump = pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump is missing")

# objdump's spelling of each condition <- the others.
_CONDITION_SPELLINGS = {
    "c": "b", "nae": "b", "nb": "ae", "nc": "ae", "z": "e", "nz": "ne", "na": "be", "nbe": "a",
    "pe": "p", "po": "np", "nge": "l", "nl": "ge", "ng": "le", "nle": "g",
}  # fmt: skip
_MNEMONIC_SPELLINGS = {"movabs": "mov"} | {
    prefix + other: prefix + name
    for prefix in ("j", "set", "cmov")
    for other, name in _CONDITION_SPELLINGS.items()
}
_STRING_SPELLINGS = {
    "movs byte ptr es:[rdi],byte ptr ds:[rsi]": "movsb",
    "movs qword ptr es:[rdi],qword ptr ds:[rsi]": "movsq",
    "stos byte ptr es:[rdi],al": "stosb",
    "stos qword ptr es:[rdi],rax": "stosq",
    "rex.w nop": "xchg rax,rax",
}
_UNSIZED = {"lea", "invlpg", "prefetcht0", "prefetchw", "clflush"}
_SYMMETRIC = {"xchg", "test"}
_SIZES = {"byte": 8, "word": 16, "dword": 32, "qword": 64}

_OBJDUMP_LINE = re.compile(r"\s*([0-9a-f]+):\t((?:[0-9a-f]{2} )+)\s*(?:\t(.*))?")
_NUMBER = re.compile(r"-?(?:0x[0-9a-f]+|[0-9]+)")


def _disassemble(code: bytes) -> list[tuple[int, bytes, str]]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "code.bin"
        path.write_bytes(code)
        command = ["objdump", "-D", "-z", "-w", "-b", "binary", "-m", "i386:x86-64", "-M", "intel"]
        done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=True)
    matches = [_OBJDUMP_LINE.fullmatch(line) for line in done.stdout.splitlines()]
    return [(int(m[1], 16), bytes.fromhex(m[2]), m[3] or "") for m in matches if m]


def _operand_bits(operand: str) -> int:
    """Return the width an operand's text states, 0 for a number."""
    if " ptr " in operand:
        return _SIZES[operand.split()[0]]
    if "[" in operand or _NUMBER.fullmatch(operand):
        return 0
    if operand == "cr2" or re.fullmatch(r"r([a-z]{2}|\d+)", operand):
        return 64
    if re.fullmatch(r"e[a-z]{2}|r\d+d", operand):
        return 32
    return 16 if re.fullmatch(r"[a-d]x|[sd]i|[bs]p|r\d+w", operand) else 8


def _operand(text: str, bits: int, unsized: bool) -> str:
    """Return one operand with its numbers in decimal, modulo `bits`, and its address in order."""
    if _NUMBER.fullmatch(text):
        return str(int(text, 0) % (1 << bits))
    if "[" not in text:
        return text
    size, _, rest = text.rpartition("[")
    displacement, registers = 0, []
    for term in re.findall(r"[-+]?[^-+]+", rest.rstrip("]").replace(" ", "")):
        if _NUMBER.fullmatch(term.removeprefix("+")):
            displacement += int(term, 0)
        else:
            registers.append(term.removeprefix("+"))
    return ("" if unsized else size) + f"[{'+'.join(registers)}{displacement:+d}]"


def _normal(text: str, labels: dict[str, int]) -> str:
    """Return `text` in the one spelling used to compare; a label becomes its offset."""
    text = re.sub(r"\s*(#|<).*", "", text.lower()).strip()
    prefix, _, rest = text.partition(" ")
    if prefix not in ("lock", "rep"):
        prefix, rest = "", text
    rest = re.sub(r"\s*,\s*", ",", rest)
    rest = _STRING_SPELLINGS.get(" ".join(rest.split()), rest)
    mnemonic, _, tail = rest.partition(" ")
    mnemonic = _MNEMONIC_SPELLINGS.get(mnemonic, mnemonic)
    operands = [part.strip() for part in tail.split(",")] if tail else []
    if mnemonic.startswith("j") or mnemonic == "call":
        operands = [str(labels.get(item, item)) for item in operands]
    bits = max((_operand_bits(item) for item in operands), default=0) or 64
    operands = [_operand(item, bits, mnemonic in _UNSIZED) for item in operands]
    if mnemonic in _SYMMETRIC:
        operands.sort()
    return f"{prefix} {mnemonic} {','.join(operands)}".strip()


def check_against_objdump(program: Program) -> int:
    """Check every line of the listing against objdump: offset, bytes, mnemonic, operands.

    Returns the number of instructions compared.
    """
    labels = dict(program.labels)
    expected: list[tuple[int, bytes, str]] = []
    for line in program.listing:
        if line.text.startswith(".align"):
            expected += [(line.offset + i, b"\x90", "nop") for i in range(len(line.code))]
        else:
            expected.append((line.offset, line.code, _normal(line.text, labels)))
    assert b"".join(code for _, code, _ in expected) == program.code
    found = [(offset, code, _normal(text, {})) for offset, code, text in _disassemble(program.code)]
    for ours, theirs in zip(expected, found, strict=False):
        assert ours == theirs, f"the listing says {ours}, objdump {theirs}"
    assert len(expected) == len(found)
    return len(found)
