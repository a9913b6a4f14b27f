"""The rules that guest and host share: each in one place, and the same there as in Python."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

import kvmpc
from kvmpc.assembler.assemble import assemble
from kvmpc.loops.program import NativeProgram, build, read_sources
from kvmpc.loops.records import ADDRESS_REGISTER, FillRecord, host_symbols
from kvmpc.loops.steps import Steps
from kvmpc.units import MIB, PAGE_BYTES
from kvmpc.vm.guest import assemble_guest
from kvmpc.work.layout import Layout
from kvmpc.work.tags import tag_rule
from kvmpc.work.work import Work

UNITS = (PAGE_BYTES, 2 * MIB)

_PROBE = """
; rbx = fill record. in: index, run_*, tag_*, gpa. out: hva = offset, gpa = tag, end = last word
probe:
    mov r8, [rbx + fill.index]
    page_offset rsi, r8, [rbx + fill.run_shift], [rbx + fill.run_stride]
    mov [rbx + fill.hva], rsi
    mov rax, [rbx + fill.gpa]
    tag rax, [rbx + fill.tag_multiplier], [rbx + fill.tag_seed]
    mov [rbx + fill.gpa], rax
    last_word rax
    mov [rbx + fill.end], rax
    xor eax, eax
    ret
"""


@pytest.mark.parametrize("unit_bytes", UNITS)
@pytest.mark.parametrize("touched", [1, 23, 511, 512, 997, 1024])
def test_the_assembled_rules_say_what_pythons_do(unit_bytes: int, touched: int) -> None:
    layout = Layout(Work(vcpus=1, mem_per_vcpu_bytes=9973 * PAGE_BYTES, touch_pages=touched))
    tags, chance = tag_rule(7), random.Random(touched)
    loops = NativeProgram(build(Steps(), unit_bytes=unit_bytes, extra=[("probe.asm", _PROBE)]))
    try:
        for index in {0, touched - 1, *(chance.randrange(touched) for _ in range(50))}:
            gpa = chance.randrange(1 << 35) * PAGE_BYTES
            record = FillRecord(
                index=index,
                gpa=gpa,
                run_shift=layout.run_pages.bit_length() - 1,
                run_stride=layout.run_stride,
                tag_multiplier=tags.multiplier,
                tag_seed=tags.seed,
            )
            loops.call("probe", record)
            assert record.hva == layout.page_of_index(index) * unit_bytes
            assert (record.gpa, record.end) == (tags.tag(gpa), tags.last_word(gpa))
    finally:
        loops.close()


def test_a_rule_stands_in_one_file_and_the_others_go_by_its_name() -> None:
    root = Path(kvmpc.__file__).parent
    files = [*root.parent.joinpath("guest").rglob("*.asm"), *root.joinpath("loops").rglob("*.asm")]
    assert len(files) > 15
    lines = {
        path.name: [line.partition(";")[0].split() for line in path.read_text().splitlines()]
        for path in files
    }
    home = "rules.asm"
    for name, rows in lines.items():
        for words in filter(None, rows):
            text = " ".join(words)
            # What the tag is made of, and where an index lies, is asked for by the macro's name.
            multiplied = re.search(r"tag_multiplier|run_stride|\br12, r13\b", text)
            if multiplied and name != home:
                assert words[0] in ("tag", "page_offset", "mov"), f"{name}: {text}"
                assert words[0] != "mov" or words[1] == "r12,", f"{name}: {text}"
            assert words[0] != "rol" or name == home, f"{name}: {text}"
    used = {words[0] for rows in lines.values() for words in rows if words}
    assert {"tag", "last_word", "page_offset"} <= used


def test_the_guest_touches_its_pages_through_the_register_that_the_host_reads() -> None:
    for split in (False, True):
        program = assemble_guest(write=True, passes=True, split=split)
        bases = {
            base
            for line in program.listing
            if line.source == "touch.asm"
            for base in re.findall(r"\[(\w+)", line.text)
        }
        # rdi is the vCPU's record.
        assert bases == {"rdi", ADDRESS_REGISTER}


@pytest.mark.parametrize("unit_bytes", UNITS)
def test_pages_of_another_size_change_constants_only(unit_bytes: int) -> None:
    listing = [line.text for line in build(Steps(), unit_bytes=unit_bytes).listing]
    plain = [line.text for line in build(Steps()).listing]
    changed = {one for one, other in zip(listing, plain, strict=True) if one != other}
    shift = unit_bytes.bit_length() - 1
    if unit_bytes == PAGE_BYTES:
        assert changed == set()
    else:
        words = (hex(unit_bytes), str(unit_bytes), f", {shift}", hex(shift), hex(unit_bytes - 8),
                 str(unit_bytes - 8))  # fmt: skip
        assert changed
        assert all(any(word in text for word in words) for text in changed), changed


def test_the_rules_alone_assemble_to_nothing() -> None:
    program = assemble(read_sources()[:1], host_symbols())
    assert program.code == b""
