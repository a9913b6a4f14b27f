"""kvmpc with one fault in it: ``python inject.py FAULT[@PAGER] -- compare ...``.

The faults are put in from outside, through what kvmpc's modules offer each other; the program
itself has no switch for any of them. With @PAGER only trials of that pager have the fault.
Exits as kvmpc does.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import kvmpc.run.campaign
from kvmpc.abi.kvm_x86 import kvm_dtable
from kvmpc.cli import main
from kvmpc.loops.program import NativeProgram, load
from kvmpc.loops.records import Return
from kvmpc.pagers.exit import ExitSupply
from kvmpc.pagers.shares import UffdShares
from kvmpc.pagers.uffd import UffdSupply
from kvmpc.units import MIB, PAGE_BYTES
from kvmpc.vm.guest import Guest
from kvmpc.vm.memory import DATA_GPA

WRONG_PAGE = 40
STEERED_VCPU = 1

_target: str | None = None
_current: str | None = None


def _now() -> bool:
    """Whether the trial that runs is one of those that get the fault."""
    return _target is None or _current == _target


def _follow_trials() -> None:
    original = kvmpc.run.campaign.run_trial

    def run_trial(kvm: Any, work: Any, pager: Any, **options: Any) -> Any:
        global _current
        _current = pager.spec
        return original(kvm, work, pager, **options)

    kvmpc.run.campaign.run_trial = run_trial


# A page whose bytes are not its own: `stage` reads the seed, which is another one for this page.
_LIE = f"""
fetch_lie:
    cmp r12, {WRONG_PAGE}
    jne fetch_now
    xor qword ptr [rbx + resolver.tag_seed], 1
    jmp fetch_now

wake_truth:
    cmp r12, {WRONG_PAGE}
    jne .wake
    xor qword ptr [rbx + resolver.tag_seed], 1
.wake:
    jmp {{wake}}
"""


def _wrong_tag() -> None:
    for supply, wake in ((UffdSupply, "wake_range"), (ExitSupply, "wake_losers")):
        original = supply.program

        def program(self: Any, original: Any = original, wake: str = wake) -> NativeProgram:
            if not _now():
                return original(self)
            steps = replace(self.linked_steps(), fetch="fetch_lie", wake="wake_truth")
            return load(steps, extra=(("lie.asm", _LIE.format(wake=wake)),))

        supply.program = program


def _failing_install() -> None:
    """Put a descriptor that is no userfaultfd in the last share's place."""
    original = UffdShares.__init__

    def init(self: Any, *arguments: Any) -> None:
        original(self, *arguments)
        if _now():
            self.fds[len(self.fds) - 1] = os.open(os.devnull, os.O_RDWR)

    UffdShares.__init__ = init


def _replace_reader(loop: Callable[[Any], int]) -> Callable[[], None]:
    """Return a fault that runs `loop` in place of the reader's."""

    def fault() -> None:
        original = NativeProgram.call

        def call(self: Any, function: str, record: Any, page: int = 0) -> int:
            if function == "reader_loop" and _now():
                return loop(record)
            return original(self, function, record, page)

        NativeProgram.call = call

    return fault


def _raise(record: Any) -> int:
    del record
    raise RuntimeError("injected: the reader's thread raised")


def _silent(record: Any) -> int:
    while not record.stop:
        time.sleep(0.01)
    return Return.STOPPED


def _deaf(record: Any) -> int:
    del record
    while True:
        time.sleep(1)


def _gone(record: Any) -> int:
    del record
    return Return.STOPPED


def _blind_reader() -> None:
    """Let the reader read from what cannot be read."""
    original = UffdSupply._listen

    def listen(self: Any, record: Any, fd: int) -> None:
        original(self, record, fd)
        if _now():
            record.uffd = os.open(os.devnull, os.O_WRONLY)

    UffdSupply._listen = listen


def _steer(gva: Callable[[Guest], int], *, idt: bool = True) -> Callable[[], None]:
    """Return a fault that sends one vCPU to another address, with or without an IDT."""

    def fault() -> None:
        original = Guest.create_vcpu

        def create_vcpu(self: Any, vm: Any, index: int, cpuid: Any, **options: Any) -> Any:
            vcpu = original(self, vm, index, cpuid, **options)
            if index == STEERED_VCPU and _now():
                self.record(index).part = gva(self)
                if not idt:
                    sregs = vcpu.get_sregs()
                    sregs.idt = kvm_dtable(base=0, limit=0)
                    vcpu.set_sregs(sregs)
            return vcpu

        Guest.create_vcpu = create_vcpu

    return fault


def _unmapped(guest: Guest) -> int:
    del guest
    return 1 << 46


def _non_canonical(guest: Guest) -> int:
    del guest
    return 1 << 60


def _behind_memory(guest: Guest) -> int:
    """Return an address that the guest maps, but that no slot backs."""
    return DATA_GPA + guest.plan.data_bytes // PAGE_BYTES * PAGE_BYTES + MIB


def _thread_limit() -> None:
    """Refuse the third thread of every trial that gets the fault."""
    original = threading.Thread.start
    started = 0

    def start(self: threading.Thread) -> None:
        nonlocal started
        if _now():
            started += 1
            if started == 3:
                raise RuntimeError("can't start new thread")
        original(self)

    threading.Thread.start = start  # type: ignore[method-assign]


def _refuse_kvm(number: int) -> Callable[[], None]:
    def fault() -> None:
        original = os.open

        def refuse(path: Any, *arguments: Any, **options: Any) -> int:
            if path == "/dev/kvm":
                raise OSError(number, os.strerror(number), path)
            return original(path, *arguments, **options)

        os.open = refuse

    return fault


FAULTS: dict[str, Callable[[], None]] = {
    "wrong-tag": _wrong_tag,
    "failing-install": _failing_install,
    "raising-reader": _replace_reader(_raise),
    "silent-reader": _replace_reader(_silent),
    "deaf-reader": _replace_reader(_deaf),
    "gone-reader": _replace_reader(_gone),
    "blind-reader": _blind_reader,
    "page-fault": _steer(_unmapped),
    "general-protection": _steer(_non_canonical),
    "triple-fault": _steer(_unmapped, idt=False),
    "odd-exit": _steer(_behind_memory),
    "thread-limit": _thread_limit,
    "busy-kvm": _refuse_kvm(errno.EBUSY),
    "forbidden-kvm": _refuse_kvm(errno.EPERM),
}


if __name__ == "__main__":
    _name, _at, _pager = sys.argv[1].partition("@")
    _target = _pager or None
    if sys.argv[2] != "--":
        sys.exit(f"usage: {sys.argv[0]} FAULT[@PAGER] -- ARGUMENT...")
    _follow_trials()
    FAULTS[_name]()
    sys.argv[:] = ["kvmpc", *sys.argv[3:]]
    sys.exit(main())
