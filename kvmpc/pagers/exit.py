"""exit: KVM_RUN returns to the vCPU's own thread for a missing page, and that thread installs it.

It is composed of a *provider* (`kvmpc.pagers.providers`), which makes the exit happen, and an
*install* (`kvmpc.pagers.installs`), which brings the page to its place. Providers are never mixed
in a comparison without saying which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from kvmpc.abi import kvm as kvm_abi
from kvmpc.abi import userfaultfd as uffd_abi
from kvmpc.kernel import syscalls
from kvmpc.kernel.kvm import Vcpu
from kvmpc.kernel.need import Need
from kvmpc.kernel.userfaultfd import USERFAULTFD
from kvmpc.loops.records import ResolverRecord, Return, VcpuRecord
from kvmpc.loops.steps import Steps
from kvmpc.pagers.installs import COPY
from kvmpc.pagers.pager import Pager, Scene, Supply
from kvmpc.pagers.providers import PROVIDERS, Provider
from kvmpc.pagers.shares import Sharing
from kvmpc.pagers.spec import Key, choice, uffds_key
from kvmpc.vm.bitmap import MissingBitmap
from kvmpc.vm.memory import DATA_GPA
from kvmpc.work.work import Work

__all__ = ["ExitPager", "ExitSupply"]


@dataclass(frozen=True)
class ExitPager(Pager):
    """Exit on missing page.

    uffds: userfaultfds that pages are installed through, over equal shares of data memory; None =
        one per vCPU.
    provider: what makes the exit happen.
    """

    uffds: int | None = 1
    provider: str = "sigbus"

    name: ClassVar[str] = "exit"
    own_thread: ClassVar[bool] = True
    keys: ClassVar[Mapping[str, Key]] = {"uffds": uffds_key(), "provider": choice(*PROVIDERS)}

    @property
    def label(self) -> str:
        """What tables call it: always with its provider."""
        head, _, tail = self.spec.partition(",")
        return ",".join(filter(None, [f"{head}({self.provider})", tail]))

    @property
    def _provider(self) -> Provider:
        return PROVIDERS[self.provider]

    @property
    def sharing(self) -> Sharing:
        """The userfaultfds it installs through."""
        features = self._provider.uffd_features
        return Sharing(uffds=self.uffds, install=COPY, features=features)

    def check(self, work: Work) -> None:
        """Refuse shares of less than a page as well. Raises: UsageError."""
        super().check(work)
        self.sharing.check(self.spec, work)

    @property
    def needs(self) -> tuple[Need, ...]:
        """A userfaultfd, and what the provider needs."""
        return (USERFAULTFD, *self._provider.needs)

    @property
    def smallest(self) -> Self:
        """One userfaultfd."""
        return replace(self, uffds=1)

    def fd_count(self, work: Work) -> int:
        """Return its userfaultfds."""
        return self.sharing.count(work)

    @property
    def vm_type(self) -> int:
        """That of its provider."""
        return self._provider.vm_type

    def slot_flags(self, bitmap: MissingBitmap) -> int:
        """Return those of its provider."""
        return self._provider.slot_flags(bitmap)

    def open(self, scene: Scene) -> Supply:
        """Set up for one trial."""
        return ExitSupply(scene, self)


class ExitSupply(Supply):
    """The vCPU threads are the resolvers."""

    def __init__(self, scene: Scene, pager: ExitPager) -> None:
        super().__init__(scene)
        self._install = pager.sharing.install
        self._shares = pager.sharing.open(scene)
        self._undo.callback(self._shares.close)

    def linked_steps(self) -> Steps:
        """Return the steps: the thread waits for its own fetch, and for another's install."""
        own = Steps(install=self._install.step, lost="lost_wait", wake="wake_losers")
        steps = self.source.blocking(own)
        return steps.stamped() if self.scene.work.split else steps

    def equip(self, record: ResolverRecord, staging_hva: int) -> None:
        """Every thread resolves. Nobody sleeps in a fault, so an install need not wake anybody."""
        super().equip(record, staging_hva)
        self._shares.equip(record)
        record.copy_mode = uffd_abi.UFFDIO_COPY_MODE_DONTWAKE

    def handle(self, vcpu: Vcpu, record: VcpuRecord) -> int | None:
        """Resolve an access that KVM emulated: the page first, then the access itself.

        Source: api.rst, KVM_EXIT_MMIO: the access completes at the next KVM_RUN with what
        `mmio.data` holds then. A read is answered from the page, a write is done to it.
        """
        run = vcpu.run
        if run.exit_reason != kvm_abi.KVM_EXIT_MMIO:
            return None
        offset = run.mmio.phys_addr - DATA_GPA
        unit_bytes = self.scene.work.unit_bytes
        if not 0 <= offset < self.scene.work.total_pages * unit_bytes:
            return None
        record.exits_mmio += 1
        code = self.program().call("resolve", record, offset // unit_bytes)
        if code == Return.OK:
            hva, length = self.scene.memory.data_hva + offset, run.mmio.len
            if run.mmio.is_write:
                syscalls.write_own_memory(hva, bytes(run.mmio.data[:length]))
            else:
                run.mmio.data[:length] = list(syscalls.read_own_memory(hva, length))
        return code

    def stop(self) -> None:
        """Unregister all, as uffd does; here no vCPU sleeps in a fault."""
        self._shares.unregister()
