"""The gate: one futex that every vCPU thread sleeps on until the trial starts."""

from __future__ import annotations

import ctypes
import errno
import threading
import time

import pytest

from kvmpc.abi import clock, kvm
from kvmpc.loops.program import load
from kvmpc.loops.records import Call, RecordArray, ResolverRecord, Return, SharedRecord
from kvmpc.loops.steps import Steps
from tests.fakes.scripted import ScriptedKernel, Setting, counts, failure

GATE_NS = 5_000_000_007
LIVENESS_S = 20.0


def _expect_stamp(kernel: ScriptedKernel, shared: SharedRecord, *, reply: int = 0) -> None:
    before_ns = shared.gate_ns

    def do() -> None:
        assert (shared.gate, shared.gate_ns) == (0, before_ns)
        shared.sec, shared.nsec = divmod(GATE_NS, 10**9)

    timespec = ctypes.addressof(shared) + SharedRecord.sec.offset
    kernel.expect("clock_gettime", clock.CLOCK_MONOTONIC, timespec, reply=reply, do=do)


def _address(shared: SharedRecord) -> int:
    return ctypes.addressof(shared) + SharedRecord.gate.offset


@pytest.mark.parametrize("woken", [0, 1, 1024])
def test_the_gate_is_stamped_then_opened_then_woken(kernel: ScriptedKernel, woken: int) -> None:
    shared = SharedRecord(gate_ns=99)
    _expect_stamp(kernel, shared)
    seen: list[tuple[int, int]] = []
    kernel.futex_wake(
        _address(shared), reply=woken, do=lambda: seen.append((shared.gate, shared.gate_ns))
    )
    assert kernel.run("open_gate", shared) == 0
    assert seen == [(1, GATE_NS)]
    assert (shared.gate, shared.gate_ns, shared.waiters) == (1, GATE_NS, 0)


def test_a_gate_without_a_time_stays_shut(kernel: ScriptedKernel) -> None:
    shared = SharedRecord()
    _expect_stamp(kernel, shared, reply=-errno.EINVAL)
    assert kernel.run("open_gate", shared) == -errno.EINVAL
    assert (shared.gate, shared.gate_ns) == (0, 0)


@pytest.mark.parametrize("error", [errno.EPERM, errno.EFAULT])
def test_a_gate_that_cannot_wake_says_so(kernel: ScriptedKernel, error: int) -> None:
    shared = SharedRecord()
    _expect_stamp(kernel, shared)
    kernel.futex_wake(_address(shared), reply=-error)
    assert kernel.run("open_gate", shared) == -error


def test_an_open_gate_is_passed_without_a_system_call(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    setting.shared.gate = 1
    assert kernel.run("wait_gate", setting.resolver()) == Return.OK
    assert setting.shared.parked == 0


def test_a_thread_sleeps_until_the_gate_is_open_whatever_wakes_it(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record, address = setting.resolver(), _address(setting.shared)
    setting.shared.parked = 4
    seen: list[int] = []
    kernel.futex_wait(address, 0, reply=0, do=lambda: seen.append(setting.shared.parked))
    kernel.futex_wait(address, 0, reply=-errno.EINTR)
    kernel.futex_wait(address, 0, reply=-errno.EAGAIN)
    kernel.futex_wait(
        address, 0, reply=-errno.EAGAIN, do=lambda: setattr(setting.shared, "gate", 1)
    )
    assert kernel.run("wait_gate", record) == Return.OK
    assert counts(record) == {}
    assert record.gate_sleeps == 2, "EAGAIN is no sleep"
    assert (seen, setting.shared.parked) == ([5], 5), "counted before it sleeps, and only once"


def test_every_thread_counts_as_parked_before_the_gate_lets_all_of_them_go() -> None:
    threads, program = 23, load(Steps())
    with RecordArray(SharedRecord, 1) as shareds, RecordArray(ResolverRecord, threads) as array:
        shared, codes = shareds.records[0], []
        for record in array.records:
            record.shared = ctypes.addressof(shared)
        workers = [
            threading.Thread(
                target=lambda record=record: codes.append(program.call("wait_gate", record)),
                daemon=True,
            )
            for record in array.records
        ]
        for worker in workers:
            worker.start()
        deadline = time.monotonic() + LIVENESS_S
        while shared.parked < threads and time.monotonic() < deadline:
            time.sleep(0.001)
        assert (shared.parked, codes) == (threads, [])
        assert program.call("open_gate", shared) == Return.OK
        for worker in workers:
            worker.join(LIVENESS_S)
        assert codes == [Return.OK] * threads
        assert shared.parked == threads


def test_a_gate_that_cannot_be_waited_for_keeps_the_guest_from_starting(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.vcpu()
    record.end_ns = 0
    kernel.usage(record, "usage_start")
    kernel.futex_wait(_address(setting.shared), 0, reply=-errno.ENOSYS)
    assert kernel.run("gated_vcpu_loop", record) == Return.FAILED
    assert failure(record) == (Call.FUTEX, errno.ENOSYS)
    assert (counts(record), record.start_ns, record.end_ns) == ({}, 0, 0)


def test_the_guest_does_not_start_without_a_stamp(kernel: ScriptedKernel, setting: Setting) -> None:
    record, setting.shared.gate = setting.vcpu(), 1
    kernel.usage(record, "usage_start")
    kernel.clock(clock.CLOCK_THREAD_CPUTIME_ID, 1, record=record, reply=-errno.EINVAL)
    assert kernel.run("gated_vcpu_loop", record) == Return.FAILED
    assert failure(record) == (Call.CLOCK_GETTIME, errno.EINVAL)
    assert counts(record) == {}


def test_a_guest_whose_switches_cannot_be_counted_does_not_start(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.vcpu()
    kernel.usage(record, "usage_start", reply=-errno.EFAULT)
    assert kernel.run("gated_vcpu_loop", record) == Return.FAILED
    assert failure(record) == (Call.GETRUSAGE, errno.EFAULT)
    assert (counts(record), setting.shared.parked) == ({}, 0)


def test_a_gated_vcpu_is_stamped_around_its_runs_and_only_once_at_the_start(
    kernel: ScriptedKernel, setting: Setting
) -> None:
    record = setting.vcpu()
    gate = _address(setting.shared)
    kernel.usage(record, "usage_start", switches=7)
    kernel.futex_wait(gate, 0, do=lambda: setattr(setting.shared, "gate", 1))
    kernel.stamp_start(record, ns=100, cpu_ns=10)
    kernel.kvm_run(record, reply=0, do=lambda run: setattr(run, "exit_reason", kvm.KVM_EXIT_IO))
    kernel.stamp_end(record, ns=200, cpu_ns=20)
    assert kernel.run("gated_vcpu_loop", record) == Return.EXIT
    kernel.interrupted_by_stop(record)
    kernel.stamp_end(record, ns=300, cpu_ns=30)
    assert kernel.run("gated_vcpu_loop", record) == Return.STOPPED
    assert (record.start_ns, record.cpu_start_ns) == (100, 10)
    assert (record.end_ns, record.cpu_end_ns) == (300, 30)
    assert counts(record) == {"kvm_runs": 2, "interrupts": 1, "returns": 2}
    assert record.usage_start.ru_nvcsw == 7
    assert setting.shared.parked == 1, "not again when it came back through the open gate"
