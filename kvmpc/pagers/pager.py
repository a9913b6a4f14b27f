"""What every pager is made of: `Pager`, a frozen config, and `Supply`, a pager at work in a trial.

To add one: a file with a subclass of each, its name in `pagers.PAGERS`, a test file, a row in the
README. Which resolver steps it links, which threads it needs and what it verifies are stated there;
the loops stay as they are.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import ClassVar, Self

from kvmpc.kernel.kvm import Vcpu, Vm
from kvmpc.kernel.need import Need
from kvmpc.loops.program import NativeProgram, load
from kvmpc.loops.records import ReaderRecord, ResolverRecord, Return, SharedRecord, VcpuRecord
from kvmpc.loops.steps import Steps
from kvmpc.pagers.rules import refuse_clash
from kvmpc.pagers.spec import Key
from kvmpc.sources.choice import source_of
from kvmpc.vm.bitmap import MissingBitmap
from kvmpc.vm.contents import build_body
from kvmpc.vm.memory import DATA_GPA, GuestMemory
from kvmpc.work.layout import Layout
from kvmpc.work.tags import TagRule, tag_rule
from kvmpc.work.work import Work

__all__ = ["Pager", "Reader", "Scene", "Supply"]


@dataclass(frozen=True)
class Scene:
    """What a trial puts at a pager's disposal; all of it outlives the `Supply`."""

    vm: Vm
    work: Work
    memory: GuestMemory
    layout: Layout
    bitmap: MissingBitmap
    shared: SharedRecord
    tags: TagRule


@dataclass(frozen=True)
class Reader:
    """A reader thread to be: its name and its record."""

    name: str
    record: ReaderRecord


class Supply:
    """A pager at work: what the threads of one trial need of it. Closed by the trial, last of all.

    This base does what `none` does: nothing is supplied, so a fault that comes out is a failure.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.source = source_of(scene.work)
        self.readers: list[Reader] = []
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def program(self) -> NativeProgram:
        """Return the native loops with this pager's steps."""
        return load(self.linked_steps(), self.scene.work.unit_bytes)

    def linked_steps(self) -> Steps:
        """Return the variant of each step that this pager links."""
        return Steps()

    def equip(self, record: ResolverRecord, staging_hva: int) -> None:
        """Give a thread's record what `resolve` reads from it.

        `staging_hva` is a resident page of that thread; it must live as long as the thread.
        """
        scene = self.scene
        record.shared = ctypes.addressof(scene.shared)
        record.missing = scene.bitmap.missing_address
        record.claimed = scene.bitmap.claimed_address
        record.data_hva = scene.memory.data_hva
        record.data_gpa = DATA_GPA
        record.staging = staging_hva
        build_body(staging_hva, scene.work, scene.tags)
        record.tag_multiplier, record.tag_seed = scene.tags.multiplier, scene.tags.seed
        self.source.equip(record)

    def before_ready(self, vcpu: int) -> int:
        """Do what vCPU `vcpu`'s own thread has to do before the gate; return OK or STOPPED."""
        del vcpu
        return Return.OK

    def progress(self) -> int:
        """Return a number that grows as long as `before_ready` gets on somewhere."""
        return 0

    def handle(self, vcpu: Vcpu, record: VcpuRecord) -> int | None:
        """Handle an exit that the loop left to Python.

        Returns the `Return` code to go on with (OK: run the vCPU again), None if it is not the
        pager's. Runs in the vCPU's thread.
        """
        del vcpu, record
        return None

    def stop(self) -> None:
        """Free every thread that sleeps in a fault, or works before the gate.

        After this, missing pages come up as zeros.
        """


class Pager:
    """A way to supply missing pages, as parsed from its spec. Subclasses are frozen dataclasses."""

    name: ClassVar[str]
    keys: ClassVar[Mapping[str, Key]] = {}
    fetches: ClassVar[bool] = True
    """Whether it installs pages itself: then each page must have been installed exactly once."""
    own_thread: ClassVar[bool] = False
    """Whether a page is installed by the thread that then goes on with the vCPU."""

    @property
    def starts_empty(self) -> bool:
        """Whether no page of data memory may be there yet when the gate opens."""
        return True

    @property
    def spec(self) -> str:
        """The canonical spec: keys in a fixed order, defaults left out."""
        written = [f"{k}={text}" for k, text in self.values.items() if text != self.keys[k].default]
        return ",".join([self.name, *written])

    @property
    def label(self) -> str:
        """What tables call it; can be given as a spec as well."""
        return self.spec

    @property
    def values(self) -> dict[str, str]:
        """Every key with its value as a spec has it, those at their default as well."""
        return {key: rule.write(getattr(self, key)) for key, rule in self.keys.items()}

    def check(self, work: Work) -> None:
        """Refuse what cannot be measured on this work. Raises: UsageError."""
        refuse_clash(self.name, self.values, work)

    @property
    def needs(self) -> tuple[Need, ...]:
        """What it needs of this host, beyond what every pager does."""
        return ()

    @property
    def smallest(self) -> Self:
        """The same with as few threads and descriptors as still make every kind of call."""
        return self

    def reader_count(self, work: Work) -> int:
        """Return how many reader threads it starts."""
        del work
        return 0

    def fd_count(self, work: Work) -> int:
        """Return how many file descriptors it opens."""
        del work
        return 0

    def tags(self, seed: int) -> TagRule:
        """Return what a page holds when the guest first sees it."""
        return tag_rule(seed)

    @property
    def vm_type(self) -> int:
        """The type of VM it needs, as KVM_CREATE_VM takes it."""
        return 0

    def slot_flags(self, bitmap: MissingBitmap) -> int:
        """Return ``KVM_MEM_*`` of the data slots, whose missing pages `bitmap` tells."""
        del bitmap
        return 0

    def open(self, scene: Scene) -> AbstractContextManager[Supply]:
        """Set it up for one trial. Raises: HostError, KernelError."""
        raise NotImplementedError
