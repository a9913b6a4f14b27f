"""Every program that can be built: what objdump reads in it, and how it lies in memory."""

from __future__ import annotations

import ctypes
import itertools
import re
import typing
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import keystone
import pytest

from kvmpc.errors import HostError, KernelError
from kvmpc.kernel import syscalls
from kvmpc.loops.program import NativeProgram, build, load, read_sources
from kvmpc.loops.records import FillRecord, Return, SharedRecord
from kvmpc.loops.steps import Steps
from kvmpc.pagers import parse_pager
from kvmpc.pagers.pager import Scene
from kvmpc.pagers.shares import Sharing
from kvmpc.units import PAGE_BYTES
from kvmpc.vm.guest import assemble_guest
from kvmpc.work.layout import Layout
from kvmpc.work.work import Work
from tests.fakes.disassembly import check_against_objdump, needs_objdump
from tests.fakes.scripted import (
    STEPS,
    extra_sources,
    instrumented,
    instrumented_program,
)

EACH_BUILD = pytest.mark.parametrize("name", STEPS)
GUESTS = pytest.mark.parametrize(
    ("write", "timed", "checked", "passes", "split"),
    list(itertools.product([True, False], repeat=5)),
)


WAITS = {
    "wait=poll": "",
    "readers=2,wait=poll": "",
    "wait=read": "+read",
    "readers=2,wait=read": "+read",
    "wait=spin": "+spin",
    "readers=2,wait=spin": "+spin",
    "wait=adaptive": "+adaptive",
    "readers=2,wait=adaptive": "+adaptive+epoll",
}
"""How readers wait, by the keys of `uffd`, and what names that build."""

LinkedSteps = Callable[..., Steps]


@pytest.fixture
def linked_steps(monkeypatch: pytest.MonkeyPatch) -> LinkedSteps:
    """Return a function: the steps that a pager's spec links with a fetch delay."""
    # Userfaultfds and epolls that are none.
    shares = SimpleNamespace(
        uffds=[SimpleNamespace(fd=100 + index) for index in range(3)],
        equip=lambda _: None,
        close=lambda: None,
    )
    monkeypatch.setattr(Sharing, "open", lambda *_: shares)
    monkeypatch.setattr(syscalls, "syscall", lambda *_, **__: 100)
    monkeypatch.setattr(syscalls, "close_fd", lambda _: None)

    def steps(spec: str, delay_ns: int, *, split: bool = False) -> Steps:
        size = 23 * PAGE_BYTES
        work = Work(vcpus=3, mem_per_vcpu_bytes=size, fetch_delay_ns=delay_ns, split=split)
        pager = parse_pager(spec)
        scene = Scene(
            vm=None,  # type: ignore[arg-type]
            work=work,
            memory=SimpleNamespace(data_hva=0),  # type: ignore[arg-type]
            layout=Layout(work),
            bitmap=SimpleNamespace(missing_address=0, claimed_address=0),  # type: ignore[arg-type]
            shared=SharedRecord(),
            tags=pager.tags(1),
        )
        with pager.open(scene) as supply:
            return supply.linked_steps()

    return steps


def test_the_builds_tested_here_are_those_that_pagers_ask_for(linked_steps: LinkedSteps) -> None:
    asked = {
        ("none", 0): "uffd",
        ("none,host=populated", 9): "uffd",
        ("uffd", 0): "uffd",
        ("uffd,fetch=blocking,uffds=per-vcpu", 0): "uffd",
        ("uffd,fetch=blocking", 9): "uffd+delay",
        ("uffd", 9): "pipelined",
        ("uffd,readers=2", 0): "uffd+epoll",
        ("uffd,readers=3,fetch=blocking", 9): "uffd+delay+epoll",
        ("uffd,readers=2,uffds=2", 9): "pipelined+epoll",
        **{
            (f"uffd,{keys}{fetch}", delay_ns): f"{name}{words}"
            for keys, words in WAITS.items()
            for fetch, delay_ns, name in (
                ("", 0, "uffd"),
                (",fetch=blocking", 9, "uffd+delay"),
                ("", 9, "pipelined"),
            )
            if (words, name) != ("+read", "pipelined")
        },
        ("exit", 0): "exit",
        ("exit,uffds=2", 9): "exit+delay",
    }
    for (spec, delay_ns), name in asked.items():
        assert linked_steps(spec, delay_ns) == STEPS[name], spec
        stamped = name if spec.startswith("none") else f"{name}+split"
        assert linked_steps(spec, delay_ns, split=True) == STEPS[stamped], spec
    names = set(asked.values())
    assert names | {f"{name}+split" for name in names} == set(STEPS)


def test_every_variant_of_a_step_is_a_label_and_every_such_label_a_variant() -> None:
    program = build(Steps())
    known = {
        variant
        for words in typing.get_type_hints(Steps).values()
        for variant in typing.get_args(words)
    }
    assert known <= set(program.labels)
    assert known == {variant for steps in STEPS.values() for variant in vars(steps).values()}


@needs_objdump
@EACH_BUILD
def test_objdump_reads_in_each_build_what_its_listing_says(name: str) -> None:
    assert check_against_objdump(build(STEPS[name])) > 400


@needs_objdump
@EACH_BUILD
def test_objdump_reads_in_each_scripted_build_what_its_listing_says(name: str) -> None:
    scripted = build(STEPS[name], extra=extra_sources(), syscall="scripted_kernel")
    marked = instrumented_program(name)
    assert check_against_objdump(scripted) < check_against_objdump(marked)


@needs_objdump
@GUESTS
def test_objdump_reads_in_each_guest_what_its_listing_says(
    write: bool, timed: bool, checked: bool, passes: bool, split: bool
) -> None:
    program = assemble_guest(write=write, timed=timed, checked=checked, passes=passes, split=split)
    assert check_against_objdump(program) > 50


@GUESTS
def test_a_guest_fits_its_page_and_begins_with_its_exception_table(
    write: bool, timed: bool, checked: bool, passes: bool, split: bool
) -> None:
    program = assemble_guest(write=write, timed=timed, checked=checked, passes=passes, split=split)
    assert len(program.code) < PAGE_BYTES
    assert program.labels["exception_table"] == 0
    assert [line.text for line in program.listing[:33]].count("call trap") == 32


def test_no_two_guests_are_the_same_program() -> None:
    # Without its time a touch has no latency to split.
    names = ("write", "timed", "checked", "passes", "split")
    variants = [
        dict(zip(names, flags, strict=True)) for flags in itertools.product([True, False], repeat=5)
    ]
    codes = {assemble_guest(**v).code for v in variants if v["timed"] or not v["split"]}
    assert len(codes) == 24


def test_a_split_only_adds_to_a_guest() -> None:
    plain = [line.text for line in assemble_guest(write=True).listing]
    split = [line.text for line in assemble_guest(write=True, split=True).listing]
    added = ["mov rbp, rax", "mov qword ptr [rsi + 0x28], r14", "mov qword ptr [rsi + 0x30], rbp"]
    left = list(split)
    for text in added:
        left.remove(text)
    assert left == plain


@pytest.mark.parametrize(
    ("write", "timed", "checked"), list(itertools.product([True, False], repeat=3))
)
def test_further_passes_change_no_instruction_of_the_first_one(
    write: bool, timed: bool, checked: bool
) -> None:
    once = assemble_guest(write=write, timed=timed, checked=checked)
    often = assemble_guest(write=write, timed=timed, checked=checked, passes=True)
    last = [line.text for line in once.listing].index("ud2")
    end = once.listing[last].offset
    assert [line.text for line in often.listing[:last]] == [
        line.text for line in once.listing[:last]
    ]
    # Only distances to what lies behind may differ: where wrong tags and exceptions are reported.
    far = [line for line in once.listing[:last] if line.text.startswith(("j", "call"))]
    differ = {at for at in range(end) if once.code[at] != often.code[at]}
    assert differ <= {at for line in far for at in range(line.offset, line.offset + len(line.code))}


@EACH_BUILD
def test_a_pagers_build_has_every_system_call_and_a_scripted_one_has_none(name: str) -> None:
    written = sum(
        line.partition(";")[0].strip() == "SYSCALL"
        for _, text in read_sources()
        for line in text.split("\n")
    )
    assert written > 0
    texts = [line.text for line in build(STEPS[name]).listing]
    scripted = build(STEPS[name], extra=extra_sources(), syscall="scripted_kernel")
    assert texts.count("syscall") == written
    assert "syscall" not in [line.text for line in scripted.listing]


@EACH_BUILD
def test_a_step_is_the_variant_that_was_asked_for(name: str) -> None:
    program = build(STEPS[name])
    for step, variant in vars(STEPS[name]).items():
        assert program.labels[step] == program.labels[variant]


@EACH_BUILD
def test_keystone_is_never_handed_a_number_whose_radix_it_could_guess(name: str) -> None:
    for line in build(STEPS[name]).listing:
        numbers = re.findall(r"(?<![\w.])\d\w*", line.text) if line.code[:1] != b"\x90" else []
        assert [text for text in numbers if len(text) > 1 and not text.startswith("0x")] == []


@EACH_BUILD
def test_an_instruction_is_the_same_whatever_radix_keystone_happens_to_have(name: str) -> None:
    """The one thing in it that it does not initialise and whose value its code depends on."""
    hexadecimal = keystone.Ks(keystone.KS_ARCH_X86, keystone.KS_MODE_64)
    hexadecimal.syntax = keystone.KS_OPT_SYNTAX_INTEL | keystone.KS_OPT_SYNTAX_RADIX16
    assert hexadecimal.asm("mov eax, 10") == hexadecimal.asm("mov eax, 0x10")
    made = {
        line.text: line.code
        for line in build(STEPS[name]).listing
        # Branches are encoded here, not by keystone.
        if not line.text.startswith((".align", "j", "call "))
    }
    assert len(made) > 100
    assert {text: bytes(hexadecimal.asm(text)[0]) for text in made} == made


@EACH_BUILD
def test_the_marked_build_is_the_pagers_build_but_for_marks_and_system_calls(name: str) -> None:
    files = {file for file, _ in read_sources()}
    code, marked = instrumented(), instrumented_program(name).listing
    original = {(line.source, line.line): line.text for line in build(STEPS[name]).listing}
    copied: dict[tuple[str, int], str] = {}
    mnemonics = {}
    for line in marked:
        # A marked branch is a branch to its mark, and from there a jump to its target.
        if line.source in files and ".mark_" in line.text and not line.text.startswith("jmp"):
            mnemonics[line.source] = line.text.split()[0]
        number = code.copied.get((line.source, line.line))
        if number is None:
            continue
        text = line.text
        if text.startswith("jmp") and not original[line.source, number].startswith("jmp"):
            text = f"{mnemonics[line.source]} {text.split()[1]}"
        text = text.replace("call scripted_kernel", "syscall")
        copied[line.source, number] = text
    assert copied == original


# --- in memory ---------------------------------------------------------------------------------


def _protection_of(address: int) -> str | None:
    with open("/proc/self/maps", encoding="ascii") as file:
        for line in file:
            bounds, protection, *_ = line.split()
            start, end = (int(bound, 16) for bound in bounds.split("-"))
            if start <= address < end:
                return protection
    return None


def test_code_is_first_writable_then_executable_and_never_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before: list[str | None] = []
    mprotect = syscalls.mprotect

    def watched(address: int, size_bytes: int, prot: int) -> None:
        before.append(_protection_of(address))
        mprotect(address, size_bytes, prot)

    monkeypatch.setattr(syscalls, "mprotect", watched)
    program = NativeProgram(build(Steps()))
    start = program.address("call_native") - program.program.labels["call_native"]
    try:
        assert before == ["rw-p"]
        for offset in range(0, len(program.program.code), PAGE_BYTES):
            assert _protection_of(start + offset) == "r-xp"
        assert ctypes.string_at(start, len(program.program.code)) == program.program.code
        assert program.call("fill", FillRecord()) == Return.OK
    finally:
        program.close()
    assert _protection_of(start) != "r-xp"


def test_code_that_cannot_be_made_executable_is_unmapped(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def refuse(address: int, size_bytes: int, prot: int) -> None:
        del size_bytes, prot
        seen.append(address)
        raise KernelError("mprotect", 13)

    closed: list[int] = []
    close = syscalls.Mapping.close
    monkeypatch.setattr(syscalls, "mprotect", refuse)
    monkeypatch.setattr(
        syscalls.Mapping, "close", lambda self: (closed.append(self.address), close(self))
    )
    with pytest.raises(HostError, match="mprotect"):
        NativeProgram(build(Steps()))
    assert closed == seen


def test_one_program_serves_every_trial_with_the_same_steps() -> None:
    program = load(STEPS["exit"])
    assert load(replace(STEPS["exit"])) is program
    assert load(STEPS["uffd"]) is not program
