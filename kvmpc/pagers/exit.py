"""exit: KVM_RUN returns to the vCPU's own thread for a missing page, and that thread installs it.

What makes the exit happen is a `Provider`. Stock kernels have one, `sigbus`; a kernel with a
missing bitmap of its own is a further one. They are never mixed in a comparison without saying
which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from kvmpc.abi import kvm as kvm_abi
from kvmpc.abi import kvm_x86 as x86_abi
from kvmpc.abi import userfaultfd as uffd_abi
from kvmpc.errors import HostError
from kvmpc.kernel import syscalls
from kvmpc.kernel.kvm import Kvm, Vcpu
from kvmpc.loops.records import ResolverRecord, Return, VcpuRecord
from kvmpc.pagers.pager import Scene, Supply, stamped
from kvmpc.pagers.shares import UffdPagerBase, UffdShares
from kvmpc.pagers.spec import Key, choice, uffds_key
from kvmpc.units import PAGE_BYTES
from kvmpc.vm.memory import DATA_GPA

__all__ = ["PROVIDERS", "ExitPager", "Provider", "SigbusProvider"]


class Provider:
    """What makes KVM_RUN return for a missing page.

    uffd_features: features of the userfaultfd that pages are installed through.
    """

    name: ClassVar[str]
    uffd_features: ClassVar[int] = 0


class SigbusProvider(Provider):
    """UFFD_FEATURE_SIGBUS: GUP fails instead of sleeping. Any kernel since 4.14.

    A pessimistic stand-in for a kernel's own bitmap: the fault still walks GUP two or three times
    before it comes out.
    """

    name = "sigbus"
    uffd_features = uffd_abi.UFFD_FEATURE_SIGBUS


PROVIDERS: Mapping[str, type[Provider]] = {"sigbus": SigbusProvider}


@dataclass(frozen=True)
class ExitPager(UffdPagerBase):
    """Exit on missing page.

    provider: what makes the exit happen.
    """

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
    def uffd_features(self) -> int:
        """Those of its provider."""
        return PROVIDERS[self.provider].uffd_features

    def check_host(self, kvm: Kvm) -> None:
        """Ask for a userfaultfd, and for the registers that a bare EFAULT leaves the page in."""
        super().check_host(kvm)
        if not kvm.check_extension(kvm_abi.KVM_CAP_SYNC_REGS) & x86_abi.KVM_SYNC_X86_REGS:
            raise HostError("KVM_CAP_SYNC_REGS", "not offered", "use Linux 4.17 or newer")

    def open(self, scene: Scene) -> Supply:
        """Set up for one trial."""
        return ExitSupply(scene, self)


class ExitSupply(Supply):
    """The vCPU threads are the resolvers."""

    def __init__(self, scene: Scene, pager: ExitPager) -> None:
        super().__init__(scene)
        self._shares = UffdShares(scene, pager.uffd_count(scene.work), pager.uffd_features)
        self._undo.callback(self._shares.close)

    def linked_steps(self) -> dict[str, str]:
        """Return the steps: the thread sleeps through its own fetch, and for another's install."""
        fetch = "fetch_sleep" if self.scene.work.fetch_delay_ns else "fetch_now"
        steps = {"fetch": fetch, "lost": "lost_wait", "wake": "wake_losers"}
        return stamped(steps) if self.scene.work.split else steps

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
        if not 0 <= offset < self.scene.work.total_pages * PAGE_BYTES:
            return None
        record.exits_mmio += 1
        code = self.program().call("resolve", record, offset // PAGE_BYTES)
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
