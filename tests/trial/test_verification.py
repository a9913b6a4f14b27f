"""A trial in which one page is wrong, missing, too many, or counted wrongly is not believed."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import struct
from collections.abc import Callable
from typing import Any

import pytest

from kvmpc.abi import userfaultfd as uffd_abi
from kvmpc.errors import Interrupted
from kvmpc.kernel import syscalls
from kvmpc.loops import program
from kvmpc.loops.records import ReaderRecord, ResolverRecord, VcpuRecord
from kvmpc.pagers.pager import Scene, Supply
from kvmpc.result.records import TrialResult
from kvmpc.trial import verify
from kvmpc.trial.rig import Rig
from kvmpc.trial.signals import Interrupt
from kvmpc.units import PAGE_BYTES

pytestmark = pytest.mark.kvm

Run = Callable[..., TrialResult]


def _failed(result: TrialResult) -> str:
    assert result.status == "failed"
    assert result.verified is None
    assert result.elapsed_ns is None
    assert result.metrics == {}
    assert result.error is not None
    return result.error


def _page_bytes(scene: Scene, page: int) -> bytes:
    """Return what page `page` has to hold."""
    gpa = (1 << 32) + page * PAGE_BYTES
    body = scene.tags.seed if scene.work.verify == "page" else 0
    words = [scene.tags.tag(gpa), 0, *[body] * 509, scene.tags.last_word(gpa)]
    return struct.pack("<512Q", *words)


def _install_by_hand(supply: Supply, page: int, content: bytes) -> None:
    """Install a page behind the back of the loops."""
    buffer = ctypes.create_string_buffer(content, PAGE_BYTES)
    request = uffd_abi.uffdio_copy(
        dst=supply.scene.memory.hva_of_page(page), src=ctypes.addressof(buffer), len=PAGE_BYTES
    )
    syscalls.ioctl(supply._shares.fds[0], uffd_abi.UFFDIO_COPY, request, call="UFFDIO_COPY")


def _install_early(supply: Supply, page: int) -> None:
    if hasattr(supply, "_shares"):
        _install_by_hand(supply, page, _page_bytes(supply.scene, page))
    else:
        syscalls.write_own_memory(supply.scene.memory.hva_of_page(page), b"x")


@pytest.mark.parametrize("spec", ["none", "uffd", "exit", "exit,uffds=per-vcpu"])
@pytest.mark.parametrize("pages", [(0,), (68,), (30, 45, 46)])
def test_a_page_that_is_there_before_the_gate_is_noticed(
    run: Run, spec: str, pages: tuple[int, ...]
) -> None:
    def install(supply: Supply, vcpu: int) -> None:
        if vcpu == 1:
            for page in pages:
                _install_early(supply, page)

    error = _failed(run(spec, before_ready=install))
    found = f"pages were there before the gate that nobody had touched: {len(pages)} of 69; "
    assert error.startswith(f"{found}page {pages[0]} is present; its mapping: ")
    assert "Rss: " in error
    assert "VmFlags: " in error


def test_the_shared_zero_page_is_there_too(run: Run) -> None:
    def read(supply: Supply, vcpu: int) -> None:
        if vcpu == 2:
            syscalls.read_own_memory(supply.scene.memory.hva_of_page(46), 1)

    error = _failed(run("none", before_ready=read))
    assert "nobody had touched: 1 of 69; page 46 is present; " in error


@pytest.mark.parametrize("byte", [0, PAGE_BYTES - 1])
def test_one_wrong_bit_in_either_tag_names_the_vcpu_and_the_page(run: Run, byte: int) -> None:
    def damage(supply: Supply, vcpu: int) -> None:
        if vcpu == 1:
            hva = supply.scene.memory.hva_of_page(23 + 7) + byte
            (old,) = syscalls.read_own_memory(hva, 1)
            syscalls.write_own_memory(hva, bytes([old ^ 0x10]))

    error = _failed(run("none,host=populated", before_ready=damage))
    named = "vcpu1 found a wrong tag in 1 of its pages, first in page 30 (gpa 0x10001e000)"
    assert error.startswith(named)
    assert "in its first and last word" in error
    assert "; page 30 is present; its mapping: " in error
    assert "VmFlags: " in error


@pytest.mark.parametrize("spec", ["uffd", "exit", "exit,uffds=per-vcpu"])
def test_a_resolver_that_brings_wrong_pages_is_found_out(run: Run, spec: str) -> None:
    def damage(supply: Supply) -> None:
        equip = supply.equip

        def equip_wrongly(record: Any, staging_hva: int) -> None:
            equip(record, staging_hva)
            record.tag_seed ^= 1 << 40

        supply.equip = equip_wrongly
        for reader in supply.readers:
            reader.record.tag_seed ^= 1 << 40

    error = _failed(run(spec, on_supply=damage))
    assert error.startswith("vcpu0 found a wrong tag in 23 of its pages, first in page 0 ")


@pytest.mark.parametrize("spec", ["uffd", "exit"])
def test_a_page_left_over_from_another_trial_does_not_pass(run: Run, spec: str) -> None:
    other: list[bytes] = []
    run(spec, on_supply=lambda supply: other.append(_page_bytes(supply.scene, 5)))

    def install(rig: Rig) -> None:
        _install_by_hand(rig.supply, 5, other[0])

    error = _failed(run(spec, before_gate=install, round_number=2))
    assert error.startswith("vcpu0 found a wrong tag in 1 of its pages, first in page 5 ")


@pytest.mark.parametrize("spec", ["uffd", "exit"])
def test_a_right_page_that_no_loop_installed_is_noticed(run: Run, spec: str) -> None:
    def install(rig: Rig) -> None:
        _install_by_hand(rig.supply, 11, _page_bytes(rig.supply.scene, 11))

    error = _failed(run(spec, before_gate=install))
    assert error == (
        "68 pages were fetched, 68 installed and 0 found present already; "
        "69 expected, each fetched and installed once"
    )


def _counting_from(counter: str, kind: type[ResolverRecord]) -> Callable[[Supply], None]:
    """Return an `on_supply` that makes a thread of `kind` count from 1."""

    def on_supply(supply: Supply) -> None:
        equip = supply.equip

        def equip_and_count(record: Any, staging_hva: int) -> None:
            equip(record, staging_hva)
            if isinstance(record, kind):
                setattr(record, counter, 1)

        supply.equip = equip_and_count
        for reader in supply.readers:
            if isinstance(reader.record, kind):
                setattr(reader.record, counter, 1)

    return on_supply


@pytest.mark.parametrize(
    ("counter", "found"),
    [
        ("fetches", "24 pages were fetched, 23 installed and 0 found present already; 23 "),
        ("installs", "23 pages were fetched, 24 installed and 0 found present already; 23 "),
        ("eexist", "23 pages were fetched, 23 installed and 1 found present already; 23 "),
        ("exits_annotated", "24 faults came in, but 23 claims were made of their pages"),
        ("exits_registers", "24 faults came in, but 23 claims were made of their pages"),
        ("exits_mmio", "24 faults came in, but 23 claims were made of their pages"),
        ("lost_claims", "23 faults came in, but 24 claims were made of their pages: 23 won, 1 l"),
    ],
)
def test_what_a_vcpus_thread_counted_twice_is_noticed(run: Run, counter: str, found: str) -> None:
    error = _failed(run("exit", on_supply=_counting_from(counter, VcpuRecord), vcpus=1))
    assert error.startswith(found)


@pytest.mark.parametrize("counter", ["fetches", "installs", "eexist", "lost_claims", "received"])
@pytest.mark.parametrize("spec", ["uffd", "uffd,readers=2"])
def test_what_a_reader_counted_twice_is_noticed(run: Run, spec: str, counter: str) -> None:
    _failed(run(spec, on_supply=_counting_from(counter, ReaderRecord), vcpus=1))


OVERLAPPING = {"overlap": True, "fetch_delay_ns": 200_000, "vcpus": 8}


@pytest.mark.parametrize("options", [{}, OVERLAPPING, {"passes": 3}])
@pytest.mark.parametrize("spec", ["uffd", "uffd,fetch=blocking,readers=3", "exit"])
def test_a_claim_that_holds_nobody_off_is_noticed(
    run: Run, spec: str, options: dict[str, Any]
) -> None:
    unclaimed = _mutated("resolve.asm", "    lock bts qword ptr [rax], r12", "    xor eax, eax")
    error = _failed(run(spec, on_supply=unclaimed, **options))
    assert "is not claimed in the bitmap" in error or "each fetched and installed once" in error


@pytest.mark.parametrize("spec", ["uffd,fetch=blocking,readers=3", "exit"])
def test_pages_that_several_threads_fetch_are_noticed_by_their_count(run: Run, spec: str) -> None:
    # The bit is set, so the bitmaps are right; the thread that should see it does not.
    blind = _mutated("resolve.asm", "    jc .lost", "")
    error = _failed(run(spec, on_supply=blind, **OVERLAPPING))
    assert error.endswith("; 23 expected, each fetched and installed once")


def _mutated(name: str, line: str, instead: str) -> Callable[[Supply], None]:
    """Return an `on_supply` after which the trial's loops have another line in file `name`."""
    sources = dict(program.read_sources())
    assert sources[name].count(f"{line}\n") == 1
    sources[name] = sources[name].replace(f"{line}\n", f"{instead}\n")

    def on_supply(supply: Supply) -> None:
        # Only while it is built: what is loaded otherwise is kept for all that follows.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(program, "read_sources", lambda: list(sources.items()))
            built = program.NativeProgram(program.build(supply.linked_steps()))
        supply.program = lambda: built

    return on_supply


@pytest.mark.parametrize("touch_pages", [23, 512, 997])
def test_an_extra_page_is_noticed(run: Run, touch_pages: int) -> None:
    pages = 2048

    def touch_more(rig: Rig) -> None:
        page = 2 * pages + rig.layout.expected_part.rindex(0)
        syscalls.write_own_memory(rig.memory.hva_of_page(page), b"x")

    error = _failed(run("none", before_gate=touch_more, pages=pages, touch_pages=touch_pages))
    assert "is present, though nobody touched it" in error
    assert error.endswith(
        f"; {touch_pages + 1} pages of part 2 are present, {touch_pages} expected"
    )


@pytest.mark.parametrize("spec", ["none", "none,host=populated", "uffd", "exit"])
def test_a_page_that_vanished_is_noticed(run: Run, spec: str) -> None:
    def drop(rig: Rig) -> None:
        hva = rig.memory.hva_of_page(23 + 22)
        syscalls.madvise(hva, PAGE_BYTES, mmap.MADV_DONTNEED, call="madvise")

    error = _failed(run(spec, before_verify=drop))
    assert error == "page 45 is missing; 22 pages of part 1 are present, 23 expected"


PAGERS = pytest.mark.parametrize("spec", ["none", "none,host=populated", "uffd", "exit"])
SHAPES: dict[str, dict[str, Any]] = {
    "default": {},
    "overlap": {"overlap": True},
    "passes": {"passes": 3},
    "overlapping passes": {"overlap": True, "passes": 3, "vcpus": 8},
    "scattered": {"order": "scattered"},
    "sparse": {"pages": 997, "touch_pages": 23},
    "sparse runs": {"pages": 2048, "touch_pages": 997},
    "split": {"split": True},
    "one page": {"vcpus": 1, "pages": 1},
}
EVERY_SHAPE = pytest.mark.parametrize(
    "shape",
    [
        pytest.param(shape, marks=[pytest.mark.large] if shape == "sparse runs" else [])
        for shape in SHAPES
    ],
)


def _touched(rig: Rig) -> list[int]:
    """Return a few pages that were touched: the first and the last of all, and one between."""
    work = rig.work
    first, between, last = (
        rig.layout.page_of_index(index)
        for index in (0, work.touched_per_part // 2, work.touched_per_part - 1)
    )
    behind = (work.parts - 1) * work.pages_per_part
    return list(dict.fromkeys((first, between, behind + last)))


def _fill_again(rig: Rig, page: int) -> None:
    """Drop a page, and bring it as it came: with its tags, without what the guest wrote."""
    hva = rig.memory.hva_of_page(page)
    syscalls.madvise(hva, PAGE_BYTES, mmap.MADV_DONTNEED, call="madvise")
    if hasattr(rig.supply, "_shares"):
        _install_by_hand(rig.supply, page, _page_bytes(rig.supply.scene, page))
    else:
        syscalls.write_own_memory(hva, _page_bytes(rig.supply.scene, page))


@PAGERS
@pytest.mark.parametrize("which", [0, 1, 2])
@EVERY_SHAPE
def test_a_page_that_was_filled_again_after_the_guest_wrote_it_is_noticed(
    run: Run, spec: str, shape: str, which: int
) -> None:
    pages: list[int] = []

    def fill_again(rig: Rig) -> None:
        touched = _touched(rig)
        pages.append(touched[which % len(touched)])
        _fill_again(rig, pages[0])

    error = _failed(run(spec, before_verify=fill_again, **SHAPES[shape]))
    gpa = (1 << 32) + pages[0] * PAGE_BYTES
    assert error.startswith(
        f"page {pages[0]} (gpa {gpa:#x}) does not hold what it did when the guest looked: its tags "
        f"are right, but what the guest wrote is gone: it was filled a second time; page "
        f"{pages[0]} is present; its mapping: "
    )


@pytest.mark.parametrize("spec", ["none,host=populated", "uffd", "exit"])
def test_a_second_fill_of_a_page_that_is_only_read_is_the_first_one_over_again(
    run: Run, spec: str
) -> None:
    # What verification says that it cannot see: should it ever, its words are to change.
    result = run(spec, access="read", before_verify=lambda rig: _fill_again(rig, 30))
    assert (result.error, result.verified) == (None, "yes")


@PAGERS
@pytest.mark.parametrize("access", ["write", "read"])
@pytest.mark.parametrize("byte", [0, 8, PAGE_BYTES - 1])
def test_a_page_that_was_changed_after_the_guest_looked_is_noticed(
    run: Run, spec: str, access: str, byte: int
) -> None:
    if (spec, access) == ("none", "read"):
        pytest.skip("is refused: the shared zero page would answer")

    def change(rig: Rig) -> None:
        hva = rig.memory.hva_of_page(30) + byte
        (old,) = syscalls.read_own_memory(hva, 1)
        syscalls.write_own_memory(hva, bytes([old ^ 0x10]))

    error = _failed(run(spec, access=access, before_verify=change))
    told = f"guest looked: byte {byte // 8 * 8}: 0x"
    assert error.startswith(f"page 30 (gpa 0x10001e000) does not hold what it did when the {told}")
    assert ";" not in error.split(told)[1].split("; page 30 is present")[0], "one word is wrong"


WHOLE_PAGERS = pytest.mark.parametrize(
    "spec",
    [
        *("none", "none,host=populated", "uffd", "uffd,readers=2,uffds=per-vcpu"),
        *("exit", "exit,uffds=per-vcpu"),
    ],
)


@WHOLE_PAGERS
@pytest.mark.parametrize("access", ["write", "read"])
@pytest.mark.parametrize("delay_ns", [0, pytest.param(50_000, marks=pytest.mark.large)])
@EVERY_SHAPE
def test_a_whole_page_is_what_it_has_to_be_in_every_pager(
    run: Run, spec: str, shape: str, access: str, delay_ns: int
) -> None:
    if (spec, access) == ("none", "read"):
        pytest.skip("is refused: the shared zero page would answer")
    options = {"access": access, "fetch_delay_ns": delay_ns} | SHAPES[shape]
    result = run(spec, verify="page", **options)
    assert result.error is None
    assert result.verified == ("zeros" if spec == "none" else "whole")


@PAGERS
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("byte", [16, 63, 64, 2048, 4087])
def test_one_wrong_byte_anywhere_is_noticed_where_the_whole_page_is_verified(
    run: Run, spec: str, byte: int, split: bool
) -> None:
    def damage(rig: Rig) -> None:
        hva = rig.memory.hva_of_page(30) + byte
        (old,) = syscalls.read_own_memory(hva, 1)
        syscalls.write_own_memory(hva, bytes([old ^ 0x10]))

    told = f"page 30 (gpa 0x10001e000) does not hold what it did when the guest looked: byte {byte}"
    result = run(spec, before_verify=damage, verify="page", split=split)
    if split and byte < 64 and not spec.startswith("none"):
        assert result.verified == "whole", "a stamp of the latency split: no two are the same"
    else:
        assert _failed(result).startswith(told[: told.rindex(" ")] + f" {byte // 8 * 8}: 0x")
    # What the words alone do not see; README says so.
    assert run(spec, before_verify=damage, split=split).error is None


@pytest.mark.parametrize("spec", ["uffd", "exit"])
def test_a_page_that_came_but_in_part_is_noticed_where_the_whole_page_is_verified(
    run: Run, spec: str
) -> None:
    def empty(rig: Rig) -> None:
        page = bytearray(_page_bytes(rig.supply.scene, 30))
        page[512:1024] = bytes(512)
        page[8:16] = ((1 << 32) + 30 * PAGE_BYTES).to_bytes(8, "little")
        syscalls.write_own_memory(rig.memory.hva_of_page(30), bytes(page))

    error = _failed(run(spec, before_verify=empty, verify="page"))
    assert "byte 512: 0x0000000000000000, not 0x" in error
    assert "; and 61 more words; page 30 is present" in error


@pytest.mark.parametrize("spec", ["uffd", "exit", "exit,uffds=per-vcpu"])
def test_a_page_that_is_lost_while_it_is_read_back_is_no_crash_and_no_hang(
    run: Run, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    seen = verify.verify_contents

    def lose_one(program: Any, memory: Any, *arguments: Any, **options: Any) -> None:
        hva = memory.hva_of_page(30)
        syscalls.madvise(hva, PAGE_BYTES, mmap.MADV_DONTNEED, call="madvise")
        seen(program, memory, *arguments, **options)

    monkeypatch.setattr(verify, "verify_contents", lose_one)
    assert "byte 0: 0x0000000000000000, not 0x" in _failed(run(spec))


def test_reading_back_makes_no_page_present(run: Run) -> None:
    present: list[int] = []

    def count(rig: Rig) -> None:
        def checked() -> None:
            pages = rig.memory.presence.present(0, rig.work.total_pages)
            present.append(sum(pages))

        verify.verify_contents(rig.program, rig.memory, rig.layout, rig.tags, checked)
        checked()

    result = run("none", pages=2048, touch_pages=997, before_verify=count)
    assert result.error is None
    assert set(present) == {3 * 997}


def test_an_interrupt_ends_the_reading_back(run: Run, interrupt: Interrupt) -> None:
    def interrupt_now(_: Rig) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        run("uffd", before_verify=interrupt_now)
    assert interrupt.signal_name == "SIGINT"


def _flip(rig: Rig, page: int) -> None:
    byte = ctypes.c_uint8.from_address(rig.bitmap.missing_address + page // 8)
    byte.value ^= 1 << page % 8


@pytest.mark.parametrize("spec", ["uffd", "exit"])
@pytest.mark.parametrize("page", [0, 22, 23, 45, 46, 68])
def test_a_bit_set_after_the_page_came_is_noticed(run: Run, spec: str, page: int) -> None:
    error = _failed(run(spec, before_verify=lambda rig: _flip(rig, page)))
    assert error == f"page {page} is still marked missing in the bitmap"


@pytest.mark.parametrize("spec", ["uffd", "exit"])
@pytest.mark.parametrize("page", [0, 45, 68])
def test_a_page_that_was_never_claimed_is_noticed(run: Run, spec: str, page: int) -> None:
    def give_back(rig: Rig) -> None:
        byte = ctypes.c_uint8.from_address(rig.bitmap.claimed_address + page // 8)
        byte.value &= ~(1 << page % 8)

    error = _failed(run(spec, before_verify=give_back))
    assert error == f"page {page} is not claimed in the bitmap"


def test_a_bit_cleared_for_a_page_nobody_touched_is_noticed(run: Run) -> None:
    def clear(rig: Rig) -> None:
        _flip(rig, 997 + rig.layout.expected_part.rindex(0))

    error = _failed(run("exit", before_verify=clear, pages=997, touch_pages=23))
    assert error.endswith("is not marked missing in the bitmap")


def test_a_vcpu_that_stopped_early_is_noticed(run: Run) -> None:
    def touch_less(rig: Rig) -> None:
        rig.guest.record(2).touched -= 1

    assert _failed(run("exit", before_verify=touch_less)) == "vcpu2 touched 22 of 23 pages"
