"""uffd: reader threads take missing pages from userfaultfds and install them by UFFDIO_COPY.

The vCPU sleeps in the kernel until its page is there. How a reader waits when a read has found no
message is the key ``wait``: each value is a variant of the step `wait` (loops/x86_64/wait.asm).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Self

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
from kvmpc.loops.steps import Steps, Wait
from kvmpc.loops.tsc import host_cycles_per_ns
from kvmpc.pagers.installs import COPY
from kvmpc.pagers.pager import Pager, Reader, Scene, Supply
from kvmpc.pagers.shares import Sharing
from kvmpc.pagers.spec import DEFAULT_SPIN, Key, choice, duration, number, uffds_key
from kvmpc.units import parse_duration_ns
from kvmpc.work.work import Work

__all__ = ["UffdPager"]

MAX_READERS = 1024
MAX_DRAIN = 1024

_ALONE: Final[Mapping[str, Wait]] = {
    "epoll": "wait_poll",
    "poll": "wait_poll",
    "read": "wait_read",
    "spin": "wait_spin",
    "adaptive": "wait_adaptive_poll",
}
_TOGETHER: Final[Mapping[str, Wait]] = {
    **_ALONE,
    "epoll": "wait_epoll",
    "adaptive": "wait_adaptive_epoll",
}
"""The variant of the step `wait` for each value of the key, where readers share a userfaultfd.

With nobody beside it that a message could wake, a reader is spared the epoll.
"""


@dataclass(frozen=True)
class UffdPager(Pager):
    """Userfaultfd demand paging.

    readers: reader threads on each userfaultfd.
    uffds: userfaultfds over equal shares of data memory; None = one per vCPU.
    fetch: ``pipelined``, a reader goes on reading while fetches are under way, or ``blocking``, it
        waits for each. The same where pages are at hand.
    wait: what a reader does when there is no message. ``epoll``, it sleeps, and a message wakes one
        reader (EPOLLEXCLUSIVE); ``poll``, every reader; ``read``, it sleeps in read(2), and a
        message wakes every reader there; ``spin``, it never sleeps; ``adaptive``, it spins for
        `spin` nanoseconds and then sleeps as with ``epoll``.
    drain: messages that it takes in one read.
    """

    readers: int = 1
    uffds: int | None = 1
    fetch: str = "pipelined"
    wait: str = "epoll"
    spin: int = parse_duration_ns(DEFAULT_SPIN, "spin")
    drain: int = READ_MESSAGES

    name: ClassVar[str] = "uffd"
    keys: ClassVar[Mapping[str, Key]] = {
        "readers": number(1, MAX_READERS, 1),
        "uffds": uffds_key(),
        "fetch": choice("pipelined", "blocking"),
        "wait": choice("epoll", "poll", "read", "spin", "adaptive"),
        "spin": duration("1us", "1s", DEFAULT_SPIN),
        "drain": number(1, MAX_DRAIN, READ_MESSAGES),
    }

    @property
    def sharing(self) -> Sharing:
        """The userfaultfds it reads from and installs through."""
        return Sharing(uffds=self.uffds, install=COPY, blocking=self.wait == "read")

    @property
    def wait_step(self) -> Wait:
        """The variant of the step `wait` that its readers link."""
        return (_ALONE if self.readers == 1 else _TOGETHER)[self.wait]

    @property
    def needs_epoll(self) -> bool:
        """Whether each of its readers has an epoll fd."""
        return self.wait_step in ("wait_epoll", "wait_adaptive_epoll")

    def check(self, work: Work) -> None:
        """Refuse shares of less than a page as well. Raises: UsageError."""
        super().check(work)
        self.sharing.check(self.spec, work)

    @property
    def needs(self) -> tuple[Need, ...]:
        """A userfaultfd, and how one of several readers is woken."""
        return (USERFAULTFD, EPOLL_PWAIT2) if self.needs_epoll else (USERFAULTFD,)

    @property
    def smallest(self) -> Self:
        """One userfaultfd; two readers wait otherwise than one does."""
        return replace(self, readers=min(self.readers, 2), uffds=1)

    def reader_count(self, work: Work) -> int:
        """Return how many reader threads it starts."""
        return self.sharing.count(work) * self.readers

    def fd_count(self, work: Work) -> int:
        """Return its userfaultfds, and the readers' epoll fds."""
        return self.sharing.count(work) * (1 + (self.readers if self.needs_epoll else 0))

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
            messages_bytes = pager.drain * ctypes.sizeof(uffd_abi.uffd_msg)
            spin_cycles = 0
            if pager.wait == "adaptive":
                spin_cycles = round(pager.spin * host_cycles_per_ns())
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
                record.read_bytes = messages_bytes
                record.spin_cycles = spin_cycles
                record.queue = record.messages + messages_bytes
                record.queue_mask = ring - 1
                self._listen(record, self._shares.uffds[share].fd)
                self.readers.append(Reader(f"reader{share}.{number}", record))
            self._undo = self._undo.pop_all()

    def _listen(self, record: ReaderRecord, fd: int) -> None:
        record.uffd = record.poll_fd = fd
        record.poll_events = poll_abi.POLLIN
        if not self._pager.needs_epoll:
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
        """Return the steps: a reader waits for a fetch, or reads on; and how it waits."""
        own = Steps(install=self._pager.sharing.install.step, wait=self._pager.wait_step)
        steps = self.source.pipelined(own) if self._pipelined else self.source.blocking(own)
        return steps.stamped() if self.scene.work.split else steps

    def stop(self) -> None:
        """Unregister all: before Linux 6.2 nothing else frees a vCPU asleep in a fault."""
        self._shares.unregister()
