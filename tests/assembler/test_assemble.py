"""The assembler refuses what keystone would miscompile, and objdump reads back what was written."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kvmpc.assembler.assemble import AssemblerError, Field, Program, Statement, Symbols, assemble
from tests.fakes.disassembly import check_against_objdump, needs_objdump

SYMBOLS = Symbols(
    constants={"EFAULT": 14, "KVM_RUN": 0xAE80, "PAGE_BYTES": 4096, "HUGE": 1 << 40, "NINE": 9},
    fields={
        "vcpu.flags": Field(0, 4),
        "vcpu.pages": Field(8, 8),
        "vcpu.stop": Field(16, 1),
        "vcpu.histogram": Field(64, 0),
    },
    flags=frozenset({"TIMED"}),
)

_NAMES = {
    64: "rax rbx rcx rdx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15",
    32: "eax ebx ecx edx esi edi ebp esp r8d r9d r10d r11d r12d r13d r14d r15d",
    16: "ax bx cx dx si di bp sp r8w r9w r10w r11w r12w r13w r14w r15w",
    8: "al bl cl dl sil dil bpl spl r8b r9b r10b r11b r12b r13b r14b r15b",
}
GPRS = {bits: names.split() for bits, names in _NAMES.items()}
SIZES = {64: "qword", 32: "dword", 16: "word", 8: "byte"}
_CONDITIONS = "o no b c nae ae nb nc e z ne nz be na a nbe s ns p pe np po l nge ge nl le ng g nle"
CONDITIONS = _CONDITIONS.split()
_PLAIN = (
    "ret nop pause lfence mfence sfence rdtsc rdtscp hlt ud2 int3 iretq cli sti "
    "cld cpuid swapgs cqo cdq rdmsr wrmsr movsb movsq stosb stosq SYSCALL"
)


def build(text: str, **options: object) -> Program:
    return assemble([("loop.asm", text)], SYMBOLS, **options)  # type: ignore[arg-type]


def code_of(text: str) -> bytes:
    return build(text).code


def reason(text: str, **options: object) -> str:
    """Return why the last line of `text` is refused."""
    with pytest.raises(AssemblerError) as caught:
        build(text, **options)
    assert (caught.value.source, caught.value.line) == ("loop.asm", text.count("\n") + 1)
    return caught.value.reason


# --- what keystone gets wrong in silence -------------------------------------------------------


def test_a_negated_constant_is_an_immediate_and_not_a_memory_read() -> None:
    assert code_of("cmp rax, -EFAULT") == code_of("cmp rax, -14") == bytes.fromhex("4883f8f2")


def test_an_unknown_base_register_is_refused() -> None:
    assert "unknown name 'ctx'" in reason("mov rax, [ctx + vcpu.pages]")


def test_a_semicolon_starts_a_comment_also_inside_a_comment() -> None:
    assert code_of("nop ; first ; ud2\n; mov rax, oops ; ud2\n") == b"\x90"


def test_a_comment_may_hold_any_character_without_starting_a_line() -> None:
    assert code_of("nop ; \x0b ud2 \u2028 ud2 \x85 ud2 \u00e9\n") == b"\x90"


@pytest.mark.parametrize("number", ["010", "00", "0b11", "0o7", "10h", "1_000", "0X10", "1e3"])
def test_a_number_that_is_not_plain_decimal_or_0x_is_refused(number: str) -> None:
    assert "is not a number" in reason(f"mov rax, {number}")
    assert "is not a number" in reason(f"mov rax, [rbx + {number}]")


def test_zero_and_hex_are_numbers() -> None:
    assert code_of("mov eax, 0") == b"\xb8" + bytes(4)
    assert code_of("mov eax, 0x1F") == code_of("mov eax, 31")


@pytest.mark.parametrize("operand", ["[rbx + rsp]", "[rbx + rsp*1]", "[rsp*2]"])
def test_rsp_as_an_index_is_refused_where_keystone_would_drop_it(operand: str) -> None:
    assert "rsp cannot be an index" in reason(f"mov rax, {operand}")


# --- immediates and displacements that fit -----------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "low", "high"),
    [(64, -(1 << 31), (1 << 31) - 1)]
    + [(bits, -(1 << bits - 1), (1 << bits) - 1) for bits in (32, 16, 8)],
)
@pytest.mark.parametrize("mnemonic", ["add", "cmp", "test", "mov"])
def test_an_immediate_must_fit_the_operand(mnemonic: str, bits: int, low: int, high: int) -> None:
    memory = f"{mnemonic} {SIZES[bits]} ptr [rbx], "
    for value in (low, high):
        assert code_of(memory + str(value))
    for value in (low - 1, high + 1, 1 << 64):
        assert "does not fit" in reason(memory + str(value))
        if (mnemonic, bits) != ("mov", 64):
            assert "does not fit" in reason(f"{mnemonic} {GPRS[bits][1]}, {value}")


def test_mov_to_a_64_bit_register_takes_64_bits() -> None:
    assert code_of("mov rax, 0xfedcba9876543210") == bytes.fromhex("48b81032547698badcfe")
    assert code_of("mov rax, HUGE") == b"\x48\xb8" + (1 << 40).to_bytes(8, "little")
    assert code_of(f"mov rax, {-(1 << 63)}") == b"\x48\xb8" + (1 << 63).to_bytes(8, "little")
    assert "does not fit" in reason(f"mov rax, {1 << 64}")
    assert "does not fit" in reason(f"mov rax, {-(1 << 63) - 1}")


def test_an_unsigned_32_bit_value_does_not_pass_for_64_bits() -> None:
    assert "sign-extended" in reason("and rax, 0xffffffff")
    assert "sign-extended" in reason("cmp qword ptr [rbx], 0x80000000")
    assert "sign-extended" in reason("push 0x80000000")
    assert "sign-extended" in reason("imul rax, rbx, HUGE")


@pytest.mark.parametrize("bits", [64, 32, 16, 8])
def test_a_shift_count_is_below_the_operand_width(bits: int) -> None:
    assert code_of(f"shl {GPRS[bits][1]}, {bits - 1}")
    assert "does not fit" in reason(f"shl {GPRS[bits][1]}, {bits}")
    assert "does not fit" in reason(f"shr {SIZES[bits]} ptr [rbx], -1")


@pytest.mark.parametrize("bits", [64, 32, 16])
def test_a_bit_number_is_below_the_operand_width(bits: int) -> None:
    assert code_of(f"lock bts {SIZES[bits]} ptr [rbx], {bits - 1}")
    assert "does not fit" in reason(f"lock bts {SIZES[bits]} ptr [rbx], {bits}")


def test_a_register_bit_number_addresses_a_bit_string() -> None:
    assert code_of("lock bts qword ptr [rdi], rax") == code_of("lock bts [rdi], rax")


def test_a_port_number_has_8_bits() -> None:
    assert code_of("out 255, al") == b"\xe6\xff"
    assert "does not fit" in reason("out 256, al")
    assert "does not fit" in reason("in eax, -1")


def test_a_displacement_has_32_bits_after_folding() -> None:
    assert code_of("mov rax, [rbx + HUGE - HUGE + 8]") == code_of("mov rax, [rbx + 8]")
    assert code_of("mov rax, [rbx + 0x7fffffff]")
    assert code_of("mov rax, [rbx - 0x80000000]")
    assert "displacement" in reason("mov rax, [rbx + 0x80000000]")
    assert "displacement" in reason("mov rax, [rbx - 0x80000001]")


# --- values and addresses ----------------------------------------------------------------------


def test_sums_of_constants_and_fields_fold_into_one_number() -> None:
    text = "mov rax, [rdi + rcx*8 + vcpu.histogram - 2*EFAULT + 4 - -4]"
    assert build(text).listing[0].text == "mov rax, qword ptr [rdi + rcx*8 + 0x2c]"
    assert build("mov eax, -2*-EFAULT + vcpu.pages").listing[0].text == "mov eax, 0x24"
    assert build("add rax, PAGE_BYTES*2 - 1").listing[0].text == "add rax, 0x1fff"


def test_a_factor_may_be_a_constant_and_stand_on_either_side() -> None:
    assert code_of("mov rax, [rbx + 8*rcx]") == code_of("mov rax, [rcx*8 + rbx]")
    assert code_of("mov rax, [rbx + rcx*2*4]") == code_of("mov rax, [rbx + rcx*8]")


@pytest.mark.parametrize(
    ("operand", "why"),
    [
        ("[rbx + rcx*3]", "factor 3"),
        ("[rbx + rcx*NINE]", "factor 9"),
        ("[rbx - rcx]", "factor -1"),
        ("[rbx*2 + rcx*2]", "one base and one index"),
        ("[rbx + rcx + rdx]", "one base and one index"),
        ("[rbx*rcx]", "unknown name 'rcx'"),
        ("[ebx]", "64-bit registers"),
        ("[rbx + ecx*2]", "64-bit registers"),
        ("[cr2]", "64-bit registers"),
        ("[8]", "needs a base"),
        ("[vcpu.pages]", "needs a base"),
        ("[]", "a value was expected"),
        ("[rbx", "ends too early"),
        ("[rbx + ]", "a value was expected"),
        ("[[rbx]]", "a value was expected"),
        ("qword [rbx]", "unexpected '['"),
        ("oword ptr [rbx]", "unknown name 'oword'"),
        ("fs:[rbx]", "label"),
        ("[rip + 8]", "unknown name 'rip'"),
    ],
)
def test_an_address_that_x86_does_not_have_is_refused(operand: str, why: str) -> None:
    assert why in reason(f"mov rax, {operand}")


@pytest.mark.parametrize(
    "name", ["efault", "ENOENT", "vcpu.page", "vcpu", "pages", "ah", "xmm0", "loop", "PAGE.BYTES"]
)
def test_an_unknown_name_is_refused(name: str) -> None:
    assert f"unknown name '{name}'" in reason(f"loop: add rax, {name}")


def test_a_register_in_a_sum_is_refused() -> None:
    assert "register rbx" in reason("mov rax, 8 + rbx")
    assert "unexpected '+'" in reason("mov rax, rbx + 8")


# --- mnemonics, sizes, forms -------------------------------------------------------------------


@pytest.mark.parametrize("mnemonic", ["loop", "jrcxz", "movaps", "MOV", "vzeroupper", "db", "lock"])
def test_an_unknown_mnemonic_is_refused(mnemonic: str) -> None:
    assert f"unknown mnemonic '{mnemonic}'" in reason(mnemonic)


def test_a_bare_syscall_is_refused_since_tests_could_not_script_it() -> None:
    assert "write SYSCALL" in reason("syscall")


@pytest.mark.parametrize(
    "text",
    ["mov [rbx], 5", "inc [rbx]", "push [rbx]", "shl [rbx], cl", "call [rbx]", "lock inc [rbx]",
     "bts [rbx], 5", "setne [rbx]"],
)  # fmt: skip
def test_a_size_that_no_operand_gives_is_refused(text: str) -> None:
    assert "no operand gives the size" in reason(text)


@pytest.mark.parametrize("text", ["movzx eax, [rbx]", "movsx rax, [rbx]", "movsxd rax, [rbx]"])
def test_an_extension_needs_the_size_of_its_source(text: str) -> None:
    assert "needs the size" in reason(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("mov rax, ecx", "operand sizes differ: 64 and 32"),
        ("mov dword ptr [rbx], rax", "operand sizes differ"),
        ("add al, cx", "operand sizes differ"),
        ("movzx eax, ecx", "does not extend 32 bits to 32"),
        ("movzx rax, dword ptr [rbx]", "does not extend"),
        ("movsxd rax, cx", "does not extend"),
        ("mov eax, cr2", "no form for 32"),
        ("push eax", "no form for 32"),
        ("lea ax, [rbx]", "no form for 16"),
        ("cmove al, cl", "no form for 8"),
        ("sete eax", "no form for 32"),
        ("bt byte ptr [rbx], 1", "no form for 8"),
        ("lea rax, qword ptr [rbx]", "leave the operand size out"),
        ("mov [rax], [rbx]", "two memory operands"),
        ("add qword ptr [rax], qword ptr [rbx]", "two memory operands"),
        ("mov rax", "does not take these operands"),
        ("mov 5, rax", "does not take these operands"),
        ("add rax, rbx, rcx", "does not take these operands"),
        ("add cr2, rax", "does not take these operands"),
        ("imul al, cl", "does not take these operands"),
        ("imul rax, 8", "does not take these operands"),
        ("shl rax, rcx", "does not take these operands"),
        ("out dx, rax", "does not take these operands"),
        ("in ebx, dx", "does not take these operands"),
        ("cmpxchg rax, [rbx]", "does not take these operands"),
        ("lea rax, rbx", "does not take these operands"),
        ("nop rax", "does not take these operands"),
        ("ret 8", "does not take these operands"),
        ("lock add rax, [rbx]", "lock is not for"),
        ("lock mov [rbx], rax", "lock is not for"),
        ("lock bt [rbx], rax", "lock is not for"),
        ("rep nop", "rep is not for"),
        ("jne rax", "takes a label"),
        ("jne", "takes a label"),
        ("call KVM_RUN", "does not take these operands"),
    ],
)
def test_a_form_that_x86_does_not_have_is_refused(text: str, why: str) -> None:
    assert why in reason(text)


@pytest.mark.parametrize(
    "text",
    ["mov rax, rbx inc rcx", "mov rax rbx", "nop nop", "nop: nop: nop", "mov rax, rbx,",
     "ret # done", "mov rax, rbx \\ nop", "SYSCALL nop", "nop \r nop", "mov rax, (8)",
     "mov rax, 'a'", "call a b", "\N{NO-BREAK SPACE}\x0b nop", "mov\x0b rax, \x0b"],
)  # fmt: skip
def test_anything_but_one_statement_a_line_is_refused(text: str) -> None:
    assert reason(text)


# --- fields ------------------------------------------------------------------------------------


def test_an_access_has_the_size_of_the_field() -> None:
    for good in (
        "mov eax, [rdi + vcpu.flags]",
        "mov rax, [rdi + vcpu.pages]",
        "lock inc qword ptr [rdi + vcpu.pages]",
        "movzx eax, byte ptr [rdi + vcpu.stop]",
        "call qword ptr [rdi + vcpu.pages]",
    ):
        assert code_of(good)
    assert "vcpu.flags has 4 bytes, the access 8" in reason("mov rax, [rdi + vcpu.flags]")
    assert "vcpu.pages has 8 bytes, the access 4" in reason("inc dword ptr [rdi + vcpu.pages]")
    assert "the access 2" in reason("movzx eax, word ptr [rdi + vcpu.stop]")
    assert "the access 4" in reason("cmp dword ptr [rdi + rcx*8 + vcpu.pages + 8], 1")


def test_an_access_to_no_sized_field_or_to_several_is_not_checked() -> None:
    assert code_of("mov al, [rdi + rcx*8 + vcpu.histogram]")
    assert code_of("mov al, [rdi + vcpu.pages + vcpu.flags]")
    assert code_of("lea rax, [rdi + vcpu.flags]")
    assert code_of("mov rax, vcpu.flags")


# --- labels, branches, aliases -----------------------------------------------------------------


def test_branches_have_one_length_whatever_the_distance() -> None:
    program = build("start: jmp start\njne start\ncall start\n")
    assert program.code == bytes.fromhex("e9fbffffff 0f85f5ffffff e8f0ffffff")
    forward = build("jmp end\n" + "nop\n" * 300 + "end:\n")
    assert forward.code[:5] == b"\xe9" + (300).to_bytes(4, "little")
    assert forward.labels == {"end": 305}


def test_an_indirect_branch_takes_a_register_or_memory() -> None:
    assert code_of("call rax") == b"\xff\xd0"
    assert code_of("jmp qword ptr [rbx]") == b"\xff\x23"


def test_sources_share_global_labels() -> None:
    program = assemble([("a.asm", "call b"), ("b.asm", "ud2\nb: ret")], SYMBOLS)
    assert program.code == bytes.fromhex("e802000000 0f0b c3")
    assert program.listing[2] == Statement("b.asm", 2, 7, b"\xc3", "ret")


def test_local_labels_belong_to_the_global_label_above() -> None:
    program = build("a:\n.again: jmp .again\nb:\n.again: nop\njmp .again\n")
    assert program.labels == {"a": 0, "a.again": 0, "b": 5, "b.again": 5}
    assert [line.text for line in program.listing] == ["jmp a.again", "nop", "jmp b.again"]
    assert program.listing[2].code == bytes.fromhex("e9faffffff")


def test_a_local_label_needs_a_global_label_in_the_same_file() -> None:
    assert "before any global label" in reason(".again: nop")
    with pytest.raises(AssemblerError, match=r"b\.asm:1: local label"):
        assemble([("a.asm", "a: nop"), ("b.asm", "jmp .again")], SYMBOLS)


def test_duplicate_and_undefined_labels_are_refused() -> None:
    assert "defined twice" in reason("a: nop\na: nop")
    assert "defined twice" in reason("a: nop\n.x:\n.x:")
    assert "undefined label 'b'" in reason("a: nop\ncall b")
    assert "undefined label 'b.x'" in reason("a: nop\n.x: nop\nb:\njne .x")
    with pytest.raises(AssemblerError, match=r"b\.asm:1: label 'a' is defined twice"):
        assemble([("a.asm", "a:"), ("b.asm", "a:")], SYMBOLS)


@pytest.mark.parametrize("label", ["rax", "Loop", "1a", "a.b", "", "..a", "mov rax", "LOOP"])
def test_a_label_is_lower_case_and_no_register(label: str) -> None:
    assert "cannot be a label" in reason(f"{label}: nop")


def test_an_alias_chooses_the_step_that_is_called() -> None:
    text = "call fetch\nfetch_none: ret\nfetch_sleep: nop\nret"
    program = build(text, aliases={"fetch": "fetch_sleep"})
    assert program.listing[0].text == "call fetch_sleep"
    assert program.code[:5] == bytes.fromhex("e801000000")
    assert program.labels["fetch"] == program.labels["fetch_sleep"] == 6
    assert build(text, aliases={"fetch": "fetch_none"}).code[:5] == bytes.fromhex("e800000000")


def test_an_alias_of_a_defined_label_is_refused() -> None:
    with pytest.raises(AssemblerError, match="aliases:0: alias 'fetch' is also defined"):
        build("fetch: ret\nother: ret", aliases={"fetch": "other"})


def test_an_alias_to_an_unknown_label_or_to_an_alias_is_refused() -> None:
    with pytest.raises(AssemblerError, match="undefined label 'fetch_slep'"):
        build("call fetch\nfetch_sleep: ret", aliases={"fetch": "fetch_slep"})
    with pytest.raises(AssemblerError, match="undefined label 'b'"):
        build("a: ret", aliases={"b": "a", "c": "b"})


def test_syscall_is_the_instruction_or_a_call_of_the_scripted_kernel() -> None:
    assert build("SYSCALL").code == b"\x0f\x05"
    assert build("SYSCALL").listing[0].text == "syscall"
    program = build("SYSCALL\nkernel: ret", syscall="kernel")
    assert program.code == bytes.fromhex("e800000000 c3")
    assert program.listing[0].text == "call kernel"
    assert "undefined label 'kernel'" in reason("nop\nSYSCALL", syscall="kernel")


# --- directives --------------------------------------------------------------------------------


def test_conditional_lines_follow_the_flags() -> None:
    assert code_of(".if TIMED\nret\n.else\nnop\n.endif") == b"\xc3"
    assert code_of(".if !TIMED\nret\n.else\nnop\n.endif") == b"\x90"
    assert code_of(".if ABSENT\nret\n.endif ; TIMED\nnop") == b"\x90"
    assert code_of(".if !ABSENT\nret\n.endif") == b"\xc3"


def test_conditions_nest_and_hide_what_is_inside() -> None:
    nested = ".if ABSENT\nud2\n.if TIMED\nud2\n.else\nud2\n.endif\nnonsense: (\n.else\nret\n.endif"
    assert code_of(nested) == b"\xc3"
    assert code_of(".if TIMED\n.if ABSENT\nud2\n.else\nret\n.endif\n.else\nud2\n.endif") == b"\xc3"


@pytest.mark.parametrize("name", ["", "timed", "Timed", "!timed", "! TIMED", "TIMED ABSENT", "!!A"])
def test_a_condition_is_one_upper_case_name(name: str) -> None:
    assert "UPPER_CASE" in reason(f".if {name}")
    assert "UPPER_CASE" in reason(f".if ABSENT\n.if {name}")


def test_unbalanced_conditions_are_refused() -> None:
    assert "without .if" in reason("nop\n.endif")
    assert "without .if" in reason("nop\n.else")
    assert "second .else" in reason(".if TIMED\n.else\n.else")
    assert ".else takes nothing" in reason(".if TIMED\n.else TIMED")
    with pytest.raises(AssemblerError, match=r"a\.asm:2: \.if without \.endif"):
        assemble([("a.asm", "nop\n.if TIMED\nnop"), ("b.asm", ".endif")], SYMBOLS)


MACRO = ".macro twice to, by\n    add to, by\n    add to, by\n.endm\n"


def test_a_macro_puts_its_instructions_in_with_the_operands_given() -> None:
    program = build(MACRO + "twice rax, [rbx + vcpu.pages]\ntwice rcx, NINE")
    plain = "add rax, [rbx + vcpu.pages]\n" * 2 + "add rcx, NINE\n" * 2
    assert program.code == code_of(plain)
    assert [line.line for line in program.listing] == [5, 5, 6, 6]
    assert build(MACRO).code == b""


def test_a_macro_is_known_to_the_files_behind_it() -> None:
    program = assemble([("a.asm", MACRO), ("b.asm", "at: twice rax, 1")], SYMBOLS)
    assert [line.source for line in program.listing] == ["b.asm"] * 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (MACRO + "twice rax", "takes 2 operands, not 1"),
        (MACRO + "twice rax, 1, 2", "takes 2 operands, not 3"),
        (MACRO + "twice rax, [ctx]", "unknown name 'ctx'"),
        (MACRO + ".macro twice a", "means something already"),
        (".macro add a", "means something already"),
        (".macro jmp", "means something already"),
        (".macro rax", "cannot be the name of a macro"),
        (".macro", "cannot be the name of a macro"),
        (".macro both rax, b", "cannot be the name of a macro or of its operand"),
        (".macro both a, a", "have one name"),
        (".macro m a\nhere: add a, 1", "holds no label"),
        (".macro m a\n.align 8", "no directive"),
        (MACRO + ".macro m a\ntwice a, 1", "no macro"),
        (".endm", "unknown directive"),
    ],
)
def test_a_macro_that_leaves_something_to_guess_is_refused(text: str, why: str) -> None:
    assert why in reason(text)


def test_a_macro_that_is_not_ended_is_named_by_its_first_line() -> None:
    with pytest.raises(AssemblerError, match=r"a\.asm:2: \.macro without \.endm"):
        assemble([("a.asm", "nop\n.macro m a\nadd a, 1\n"), ("b.asm", "nop")], SYMBOLS)


def test_align_pads_with_nops() -> None:
    program = build("ret\n.align 16\nloop: ret\n.align 1\nret")
    assert program.code == b"\xc3" + b"\x90" * 15 + b"\xc3\xc3"
    assert program.labels == {"loop": 16}
    assert program.listing[1] == Statement("loop.asm", 2, 1, b"\x90" * 15, ".align 16")
    assert code_of("ret\n.align PAGE_BYTES\nret").index(b"\xc3", 1) == 4096


@pytest.mark.parametrize("boundary", ["", "0", "3", "-4", "8192", "rax", "8, 8", "[rax]"])
def test_align_takes_a_power_of_two(boundary: str) -> None:
    assert "power of two" in reason(f".align {boundary}")


def test_other_directives_are_refused() -> None:
    assert "unknown directive" in reason(".byte 1")
    assert "unknown directive" in reason("a: .align 8")
    assert "unknown directive" in reason("a: .if TIMED")


# --- the program as a whole --------------------------------------------------------------------


def test_an_error_reads_as_file_line_reason() -> None:
    with pytest.raises(AssemblerError) as caught:
        assemble([("a.asm", "nop\n"), ("b.asm", "nop\n\nfrob")], SYMBOLS)
    error = caught.value
    assert (error.source, error.line) == ("b.asm", 3)
    assert str(error) == "b.asm:3: unknown mnemonic 'frob'"


def test_what_keystone_refuses_is_an_assembler_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from kvmpc.assembler import x86_64 as instructions

    monkeypatch.setitem(instructions.FORMS, "frobnicate", (("r",), (64,)))
    assert "keystone refuses 'frobnicate r15'" in reason("nop\nfrobnicate r15")


@pytest.mark.parametrize("answer", [(None, 0), ([], 1), ([0x90, 0x90], 2)])
def test_no_code_or_two_statements_from_keystone_are_an_error(
    monkeypatch: pytest.MonkeyPatch, answer: tuple[list[int] | None, int]
) -> None:
    from kvmpc.assembler import assemble as assembler

    class Broken:
        def asm(self, _text: str) -> tuple[list[int] | None, int]:
            return answer

    assembler._encode.cache_clear()
    monkeypatch.setattr(assembler, "_keystone", Broken)
    assert "statements of 'mov rax, rbx'" in reason("mov rax, rbx")


def test_the_listing_shows_labels_offsets_bytes_and_origin() -> None:
    text = build(
        "start:\n  mov eax, [rdi + vcpu.flags] ; why\n.end: jmp .end\nlast:"
    ).format_listing()
    assert text.splitlines() == [
        "start:",
        "     0  8b 07                           loop.asm:2            mov eax, dword ptr [rdi]",
        "start.end:",
        "     2  e9 fb ff ff ff                  loop.asm:3            jmp start.end",
        "last:",
    ]


def test_an_empty_program_is_empty() -> None:
    assert assemble([], SYMBOLS) == Program(b"", {}, ())
    assert build("; nothing\n\n").code == b""


def test_keystone_is_imported_only_when_something_is_assembled() -> None:
    check = "import sys, kvmpc.assembler.assemble; sys.exit('keystone' in sys.modules)"
    subprocess.run(
        [sys.executable, "-c", check], check=True, env={"PYTHONPATH": ":".join(sys.path)}
    )


# --- objdump reads back what was written -------------------------------------------------------


def edge_values(bits: int) -> list[int]:
    if bits == 64:
        return [0, 1, -1, 127, 128, -128, -129, (1 << 31) - 1, -(1 << 31)]
    return [0, 1, -1, 127, 128, -128, (1 << bits) - 1, (1 << bits - 1), -(1 << bits - 1)]


def register_samples() -> list[str]:
    lines = []
    for bits, names in GPRS.items():
        for first, second in zip(names, names[3:] + names[:3], strict=True):
            lines += [f"{name} {first}, {second}" for name in ("mov", "add", "cmp", "test", "xchg")]
            lines += [f"{name} {first}" for name in ("inc", "neg", "not", "mul", "idiv")]
            lines += [f"mov {first}, [{GPRS[64][0]}]", f"xadd [rbx], {first}", f"shl {first}, cl"]
            if bits > 8:
                lines += [f"{name} {first}, {second}" for name in ("imul", "bsr", "bsf", "btc")]
    lines += [f"{name} {register}" for register in GPRS[64] for name in ("push", "pop", "call")]
    lines += [line for reg in GPRS[64] for line in (f"mov {reg}, cr2", f"mov cr2, {reg}")]
    lines += [f"movzx {wide}, {byte}" for wide in GPRS[32] for byte in GPRS[8]]
    lines += [f"movsx {wide}, {word}" for wide in GPRS[64] for word in GPRS[16]]
    lines += [f"movsxd {wide}, {half}" for wide in GPRS[64] for half in GPRS[32]]
    lines += [f"bswap {wide}" for wide in GPRS[64] + GPRS[32]]
    return lines


def address_samples() -> list[str]:
    displacements = (0, 1, -1, 127, 128, -128, -129, (1 << 31) - 1, -(1 << 31))
    lines = [f"mov rdx, [{base} + {disp}]" for base in GPRS[64] for disp in displacements]
    for base in GPRS[64]:
        for index in GPRS[64]:
            if index != "rsp":
                lines += [f"lea r9, [{base} + {index}]", f"cmp [{base} + {index}*4 - 8], r9d"]
    for index in GPRS[64]:
        if index != "rsp":
            lines += [f"mov r9b, [{index}*{scale} + 16]" for scale in (1, 2, 4, 8)]
    return lines


def immediate_samples() -> list[str]:
    lines = []
    for bits in GPRS:
        targets = [GPRS[bits][0], GPRS[bits][9], f"{SIZES[bits]} ptr [r12 + 8]"]
        for value in edge_values(bits):
            for name in ("add", "sub", "adc", "sbb", "and", "or", "xor", "cmp", "test", "mov"):
                lines += [f"{name} {target}, {value}" for target in targets]
            if bits > 8:
                lines.append(f"imul {GPRS[bits][2]}, {GPRS[bits][3]}, {value}")
        for name in ("shl", "shr", "sar", "rol", "ror"):
            lines += [f"{name} {target}, {n}" for target in targets for n in (0, 1, bits - 1)]
            lines += [f"{name} {target}, cl" for target in targets]
        if bits > 8:
            for name in ("bt", "bts", "btr", "btc"):
                lines += [f"{name} {target}, {n}" for target in targets for n in (0, bits - 1)]
    lines += [f"push {value}" for value in edge_values(64)]
    wide = [1 << 31, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -(1 << 63)]
    return lines + [f"mov {reg}, {value}" for reg in ("rax", "r15") for value in wide]


def other_samples() -> list[str]:
    lines = [
        f"cmov{name} r10, [rbx]\nset{name} byte ptr [rbx]\nset{name} sil" for name in CONDITIONS
    ]
    lines += [f"cmov{name} ax, cx" for name in CONDITIONS]
    for bits, size in SIZES.items():
        register = GPRS[bits][4]
        for name in ("add", "sub", "and", "or", "xor", "xadd", "cmpxchg"):
            lines.append(f"lock {name} [rbx + 8], {register}")
        lines += [f"lock {name} {size} ptr [rbx]" for name in ("inc", "dec")]
        lines += [f"{name} {size} ptr [rbx]" for name in ("not", "mul", "div", "imul")]
        lines += [f"lock add {size} ptr [rbx], -2", f"xchg [rbx], {register}"]
        if bits > 8:
            lines += [f"lock {name} [rbx], {register}" for name in ("bts", "btr", "btc")]
            lines += [f"lock {name} {size} ptr [rbx], 9" for name in ("bts", "btr", "btc")]
    lines += ["movzx eax, byte ptr [rbx]", "movzx r9, word ptr [rbx]", "movsxd r9, dword ptr [rbx]"]
    lines += [
        "push qword ptr [rbx]",
        "pop qword ptr [rbx]",
        "jmp r11",
        "jmp qword ptr [rbx + rcx*8]",
    ]
    lines += ["invlpg [rbx]", "prefetcht0 [rbx]", "prefetchw [rbx]", "clflush [rbx]"]
    for register in ("al", "ax", "eax"):
        lines += [f"in {register}, dx", f"out dx, {register}", f"in {register}, 0x80"]
        lines.append(f"out 255, {register}")
    lines += _PLAIN.split()
    return lines + [f"rep {name}" for name in ("movsb", "movsq", "stosb", "stosq")]


def branch_samples() -> list[str]:
    lines = ["start: nop", ".align 32", "near:"]
    for name in CONDITIONS:
        lines += [f"j{name} start", f"j{name} far", f".{name}x: j{name} .{name}x", "call near"]
    return [*lines, "jmp start", "call step", "ret", ".align 64", "far: ret", "step_two: ret"]


@needs_objdump
@pytest.mark.parametrize(
    "samples",
    [register_samples, address_samples, immediate_samples, other_samples, branch_samples],
)
def test_objdump_agrees_with_the_listing(samples: object) -> None:
    lines = samples()  # type: ignore[operator]
    aliases = {"step": "step_two"} if samples is branch_samples else {}
    assert check_against_objdump(build("\n".join(lines), aliases=aliases)) >= len(lines) - 8


@needs_objdump
def test_every_mnemonic_is_in_the_samples() -> None:
    from kvmpc.assembler.assemble import _BRANCHES
    from kvmpc.assembler.x86_64 import FORMS

    samples = [register_samples, address_samples, immediate_samples, other_samples, branch_samples]
    used = {word for make in samples for line in make() for word in line.split()}
    assert set(FORMS) | set(_BRANCHES) <= used


@needs_objdump
@pytest.mark.parametrize(
    ("text", "wrong"),
    [("mov rax, [rbx + 8]", "mov rax, qword ptr [rbx + 9]"), ("add eax, -1", "add eax, -2"),
     ("je a\na:", "jne a"), ("xchg rax, rcx", "xchg rax, rdx"), ("inc al", "inc ax")],
)  # fmt: skip
def test_a_listing_that_does_not_tell_the_truth_is_noticed(text: str, wrong: str) -> None:
    program = build(text)
    line = program.listing[0]
    lying = Statement(line.source, line.line, line.offset, line.code, wrong)
    with pytest.raises(AssertionError):
        check_against_objdump(Program(program.code, program.labels, (lying,)))
