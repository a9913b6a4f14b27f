"""After any end of a trial this process holds what it held before: fds, threads, mappings."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from kvmpc.errors import Interrupted
from kvmpc.kernel.kvm import Kvm
from kvmpc.kernel.userfaultfd import DEVICE_PATH
from kvmpc.pagers.pager import Scene, Supply
from kvmpc.result.records import TrialResult
from kvmpc.trial.signals import Interrupt
from kvmpc.vm.record import GuestRecord
from kvmpc.vm.x86 import plan_guest

pytestmark = pytest.mark.kvm

Run = Callable[..., TrialResult]

VCPUS = 5
TRIALS = 220

SPECS = (
    "none",
    "none,host=populated",
    "uffd",
    "uffd,readers=3",
    "uffd,readers=2,uffds=per-vcpu",
    "uffd,readers=3,wait=poll",
    "uffd,readers=3,wait=read",
    "uffd,readers=2,wait=spin",
    "uffd,readers=3,wait=adaptive",
    "exit",
    "exit,uffds=per-vcpu",
)
"""As many as have no divisor in common with the number of ends: so each meets each."""


@pytest.fixture
def every_end(
    run: Run,
    interrupt: Interrupt,
    kvm: Kvm,
    fds_left: Callable[[int], None],
) -> Callable[[str], str]:
    """Return ends of a trial, one after another: each runs one of a spec and says how it ended."""

    def succeeds(spec: str) -> str:
        result = run(spec, vcpus=VCPUS)
        assert result.error is None
        return "ok"

    def verification_fails(spec: str) -> str:
        def expect_others(scene: Scene) -> None:
            plan = plan_guest(scene.work, kvm.supported_cpuid())
            record_gpa = plan.vcpu_page_gpa(0) + 128
            scene.memory.write_low(record_gpa + GuestRecord.tag_seed.offset, b"wrong...")

        result = run(spec, on_scene=expect_others, vcpus=VCPUS)
        assert "wrong tag" in str(result.error)
        return "not verified"

    def guest_fails(spec: str) -> str:
        def no_program(scene: Scene) -> None:
            scene.memory.write_low(0x2000 + 32 * 5, b"\x0f\x0b" * 64)

        result = run(spec, on_scene=no_program, vcpus=VCPUS)
        assert "#UD" in str(result.error)
        return "guest failed"

    def interrupted_before_the_gate(spec: str) -> str:
        def ask(_: Supply, vcpu: int) -> None:
            if vcpu == VCPUS // 2:
                interrupt.signal_name = "SIGINT"

        with pytest.raises(Interrupted):
            run(spec, before_ready=ask, vcpus=VCPUS)
        interrupt.signal_name = None
        return "interrupted"

    def interrupted_in_the_middle(spec: str) -> str:
        timer = threading.Timer(0.02, setattr, (interrupt, "signal_name", "SIGTERM"))
        timer.start()
        # Some are over before.
        with suppress(Interrupted):
            run(spec, vcpus=VCPUS, pages=4999)
        timer.join()
        interrupt.signal_name = None
        return "stopped at any moment"

    def never_answered(spec: str) -> str:
        if not spec.startswith("uffd"):
            return succeeds(spec)
        result = run(
            spec,
            on_supply=lambda supply: supply.readers.clear(),
            vcpus=VCPUS,
            watchdog_s=0.05,
        )
        assert "no page arrived" in str(result.error)
        return "watchdog"

    def out_of_descriptors(count: int) -> Callable[[str], str]:
        def out_of_descriptors(spec: str) -> str:
            fds_left(count)
            try:
                result = run(spec, vcpus=VCPUS)
            finally:
                fds_left(1000)
            assert result.status == "failed"
            assert "EMFILE" in str(result.error)
            return str(result.error).split(":")[0]

        return out_of_descriptors

    ends = itertools.cycle(
        [
            succeeds,
            verification_fails,
            guest_fails,
            interrupted_before_the_gate,
            interrupted_in_the_middle,
            never_answered,
            # At the VM, in the middle of the userfaultfds, epoll fds, vCPUs, wherever it hits.
            *[out_of_descriptors(count) for count in range(6)],
        ]
    )
    return lambda spec: next(ends)(spec)


def test_nothing_is_left_after_220_trials_that_end_in_every_way(
    every_end: Callable[[str], str], held: Callable[[], Any]
) -> None:
    specs = itertools.cycle(SPECS)
    # Every pager with every end: code is assembled and kept, stacks and arenas are cached.
    for _ in range(len(SPECS) * 12):
        every_end(next(specs))
    before = held()
    ends = {every_end(next(specs)) for _ in range(TRIALS)}
    after = held()
    assert after.fds == before.fds
    assert after.threads == before.threads
    # Each end came twenty times, so one that leaves a mapping would show far above this.
    assert after.mappings <= before.mappings + 8
    assert ends >= {"ok", "not verified", "guest failed", "interrupted", "watchdog"}
    assert ends >= {
        "USERFAULTFD_IOC_NEW" if os.path.exists(DEVICE_PATH) else "userfaultfd",
        "epoll_create1",
        "KVM_CREATE_VM",
        "KVM_CREATE_VCPU 0",
        f"KVM_CREATE_VCPU {VCPUS - 1}",
    }
