"""The vCPU loop: every way KVM_RUN comes back, driven on purpose."""

from __future__ import annotations

import errno

import pytest

from kvmpc.abi import kvm
from kvmpc.loops.records import REPEAT_LIMIT, Call, Return, VcpuRecord
from kvmpc.units import PAGE_BYTES
from kvmpc.vm.memory import DATA_GPA
from tests.fakes.scripted import ScriptedKernel, Setting, counts, failure

PAGES = 23
EHWPOISON = 133  # errno has no name for it
NEVER_RESOLVED = {"kvm_runs": 1}


def gpa_of(page: int) -> int:
    return DATA_GPA + page * PAGE_BYTES


def registers_fault(kernel: ScriptedKernel, record: VcpuRecord, gpa: int) -> None:
    """Expect KVM_RUN; a bare EFAULT: nothing but the guest's registers is written."""
    kernel.kvm_run(record, do=lambda run: setattr(run.s.regs.regs, "rsi", gpa))


def test_a_stop_before_the_first_run_keeps_the_guest_from_running(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.vcpu()
    record.stop = 1
    assert kernel.run("vcpu_loop", record) == Return.STOPPED
    assert counts(record) == {}


def test_an_interrupted_run_is_repeated_until_stop_is_set(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.vcpu()
    kernel.kvm_run(record, reply=-errno.EINTR)
    kernel.kvm_run(record, reply=-errno.EINTR)
    kernel.interrupted_by_stop(record)
    assert kernel.run("vcpu_loop", record) == Return.STOPPED
    assert counts(record) == {"kvm_runs": 3, "interrupts": 3}


@pytest.mark.parametrize("build", ["exit", "uffd"])
@pytest.mark.parametrize("page", [0, 1, PAGES - 1])
@pytest.mark.parametrize("offset", [0, 8, PAGE_BYTES - 1])
def test_an_annotated_exit_installs_its_page_and_runs_on(
    kernel: ScriptedKernel, setting: Setting, build: str, page: int, offset: int
) -> None:
    record = setting.vcpu()
    kernel.fault(record, gpa_of(page) + offset)
    kernel.copy(setting, record, page)
    kernel.interrupted_by_stop(record)
    assert kernel.run("vcpu_loop", record, build=build) == Return.STOPPED
    assert (setting.present(), setting.claimed()) == ({page}, {page})
    assert (record.page, record.last_page) == (page, page)
    assert counts(record) == {
        "kvm_runs": 2,
        "exits_annotated": 1,
        "fetches": 1,
        "installs": 1,
        "interrupts": 1,
    }


def test_a_bare_fault_is_located_by_the_guests_address_register(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.vcpu()
    registers_fault(kernel, record, gpa_of(5) + 8)
    kernel.copy(setting, record, 5)
    kernel.interrupted_by_stop(record)
    assert kernel.run("vcpu_loop", record, build="exit") == Return.STOPPED
    assert setting.present() == {5}
    assert counts(record) == {
        "kvm_runs": 2,
        "exits_registers": 1,
        "fetches": 1,
        "installs": 1,
        "interrupts": 1,
    }


@pytest.mark.parametrize("annotated", [True, False])
def test_a_fault_is_located_by_its_own_address_whatever_page_came_before(
    kernel: ScriptedKernel, setting: Setting, annotated: bool
) -> None:
    record = setting.vcpu()
    for page in (1, 21):
        gpa = gpa_of(page) + PAGE_BYTES - 1
        (kernel.fault if annotated else lambda *args: registers_fault(kernel, *args))(record, gpa)
        kernel.copy(setting, record, page)
    kernel.interrupted_by_stop(record)
    assert kernel.run("vcpu_loop", record, build="exit") == Return.STOPPED
    assert setting.present() == {1, 21}


def test_a_stale_exit_reason_is_never_believed(kernel: ScriptedKernel, setting: Setting) -> None:
    record = setting.vcpu()
    run = kvm.kvm_run.from_address(record.run)
    run.exit_reason = kvm.KVM_EXIT_MEMORY_FAULT
    run.memory_fault.gpa = gpa_of(20)
    registers_fault(kernel, record, gpa_of(1))
    kernel.copy(setting, record, 1)
    kernel.fault(record, gpa_of(2))
    kernel.copy(setting, record, 2)
    # The payload of the exit before is still there, its reason is not.
    registers_fault(kernel, record, gpa_of(3))
    kernel.copy(setting, record, 3)
    kernel.interrupted_by_stop(record)
    assert kernel.run("vcpu_loop", record, build="exit") == Return.STOPPED
    assert setting.present() == {1, 2, 3}
    assert (record.exits_registers, record.exits_annotated) == (2, 1)


@pytest.mark.parametrize("reason", [kvm.KVM_EXIT_IO, kvm.KVM_EXIT_SHUTDOWN, kvm.KVM_EXIT_MMIO])
def test_a_fault_with_a_reason_of_another_kind_goes_to_python_with_both(
    kernel: ScriptedKernel, setting: Setting, reason: int
) -> None:
    record = setting.vcpu()
    kernel.kvm_run(record, do=lambda run: setattr(run, "exit_reason", reason))
    assert kernel.run("vcpu_loop", record, build="exit") == Return.EXIT
    assert record.error == errno.EFAULT
    assert kvm.kvm_run.from_address(record.run).exit_reason == reason
    assert counts(record) == NEVER_RESOLVED


@pytest.mark.parametrize("reason", [kvm.KVM_EXIT_IO, kvm.KVM_EXIT_MMIO, kvm.KVM_EXIT_SHUTDOWN])
def test_an_exit_without_an_error_goes_to_python_without_one(
    kernel: ScriptedKernel, setting: Setting, reason: int
) -> None:
    record = setting.vcpu()
    record.error = 99
    kernel.kvm_run(record, reply=0, do=lambda run: setattr(run, "exit_reason", reason))
    assert kernel.run("vcpu_loop", record, build="exit") == Return.EXIT
    assert record.error == 0
    assert counts(record) == NEVER_RESOLVED


@pytest.mark.parametrize("error", [errno.EBADF, errno.ENOMEM, errno.EAGAIN, EHWPOISON])
def test_a_run_that_fails_is_named_with_its_error(
    kernel: ScriptedKernel, setting: Setting, error: int
) -> None:
    record = setting.vcpu()
    kernel.kvm_run(record, reply=-error)
    assert kernel.run("vcpu_loop", record, build="exit") == Return.FAILED
    assert failure(record) == (Call.KVM_RUN, error)
    assert counts(record) == NEVER_RESOLVED


@pytest.mark.parametrize("annotated", [True, False])
@pytest.mark.parametrize(
    "gpa",
    [0, DATA_GPA - PAGE_BYTES, DATA_GPA - 1, gpa_of(PAGES), gpa_of(PAGES) + 1, 2**64 - 1],
)
def test_a_fault_outside_data_memory_installs_nothing(
    kernel: ScriptedKernel, setting: Setting, gpa: int, annotated: bool
) -> None:
    record = setting.vcpu()
    (kernel.fault if annotated else lambda *args: registers_fault(kernel, *args))(record, gpa)
    assert kernel.run("vcpu_loop", record, build="exit") == Return.OUTSIDE
    assert record.page == (gpa - DATA_GPA) % 2**64 // PAGE_BYTES
    form = "exits_annotated" if annotated else "exits_registers"
    assert counts(record) == {"kvm_runs": 1, form: 1}
    assert setting.claimed() == set()


def test_a_record_without_data_memory_takes_every_fault_for_one_outside(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.vcpu()
    record.pages = 0
    kernel.fault(record, DATA_GPA)
    assert kernel.run("vcpu_loop", record) == Return.OUTSIDE


def test_a_page_that_exits_for_ever_is_given_up_after_the_limit(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.vcpu()
    kernel.fault(record, gpa_of(4))
    kernel.copy(setting, record, 4)
    for _ in range(REPEAT_LIMIT):
        kernel.fault(record, gpa_of(4))
    assert kernel.run("vcpu_loop", record, build="exit") == Return.REPEATED
    assert record.page == 4
    assert counts(record) == {
        "kvm_runs": REPEAT_LIMIT + 1,
        "exits_annotated": REPEAT_LIMIT + 1,
        "fetches": 1,
        "installs": 1,
        "lost_claims": REPEAT_LIMIT - 1,
        "repeats": REPEAT_LIMIT,
        "repeats_most": REPEAT_LIMIT,
    }


def test_another_page_just_below_the_limit_starts_the_count_again(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.vcpu()
    for page, exits in ((4, REPEAT_LIMIT), (5, 3)):
        kernel.fault(record, gpa_of(page))
        kernel.copy(setting, record, page)
        for _ in range(exits - 1):
            kernel.fault(record, gpa_of(page))
    kernel.interrupted_by_stop(record)
    assert kernel.run("vcpu_loop", record, build="exit") == Return.STOPPED
    assert (record.repeats, record.repeats_most) == (2, REPEAT_LIMIT - 1)
    assert (record.last_page, record.installs) == (5, 2)


def test_a_page_that_comes_again_after_another_is_no_repetition(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.vcpu()
    for page in (1, 2):
        kernel.fault(record, gpa_of(page))
        kernel.copy(setting, record, page)
    for page in (1, 2, 1):
        kernel.fault(record, gpa_of(page))
    kernel.interrupted_by_stop(record)
    assert kernel.run("vcpu_loop", record, build="exit") == Return.STOPPED
    assert (record.repeats, record.repeats_most, record.lost_claims) == (0, 0, 3)


def test_an_install_that_fails_ends_the_loop_with_its_page(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.vcpu()
    kernel.fault(record, gpa_of(17))
    kernel.copy(setting, record, 17, reply=-errno.ENOMEM)
    assert kernel.run("vcpu_loop", record, build="exit") == Return.FAILED
    assert failure(record) == (Call.UFFDIO_COPY, errno.ENOMEM)
    assert record.page == 17
    assert setting.present() == set()


def test_a_stop_while_a_page_is_resolved_is_seen_before_the_next_run(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.vcpu()
    kernel.fault(record, gpa_of(3), stop=True)
    kernel.copy(setting, record, 3)
    assert kernel.run("vcpu_loop", record, build="exit") == Return.STOPPED
    assert setting.present() == {3}
    assert record.kvm_runs == 1


def test_a_stop_frees_a_vcpu_that_waits_for_anothers_page(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.vcpu()
    setting.claim(3)
    kernel.fault(record, gpa_of(3), stop=True)
    assert kernel.run("vcpu_loop", record, build="exit") == Return.STOPPED
    assert counts(record) == {"kvm_runs": 1, "exits_annotated": 1, "lost_claims": 1}
    assert setting.present() == set()
