"""Userfaultfds over equal shares of data memory: how many, and those of one trial.

`Sharing` is what a pager's ``uffds=`` asks for; `UffdShares` are the userfaultfds at work. Whoever
installs through userfaultfds has one of each.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from kvmpc.errors import UsageError
from kvmpc.kernel.userfaultfd import Userfaultfd
from kvmpc.loops.records import ResolverRecord
from kvmpc.pagers.installs import Install
from kvmpc.pagers.pager import Scene
from kvmpc.pagers.spec import uffds_text
from kvmpc.work.layout import shares
from kvmpc.work.work import Work

__all__ = ["Sharing", "UffdShares"]


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """How a pager shares data memory out to userfaultfds.

    uffds: how many; None = one per vCPU. install: how pages are installed through them.
    features: theirs, ``UFFD_FEATURE_*``. blocking: whether a read of one waits for a message.
    """

    uffds: int | None
    install: Install
    features: int = 0
    blocking: bool = False

    def count(self, work: Work) -> int:
        """Return how many userfaultfds this is for `work`."""
        return work.vcpus if self.uffds is None else self.uffds

    def check(self, spec: str, work: Work) -> None:
        """Refuse shares of less than a page, of the pager `spec`. Raises: UsageError."""
        if self.count(work) > work.total_pages:
            raise UsageError(
                f"uffds of {spec}",
                uffds_text(self.uffds),
                f"at most {work.total_pages}, the pages of guest memory",
            )

    def open(self, scene: Scene) -> UffdShares:
        """Open and register them for one trial. Raises: HostError, KernelError."""
        return UffdShares(scene, self)


class UffdShares:
    """One userfaultfd for each equal share of data memory, all alike.

    `fds` is their array as `ResolverRecord.uffds` points to it. The memory must stay mapped until
    this is closed.
    """

    def __init__(self, scene: Scene, sharing: Sharing) -> None:
        self.uffds: list[Userfaultfd] = []
        work, memory = scene.work, scene.memory
        try:
            for first, pages in shares(work.total_pages, sharing.count(work)):
                uffd = Userfaultfd(sharing.features, blocking=sharing.blocking)
                self.uffds.append(uffd)
                uffd.register(
                    memory.hva_of_page(first),
                    pages * work.unit_bytes,
                    sharing.install.register_mode,
                )
        except BaseException:
            self.close()
            raise
        self.fds = (ctypes.c_uint32 * len(self.uffds))(*(uffd.fd for uffd in self.uffds))
        self._pages = work.total_pages

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
