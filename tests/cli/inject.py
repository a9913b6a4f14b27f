"""kvmpc with one fault in it: ``python inject.py FAULT[@PAGER] -- compare ...``.

The faults are put in from outside, at the moments that `TrialHooks` offers; the program itself has
no switch for any of them. With @PAGER only trials of that pager have the fault.
Exits as kvmpc does.
"""

from __future__ import annotations

import errno
import math
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import kvmpc.cli.output
import kvmpc.run.campaign
from kvmpc.abi.kvm_x86 import kvm_dtable
from kvmpc.cli import main
from kvmpc.loops.program import load
from kvmpc.loops.records import Return
from kvmpc.pagers.pager import Supply
from kvmpc.trial.rig import Rig, TrialHooks
from kvmpc.units import MIB, PAGE_BYTES
from kvmpc.vm.guest import Guest
from kvmpc.vm.memory import DATA_GPA

WRONG_PAGE = 40
STEERED_VCPU = 1

_target: str | None = None


def _hook(**hooks: Callable[[Any], None]) -> None:
    """Give every trial that gets the fault these hooks."""
    original = kvmpc.run.campaign.run_trial

    def run_trial(kvm: Any, work: Any, pager: Any, **options: Any) -> Any:
        if _target in (None, pager.spec):
            options["hooks"] = TrialHooks(**hooks)
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
    def lie(supply: Supply) -> None:
        steps = supply.linked_steps()
        lie = (("lie.asm", _LIE.format(wake=steps.wake)),)
        lying = load(replace(steps, fetch="fetch_lie", wake="wake_truth"), extra=lie)
        supply.program = lambda: lying

    _hook(on_supply=lie)


_CRASH = """
fetch_crash:
    xor eax, eax
    {instruction}
    ret
"""


def _crash(instruction: str) -> Callable[[], None]:
    """Return a fault that ends the process in all threads that fetch, in native code."""

    def crash(supply: Supply) -> None:
        extra = (("crash.asm", _CRASH.format(instruction=instruction)),)
        crashing = load(replace(supply.linked_steps(), fetch="fetch_crash"), extra=extra)
        supply.program = lambda: crashing

    return lambda: _hook(on_supply=crash)


def _failing_install() -> None:
    """Put a descriptor that is no userfaultfd in the last share's place."""

    def misdirect(supply: Supply) -> None:
        fds = supply._shares.fds
        fds[len(fds) - 1] = os.open(os.devnull, os.O_RDWR)

    _hook(on_supply=misdirect)


@dataclass
class _ReaderProgram:
    """Runs `loop` in place of the reader's."""

    loop: Callable[[Any], int]

    def call(self, function: str, record: Any) -> int:
        assert function == "reader_loop"
        return self.loop(record)


def _replace_reader(loop: Callable[[Any], int]) -> Callable[[], None]:
    """Return a fault that runs `loop` in place of the reader's."""

    def replace(rig: Rig) -> None:
        for reader in rig.readers:
            reader.program = _ReaderProgram(loop)

    return lambda: _hook(on_rig=replace)


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
    """Let the readers read from what cannot be read."""

    def blind(supply: Supply) -> None:
        for reader in supply.readers:
            reader.record.uffd = os.open(os.devnull, os.O_WRONLY)

    _hook(on_supply=blind)


def _steer(gva: Callable[[Guest], int], *, idt: bool = True) -> Callable[[], None]:
    """Return a fault that sends one vCPU to another address, with or without an IDT."""

    def steer(rig: Rig) -> None:
        rig.guest.record(STEERED_VCPU).part = gva(rig.guest)
        if not idt:
            vcpu = rig.vcpus[STEERED_VCPU].vcpu
            sregs = vcpu.get_sregs()
            sregs.idt = kvm_dtable(base=0, limit=0)
            vcpu.set_sregs(sregs)

    return lambda: _hook(on_rig=steer)


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
    left: float = math.inf

    def count(_: Rig) -> None:
        nonlocal left
        left = 2

    def start(self: threading.Thread) -> None:
        nonlocal left
        if left == 0:
            left = math.inf
            raise RuntimeError("can't start new thread")
        left -= 1
        original(self)

    threading.Thread.start = start  # type: ignore[method-assign]
    _hook(on_rig=count)


def _no_address_space() -> None:
    """Leave address space for a few stacks only when the first thread of a trial is to start.

    Not for none: a thread of Python that gets its stack and then no memory never starts.
    """
    before = resource.getrlimit(resource.RLIMIT_AS)

    def use_up(_: Rig) -> None:
        with open("/proc/self/statm", encoding="ascii") as file:
            taken = int(file.read().split()[0]) * PAGE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (taken + 2 * MIB, before[1]))

    _hook(on_rig=use_up, on_failure=lambda _: resource.setrlimit(resource.RLIMIT_AS, before))


def _refuse_kvm(number: int) -> Callable[[], None]:
    def fault() -> None:
        original = os.open

        def refuse(path: Any, *arguments: Any, **options: Any) -> int:
            if path == "/dev/kvm":
                raise OSError(number, os.strerror(number), path)
            return original(path, *arguments, **options)

        os.open = refuse

    return fault


def _slow_source() -> None:
    """A page takes 5 ms to come for as long as there is a file `slow`, and nobody is told."""
    original = kvmpc.run.campaign.run_trial

    def run_trial(kvm: Any, work: Any, pager: Any, **options: Any) -> Any:
        if os.path.exists("slow"):
            work = replace(work, fetch_delay_ns=5_000_000)
        return original(kvm, work, pager, **options)

    kvmpc.run.campaign.run_trial = run_trial


def _eager_progress() -> None:
    """No fault: progress is told after every trial, not once a minute."""
    kvmpc.cli.output._TOLD_EVERY_S = 0.0


FAULTS: dict[str, Callable[[], None]] = {
    "wrong-tag": _wrong_tag,
    "bad-address": _crash("mov rax, [rax]"),
    "bad-instruction": _crash("ud2"),
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
    "no-address-space": _no_address_space,
    "busy-kvm": _refuse_kvm(errno.EBUSY),
    "forbidden-kvm": _refuse_kvm(errno.EPERM),
    "slow-source": _slow_source,
    "eager-progress": _eager_progress,
}


if __name__ == "__main__":
    _name, _at, _pager = sys.argv[1].partition("@")
    _target = _pager or None
    if sys.argv[2] != "--":
        sys.exit(f"usage: {sys.argv[0]} FAULT[@PAGER] -- ARGUMENT...")
    FAULTS[_name]()
    sys.argv[:] = ["kvmpc", *sys.argv[3:]]
    sys.exit(main())
