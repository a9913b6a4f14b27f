"""Userfaultfds over equal shares of data memory, and the pagers that install through them."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from kvmpc.errors import UsageError
from kvmpc.kernel.kvm import Kvm
from kvmpc.kernel.userfaultfd import Userfaultfd
from kvmpc.loops.records import ResolverRecord
from kvmpc.pagers.pager import Pager, Scene
from kvmpc.pagers.spec import uffds_text
from kvmpc.units import PAGE_BYTES
from kvmpc.work.layout import shares
from kvmpc.work.work import Work

__all__ = ["UffdPagerBase", "UffdShares"]


@dataclass(frozen=True)
class UffdPagerBase(Pager):
    """A pager that installs through userfaultfds.

    uffds: how many, over equal shares of data memory; None = one per vCPU.
    """

    uffds: int | None = 1

    @property
    def uffd_features(self) -> int:
        """Features of the userfaultfds (bits ``UFFD_FEATURE_*``)."""
        return 0

    def check_host(self, kvm: Kvm) -> None:
        """Open and close a userfaultfd as a trial will. Raises: HostError."""
        del kvm
        Userfaultfd(self.uffd_features).close()

    def _texts(self) -> list[tuple[str, str]]:
        texts = dict(super()._texts())
        return list((texts | {"uffds": uffds_text(self.uffds)}).items())

    def uffd_count(self, work: Work) -> int:
        """Return how many userfaultfds this is for `work`."""
        return work.vcpus if self.uffds is None else self.uffds

    def check(self, work: Work) -> None:
        """Refuse shares of less than a page. Raises: UsageError."""
        if self.uffd_count(work) > work.total_pages:
            raise UsageError(
                f"uffds of {self.spec}",
                uffds_text(self.uffds),
                f"at most {work.total_pages}, the pages of guest memory",
            )

    def fd_count(self, work: Work) -> int:
        """Return its userfaultfds."""
        return self.uffd_count(work)


class UffdShares:
    """One userfaultfd for each equal share of data memory, all with the same features.

    `fds` is their array as `ResolverRecord.uffds` points to it. The memory must stay mapped until
    this is closed.
    """

    def __init__(self, scene: Scene, count: int, features: int) -> None:
        self.uffds: list[Userfaultfd] = []
        memory, pages = scene.memory, scene.work.total_pages
        try:
            for first, length in shares(pages, count):
                uffd = Userfaultfd(features)
                self.uffds.append(uffd)
                uffd.register_missing(memory.hva_of_page(first), length * PAGE_BYTES)
        except BaseException:
            self.close()
            raise
        self.fds = (ctypes.c_uint32 * count)(*(uffd.fd for uffd in self.uffds))
        self._pages = pages

    def equip(self, record: ResolverRecord) -> None:
        """Point a record at the userfaultfds; from now on faults in data memory are resolved."""
        record.pages = self._pages
        record.uffds = ctypes.addressof(self.fds)
        record.uffd_count = len(self.fds)

    def unregister(self) -> None:
        """Unregister all, which frees whoever sleeps in a fault there."""
        for uffd in self.uffds:
            uffd.unregister()

    def close(self) -> None:
        """Close all."""
        while self.uffds:
            self.uffds.pop().close()
