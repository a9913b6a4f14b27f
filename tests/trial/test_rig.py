"""A rig exists whole or not at all, and shares its gate with others if it has to."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from kvmpc.errors import Interrupted, KernelError, StuckError
from kvmpc.kernel import syscalls
from kvmpc.kernel.kvm import Kvm, Vcpu, Vm
from kvmpc.loops.records import RecordArray, SharedRecord
from kvmpc.pagers import parse_pager
from kvmpc.trial import rig as rig_module
from kvmpc.trial import verify
from kvmpc.trial.rig import Rig, TrialHooks
from kvmpc.trial.signals import Interrupt
from kvmpc.trial.watchdog import Watchdog
from kvmpc.units import PAGE_BYTES
from kvmpc.vm.guest import Guest
from kvmpc.vm.memory import GuestMemory
from kvmpc.work.placement import Placement
from kvmpc.work.work import Work

pytestmark = pytest.mark.kvm

Build = Callable[..., Rig]
SPECS = ("none", "none,host=populated", "uffd", "uffd,readers=2,uffds=3", "exit,uffds=2")


@pytest.fixture
def gate() -> Iterator[SharedRecord]:
    """A gate that is closed."""
    with RecordArray(SharedRecord, 1) as array:
        yield array.records[0]


@pytest.fixture
def build(kvm: Kvm, gate: SharedRecord) -> Build:
    """Build a rig of 3 vCPUs with 23 pages each."""

    def build(spec: str, *, vcpus: int = 3, **options: Any) -> Rig:
        names = ("interrupt", "hooks", "ring")
        given = {name: options.pop(name) for name in names if name in options}
        work = Work(vcpus=vcpus, mem_per_vcpu_bytes=23 * PAGE_BYTES, **options)
        return Rig(kvm, work, parse_pager(spec), gate, **given)

    return build


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The mappings that are there, by address: those of kvmpc, not Python's own."""
    there: set[int] = set()
    init, close = syscalls.Mapping.__init__, syscalls.Mapping.close

    def opened(self: Any, *arguments: Any, **options: Any) -> None:
        init(self, *arguments, **options)
        there.add(self.address)

    def closed(self: Any) -> None:
        close(self)
        there.discard(self.address)

    monkeypatch.setattr(syscalls.Mapping, "__init__", opened)
    monkeypatch.setattr(syscalls.Mapping, "close", closed)
    return there


STEPS: dict[str, tuple[Any, str, int]] = {
    "seats": (rig_module, "Seats", 1),
    "cpuid": (Kvm, "supported_cpuid", 1),
    "plan": (rig_module, "plan_guest", 1),
    "memory": (GuestMemory, "__init__", 1),
    "bitmap": (rig_module, "MissingBitmap", 1),
    "guest": (Guest, "__init__", 1),
    "vm": (Kvm, "create_vm", 1),
    "memslots": (Vm, "set_memslot", 2),
    "crew": (rig_module, "Crew", 1),
    "passes": (rig_module, "FurtherPasses", 1),
    "records": (rig_module, "RecordArray", 1),
    "first vCPU": (Vm, "create_vcpu", 1),
    "third vCPU": (Vm, "create_vcpu", 3),
    "state of a vCPU": (Vcpu, "set_sregs", 2),
    "TSC": (Vcpu, "share_host_tsc", 3),
    "TSC rate": (Vcpu, "tsc_khz", 1),
    "workers": (rig_module, "ReaderWorker", 1),
    "statistics": (rig_module, "TrialStats", 1),
    "timeline": (rig_module, "Timeline", 1),
}
"""What to let fail: owner, function, at which call."""


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("step", STEPS)
def test_a_failure_at_any_step_leaves_nothing_behind(
    build: Build,
    monkeypatch: pytest.MonkeyPatch,
    held: Callable[[], Any],
    mapped: set[int],
    spec: str,
    step: str,
) -> None:
    build(spec, passes=2).__exit__()  # code is assembled and kept
    before, mapped_before = held(), set(mapped)
    owner, name, at = STEPS[step]
    real, calls = getattr(owner, name), 0

    def fail(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise KernelError(f"made up at {step}", 5)
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, fail)
    if step == "workers" and not spec.startswith("uffd"):
        build(spec, passes=2).__exit__()
    else:
        with pytest.raises(KernelError, match=f"made up at {step}"):
            build(spec, passes=2)
    assert mapped == mapped_before
    assert (held().fds, held().threads) == (before.fds, before.threads)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("moment", ["on_scene", "on_supply", "on_rig"])
def test_a_failure_at_a_hooks_moment_leaves_nothing_behind(
    build: Build, held: Callable[[], Any], mapped: set[int], spec: str, moment: str
) -> None:
    def fail(_: Any) -> None:
        raise KernelError(f"made up {moment}", 5)

    build(spec).__exit__()
    before, mapped_before = held(), set(mapped)
    with pytest.raises(KernelError, match="made up"):
        build(spec, hooks=TrialHooks(**{moment: fail}))
    assert mapped == mapped_before
    assert (held().fds, held().threads) == (before.fds, before.threads)


@pytest.mark.parametrize("spec", SPECS)
def test_a_pager_that_does_not_open_leaves_nothing_behind(
    build: Build, held: Callable[[], Any], mapped: set[int], fds_left: Callable[[int], None],
    spec: str,
) -> None:  # fmt: skip
    build(spec).__exit__()
    before, mapped_before = held(), set(mapped)
    for left in range(9):
        fds_left(left)
        try:
            build(spec).__exit__()
        except KernelError as error:
            assert "EMFILE" in str(error)  # noqa: PT017
        finally:
            fds_left(1000)
        assert mapped == mapped_before
        assert held().fds == before.fds


def test_a_request_ends_the_building(
    build: Build, mapped: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt, create_vcpu, created = Interrupt(), Vm.create_vcpu, []

    def create(self: Vm, index: int) -> Vcpu:
        created.append(index)
        if index == 1:
            interrupt.signal_name = "SIGINT"
        return create_vcpu(self, index)

    monkeypatch.setattr(Vm, "create_vcpu", create)
    before = set(mapped)
    with pytest.raises(Interrupted, match="SIGINT"):
        build("uffd", interrupt=interrupt)
    assert created == [0, 1]
    assert mapped == before


@pytest.mark.parametrize("spec", SPECS)
def test_a_rig_that_is_built_has_all_its_fields_and_a_worker_a_thread(
    build: Build, spec: str
) -> None:
    with build(spec, placement=Placement(pin=True), timeline=True) as rig:
        known = set(vars(rig))
        assert None not in (rig.timeline, rig.tsc_khz)
        assert [worker.name for worker in rig.vcpus] == ["vcpu0", "vcpu1", "vcpu2"]
        assert [worker.name for worker in rig.readers] == [r.name for r in rig.supply.readers]
        for worker in (*rig.vcpus, *rig.readers):
            assert worker.seat.cpus is not None
            assert ctypes.addressof(rig.gate) == worker.record.shared
        rig.stop()
        assert set(vars(rig)) == known


def test_the_vm_has_its_memory_before_the_pager_opens(build: Build) -> None:
    slots: list[int] = []

    def look(scene: Any) -> None:
        assert scene.vm.fd > 0
        # A slot of another size: the kernel knows this one by its number.
        with pytest.raises(KernelError, match="EINVAL"):
            scene.vm.set_memslot(
                1, gpa=1 << 32, hva=scene.memory.data_hva, size_bytes=2 * scene.memory.data_bytes
            )
        slots.append(1)

    build("exit", hooks=TrialHooks(on_scene=look)).__exit__()
    assert slots == [1]


def test_the_tags_of_two_rigs_differ(build: Build) -> None:
    with build("uffd") as first, build("uffd") as second:
        assert first.tags != second.tags


def test_stop_raises_with_the_names_of_those_that_are_stuck(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    with build("exit") as rig:
        monkeypatch.setattr(rig.crew, "stop", lambda *_: ["vcpu1", "vcpu2"])
        with pytest.raises(StuckError, match="vcpu1, vcpu2"):
            rig.stop()


@pytest.mark.parametrize("specs", [("exit", "exit"), ("uffd", "exit"), ("none", "uffd,readers=2")])
def test_two_rigs_wait_at_one_gate_and_each_has_its_own_pages(
    build: Build, gate: SharedRecord, interrupt: Interrupt, specs: tuple[str, str]
) -> None:
    with ExitStack() as stack:
        rigs = [stack.enter_context(build(spec)) for spec in specs]
        dogs = [Watchdog(rig, interrupt, 10) for rig in rigs]
        try:
            for rig, dog in zip(rigs, dogs, strict=True):
                for workers in (rig.readers, rig.vcpus):
                    rig.crew.start(workers)
                    dog.wait("ready", len(workers))
            deadline = time.monotonic() + 10
            while gate.parked < 6 and time.monotonic() < deadline:
                time.sleep(0.001)
            assert gate.parked == 6
            for rig in rigs:
                verify.verify_absent(rig.memory.presence, rig.layout)
            rigs[0].crew.open_gate()
            for dog in dogs:
                dog.wait("done", 3)
        finally:
            for rig in rigs:
                rig.stop()
        for rig in rigs:
            verify.verify_guest(rig.guest, rig.memory.presence, rig.layout, rig.tags)
            verify.verify_presence(rig.memory.presence, rig.layout)
            assert all(record.start_ns >= gate.gate_ns > 0 for record in rig.vcpu_records)
    assert not [t for t in threading.enumerate() if t.name.startswith(("vcpu", "reader"))]
