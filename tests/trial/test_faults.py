"""How a missing page comes out of KVM_RUN, and what the guest's own exceptions look like."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kvmpc.host import facts as host
from kvmpc.kernel import syscalls
from kvmpc.kernel.kvm import Kvm
from kvmpc.loops.records import WRITTEN_WORD
from kvmpc.pagers.pager import Scene
from kvmpc.result.records import TrialResult
from kvmpc.trial.rig import Rig
from kvmpc.units import PAGE_BYTES
from kvmpc.vm import guest
from kvmpc.vm.memory import DATA_GPA
from kvmpc.vm.record import GuestRecord
from kvmpc.vm.x86 import plan_guest
from kvmpc.work.work import Work

pytestmark = pytest.mark.kvm

FORMS = ("exits_annotated", "exits_registers", "exits_mmio")


@pytest.mark.parametrize("access", ["write", "read"])
@pytest.mark.parametrize("spec", ["exit", "exit,uffds=3"])
def test_a_fault_in_ring_3_comes_out_as_efault(
    run: Callable[..., TrialResult], spec: str, access: str
) -> None:
    result = run(spec, pages=997, access=access)
    assert result.error is None
    assert result.counts["exits_annotated"] + result.counts["exits_registers"] >= 3 * 997
    assert result.counts["exits_mmio"] == 0


@pytest.mark.parametrize("access", ["write", "read"])
@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("order", ["sequential", "scattered"])
@pytest.mark.parametrize("delay_ns", [0, 50_000])
def test_a_fault_in_ring_0_is_completed_in_whatever_form_it_comes(
    run: Callable[..., TrialResult], access: str, overlap: bool, order: str, delay_ns: int
) -> None:
    result = run(
        "exit",
        ring=0,
        pages=97,
        vcpus=8,
        access=access,
        overlap=overlap,
        order=order,
        fetch_delay_ns=delay_ns,
    )
    assert result.error is None
    assert result.verified == "yes"
    counts = result.counts
    assert sum(counts[form] for form in FORMS) >= counts["installs"] == result.expected_pages
    if host.second_level_paging() is None:
        # A KVM without the hardware's help emulates ring 0 where it has no page, so the access is
        # MMIO to it. KVM-AMD with npt=0 has the help, and runs ring 0 natively.
        assert counts["exits_mmio"] > 0
    # Each was completed in Python, and is counted as such.
    assert counts["returns"] == counts["exits_mmio"]


@pytest.mark.parametrize("overlap", [False, True])
def test_a_store_that_kvm_emulated_reaches_the_page(
    run: Callable[..., TrialResult], overlap: bool
) -> None:
    stored: list[int] = []

    def read(rig: Rig) -> None:
        for page in range(rig.work.total_pages):
            word = syscalls.read_own_memory(rig.memory.hva_of_page(page) + WRITTEN_WORD, 8)
            stored.append(int.from_bytes(word, "little"))

    result = run("exit", before_verify=read, ring=0, pages=97, overlap=overlap)
    assert result.error is None
    # The guest stores each page's own address in it.
    pages = 97 * (1 if overlap else 3)
    assert stored == [DATA_GPA + page * PAGE_BYTES for page in range(pages)]


@pytest.mark.parametrize("spec", ["none,host=populated", "uffd", "uffd,readers=3"])
def test_no_fault_of_ring_0_comes_out_where_readers_or_the_kernel_supply(
    run: Callable[..., TrialResult], spec: str
) -> None:
    result = run(spec, ring=0, pages=97, access="read")
    assert result.error is None
    assert sum(result.counts[form] for form in FORMS) == 0


CODE_GPA = 0x2000
"""Where the guest's program is; the exceptions' addresses show that it is right."""


def _entry(work: Work) -> int:
    program = guest.assemble_guest(write=work.access == "write")
    return CODE_GPA + program.labels["touch"]


def _with_code(code: str) -> Callable[[Scene], None]:
    """Put `code` (hex) in place of the guest's program."""

    def patch(scene: Scene) -> None:
        scene.memory.write_low(_entry(scene.work), bytes.fromhex(code))

    return patch


UD2 = "0f0b"
DIVIDE_BY_ZERO = "31c9 f7f1"  # xor ecx, ecx; div ecx
HALT = "f4"
LOAD_UNMAPPED = "48b8 00f0efbead5e0000 488b00"  # mov rax, 0x5eadbeeff000; mov rax, [rax]
LOAD_NOT_CANONICAL = "48b8 00f0efbeadde0000 488b00"  # bit 47 set, those above not
WRITE_PORT = "e610"  # out READY_PORT, al


@pytest.mark.parametrize(
    ("code", "offset", "expected"),
    [
        (UD2, 0, "#UD invalid opcode in the guest, rip"),
        (DIVIDE_BY_ZERO, 2, "#DE divide error in the guest, rip"),
        (HALT, 0, "#GP general protection in the guest, error code 0x0, rip"),
        (LOAD_NOT_CANONICAL, 10, "#GP general protection in the guest, error code 0x0, rip"),
        (LOAD_UNMAPPED, 10, "#PF page fault in the guest, error code 0x4, rip"),
        (WRITE_PORT + UD2, 2, "#UD invalid opcode in the guest, rip"),
    ],
)
@pytest.mark.parametrize("spec", ["none", "uffd", "exit"])
def test_an_exception_in_the_guest_is_reported_with_vector_and_rip(
    run: Callable[..., TrialResult],
    spec: str,
    code: str,
    offset: int,
    expected: str,
) -> None:
    result = run(spec, on_scene=_with_code(code))
    assert result.status == "failed"
    assert result.error is not None
    assert result.error.startswith("vcpu")
    assert expected in result.error
    rip = _entry(Work(vcpus=1, mem_per_vcpu_bytes=PAGE_BYTES)) + offset
    assert f"rip {rip:#x}, cr2 " in result.error
    assert result.metrics == {}
    assert result.elapsed_ns is None


def test_a_page_fault_is_reported_with_its_address(run: Callable[..., TrialResult]) -> None:
    result = run("exit", on_scene=_with_code(LOAD_UNMAPPED))
    assert str(result.error).endswith("cr2 0x5eadbeeff000")


def test_a_vcpu_that_leaves_its_mappings_after_the_gate_is_the_one_named(
    run: Callable[..., TrialResult], kvm: Kvm
) -> None:
    outside_gpa = 1 << 46

    def misplace(scene: Scene) -> None:
        plan = plan_guest(scene.work, kvm.supported_cpuid())
        record_gpa = plan.vcpu_page_gpa(2) + 128 + GuestRecord.part.offset
        scene.memory.write_low(record_gpa, outside_gpa.to_bytes(8, "little"))

    result = run("uffd", on_scene=misplace)
    # Error code: a write, by user code, to a page that is not present.
    assert str(result.error).startswith(
        "vcpu2: exception #PF page fault in the guest, error code 0x6"
    )
    assert str(result.error).endswith(f"cr2 {outside_gpa + 8:#x}")


@pytest.mark.parametrize("spec", ["none", "uffd", "exit"])
def test_a_triple_fault_is_reported_as_a_shutdown(
    run: Callable[..., TrialResult], spec: str
) -> None:
    def patch(scene: Scene) -> None:
        # No gate for any vector: the exception's exception has no handler either.
        scene.memory.write_low(0x1100, bytes(32 * 16))
        scene.memory.write_low(_entry(scene.work), bytes.fromhex(UD2))

    result = run(spec, on_scene=patch)
    assert result.status == "failed"
    assert "KVM_EXIT_SHUTDOWN (triple fault)" in str(result.error)


def test_an_access_to_memory_that_is_not_there_is_reported_with_its_address(
    run: Callable[..., TrialResult], kvm: Kvm
) -> None:
    hole_gpa = 3 * (1 << 30)  # mapped by the guest's tables, but in no memslot

    def misplace(scene: Scene) -> None:
        plan = plan_guest(scene.work, kvm.supported_cpuid())
        record_gpa = plan.vcpu_page_gpa(1) + 128 + GuestRecord.part.offset
        scene.memory.write_low(record_gpa, hole_gpa.to_bytes(8, "little"))

    for spec in ("none", "uffd", "exit"):
        result = run(spec, on_scene=misplace)
        assert str(result.error).startswith(f"vcpu1: KVM_EXIT_MMIO at gpa {hole_gpa + 8:#x}; rip ")
