"""uffd: reader threads take missing pages from userfaultfds and install them by UFFDIO_COPY.

The vCPU sleeps in the kernel until its page is there. The reader is a strong one: it reads up to 16
messages at once without blocking and waits only when there is none.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from kvmpc.abi import epoll as epoll_abi
from kvmpc.abi import poll as poll_abi
from kvmpc.abi import unistd
from kvmpc.abi import userfaultfd as uffd_abi
from kvmpc.kernel import syscalls
from kvmpc.kernel.epoll import EPOLL_PWAIT2
from kvmpc.kernel.need import Need
from kvmpc.kernel.userfaultfd import USERFAULTFD
from kvmpc.loops.records import (
    READ_MESSAGES,
    PendingRecord,
    ReaderRecord,
    RecordArray,
    ResolverRecord,
)
from kvmpc.loops.steps import Steps
from kvmpc.pagers.installs import COPY
from kvmpc.pagers.pager import Pager, Reader, Scene, Supply
from kvmpc.pagers.shares import Sharing
from kvmpc.pagers.spec import Key, choice, number, uffds_key
from kvmpc.work.work import Work

__all__ = ["UffdPager"]

MAX_READERS = 1024


@dataclass(frozen=True)
class UffdPager(Pager):
    """Userfaultfd demand paging.

    readers: reader threads on each userfaultfd.
    uffds: userfaultfds over equal shares of data memory; None = one per vCPU.
    fetch: ``pipelined``, a reader goes on reading while fetches are under way, or ``blocking``, it
        waits for each. The same where pages are at hand.
    """

    readers: int = 1
    uffds: int | None = 1
    fetch: str = "pipelined"

    name: ClassVar[str] = "uffd"
    keys: ClassVar[Mapping[str, Key]] = {
        "readers": number(1, MAX_READERS, 1),
        "uffds": uffds_key(),
        "fetch": choice("pipelined", "blocking"),
    }

    @property
    def sharing(self) -> Sharing:
        """The userfaultfds it reads from and installs through."""
        return Sharing(uffds=self.uffds, install=COPY)

    def check(self, work: Work) -> None:
        """Refuse shares of less than a page. Raises: UsageError."""
        self.sharing.check(self.spec, work)

    @property
    def needs(self) -> tuple[Need, ...]:
        """A userfaultfd, and how several readers wait at one."""
        return (USERFAULTFD, EPOLL_PWAIT2) if self.readers > 1 else (USERFAULTFD,)

    @property
    def smallest(self) -> Self:
        """One userfaultfd; two readers wait otherwise than one does."""
        return replace(self, readers=min(self.readers, 2), uffds=1)

    def reader_count(self, work: Work) -> int:
        """Return how many reader threads it starts."""
        return self.sharing.count(work) * self.readers

    def fd_count(self, work: Work) -> int:
        """Return its userfaultfds, and an epoll fd for each reader that shares one."""
        return self.sharing.count(work) * (1 + (self.readers if self.readers > 1 else 0))

    def open(self, scene: Scene) -> Supply:
        """Set up for one trial."""
        return UffdSupply(scene, self)


class UffdSupply(Supply):
    """The userfaultfds of one trial, with their readers."""

    def __init__(self, scene: Scene, pager: UffdPager) -> None:
        super().__init__(scene)
        self._pager = pager
        self._pipelined = pager.fetch == "pipelined" and self.source.waits
        work, sharing = scene.work, pager.sharing
        with self._undo:
            self._shares = sharing.open(scene)
            self._undo.callback(self._shares.close)
            # A vCPU waits for one page at a time: a ring this large never fills.
            served = work.vcpus
            if not work.overlap:
                served = -(-served // sharing.count(work)) + 1  # whose parts a share may reach into
            ring = 1 << served.bit_length() if self._pipelined else 1
            ring_bytes = ring * ctypes.sizeof(PendingRecord)
            messages_bytes = READ_MESSAGES * ctypes.sizeof(uffd_abi.uffd_msg)
            self._records = self._undo.enter_context(
                RecordArray(
                    ReaderRecord,
                    pager.reader_count(work),
                    tail_bytes=work.unit_bytes + messages_bytes + ring_bytes,
                )
            )
            for index, record in enumerate(self._records.records):
                share, number = divmod(index, pager.readers)
                staging = self._records.tails[index]
                self.equip(record, staging)
                record.messages = record.next = record.end = staging + work.unit_bytes
                record.queue = record.messages + messages_bytes
                record.queue_mask = ring - 1
                self._listen(record, self._shares.uffds[share].fd)
                self.readers.append(Reader(f"reader{share}.{number}", record))
            self._undo = self._undo.pop_all()

    def _listen(self, record: ReaderRecord, fd: int) -> None:
        record.uffd = record.poll_fd = fd
        record.poll_events = poll_abi.POLLIN
        if self._pager.readers == 1:
            return
        # EPOLLEXCLUSIVE: otherwise every fault wakes every reader. Source: epoll_ctl(2).
        record.epoll = syscalls.syscall(
            unistd.SYS_epoll_create1, os.O_CLOEXEC, call="epoll_create1"
        )
        self._undo.callback(syscalls.close_fd, record.epoll)
        event = epoll_abi.epoll_event(events=epoll_abi.EPOLLIN | epoll_abi.EPOLLEXCLUSIVE)
        syscalls.syscall(
            unistd.SYS_epoll_ctl,
            record.epoll,
            epoll_abi.EPOLL_CTL_ADD,
            fd,
            ctypes.addressof(event),
            call="epoll_ctl",
        )

    def equip(self, record: ResolverRecord, staging_hva: int) -> None:
        """Readers resolve; a vCPU's thread only runs its guest, so a fault that comes out fails."""
        super().equip(record, staging_hva)
        if isinstance(record, ReaderRecord):
            self._shares.equip(record)

    def linked_steps(self) -> Steps:
        """Return the steps: a reader waits for a fetch, or reads on; alone, or with others."""
        pager = self._pager
        own = Steps(
            install=pager.sharing.install.step,
            wait="wait_poll" if pager.readers == 1 else "wait_epoll",
        )
        steps = self.source.pipelined(own) if self._pipelined else self.source.blocking(own)
        return steps.stamped() if self.scene.work.split else steps

    def stop(self) -> None:
        """Unregister all: before Linux 6.2 nothing else frees a vCPU asleep in a fault."""
        self._shares.unregister()
