"""What a trial of ``bench/soak.py`` is: pager, work, and how it is to end, drawn at random.

A fault is put in through `TrialHooks`, or straight into the records; the trial has to fail with the
error that stands beside it.
"""

from __future__ import annotations

import ctypes
import random
import resource
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kvmpc.pagers import Pager, parse_pager
from kvmpc.pagers.pager import Supply
from kvmpc.trial.rig import NO_HOOKS, Rig, TrialHooks
from kvmpc.trial.seats import Seat
from kvmpc.trial.watchdog import WATCHDOG_S
from kvmpc.units import PAGE_BYTES
from kvmpc.work.placement import Placement
from kvmpc.work.work import ACCESSES, ORDERS, Work

__all__ = ["Draw", "draw"]

_PATIENT_S = 12 * WATCHDOG_S
_HASTY_S = 0.2

# Faults. Each takes what its moment of `TrialHooks` offers.


def _claimed(supply: Supply) -> None:
    """As if somebody had begun to fetch a page that is touched, and had never come back."""
    scene = supply.scene
    page = scene.layout.touched_page(scene.work.vcpus - 1, 0)
    byte = ctypes.c_uint8.from_address(scene.bitmap.claimed_address + page // 8)
    byte.value |= 1 << page % 8


def _no_reader(supply: Supply) -> None:
    supply.readers.clear()


def _no_uffd(supply: Any) -> None:
    """Install through what is no userfaultfd."""
    fds = supply._shares.fds
    for index in range(len(fds)):
        fds[index] = supply.scene.vm.fd


def _blind(supply: Supply) -> None:
    for reader in supply.readers:
        reader.record.uffd = 0xFFFFFFFF


def _no_fds(_: object) -> None:
    """Allow no further descriptor; the trial's end allows them again."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def _no_cpu(rig: Rig) -> None:
    rig.vcpus[-1].seat = Seat(frozenset({8191}))


def _raises(supply: Any) -> None:
    def before_ready(vcpu: int) -> int:
        raise RuntimeError(f"injected {vcpu}")

    supply.before_ready = before_ready


def _astray(rig: Rig) -> None:
    rig.guest.record(0).part = 1 << 46


def _other_tags(rig: Rig) -> None:
    rig.guest.record(0).tag_seed += 1


def _short(rig: Rig) -> None:
    rig.guest.record(0).touched -= 1


_SILENT = rf"no page arrived for {_HASTY_S:g} s; waiting: vcpu"
_FAULTS: dict[str, tuple[str, Callable[[Any], None], str, tuple[str, ...]]] = {
    # name: (moment, what is done, the error that it must give, pagers)
    "claimed": ("on_supply", _claimed, _SILENT, ("uffd", "exit")),
    "no-reader": ("on_supply", _no_reader, _SILENT, ("uffd",)),
    "no-uffd": ("on_supply", _no_uffd, r"UFFDIO_COPY of page \d+: E", ("uffd", "exit")),
    "blind": ("on_supply", _blind, r"^reader\d+\.\d+: READ: EBADF", ("uffd",)),
    "no-fds": ("on_scene", _no_fds, "EMFILE", ("none", "uffd", "exit")),
    "no-cpu": ("on_rig", _no_cpu, "sched_setaffinity to CPUs", ("none", "uffd", "exit")),
    "raises": ("on_supply", _raises, r"died: RuntimeError\('injected", ("none", "uffd", "exit")),
    "astray": ("on_rig", _astray, "^vcpu0: exception #PF", ("none", "uffd", "exit")),
    "other-tags": ("on_rig", _other_tags, "^vcpu0 found a wrong tag", ("uffd", "exit")),
    "short": ("before_verify", _short, r"^vcpu0 touched \d+ of \d+", ("none", "uffd", "exit")),
}
_NEVER_ENDS = ("claimed", "no-reader")


@dataclass(frozen=True)
class Draw:
    """One trial as drawn. stop_s: when it is asked to end; fault: a key of _FAULTS."""

    pager: Pager
    work: Work
    stop_s: float | None
    fault: str | None

    @property
    def watchdog_s(self) -> float:
        """A fault that only the watchdog ends has a short one, unless it is to be stopped first."""
        return _HASTY_S if self.never_ends and self.stop_s is None else _PATIENT_S

    @property
    def never_ends(self) -> bool:
        """Whether a page never comes."""
        return self.fault in _NEVER_ENDS

    @property
    def hooks(self) -> TrialHooks:
        """Return what puts the fault in."""
        if self.fault is None:
            return NO_HOOKS
        moment, do, *_ = _FAULTS[self.fault]
        return TrialHooks(**{moment: do})

    @property
    def expected(self) -> str:
        """A pattern of the error that the fault has to give."""
        return "" if self.fault is None else _FAULTS[self.fault][2]

    def __str__(self) -> str:
        plain = Work(vcpus=1, mem_per_vcpu_bytes=PAGE_BYTES)
        work = [f"{k}={v}" for k, v in vars(self.work).items() if v != getattr(plain, k)]
        stop = None if self.stop_s is None else f"stop after {self.stop_s * 1000:.1f} ms"
        return "; ".join(filter(None, [self.pager.spec, " ".join(work), self.fault, stop]))


def draw(seed: int, number: int) -> Draw:
    """Return trial `number` of `seed`: mostly small, so that thousands fit into half an hour."""
    of = random.Random(f"{seed} {number}")
    vcpus = round(160 ** (of.random() ** 3))
    overlap = of.random() < 0.3
    pages = of.randint(1, 600 if overlap else max(1, 1500 // vcpus))
    pager = _draw_pager(of, vcpus, pages if overlap else pages * vcpus)
    total = pages if overlap else pages * vcpus
    delay_ns = round(10 ** of.uniform(3, 6)) if of.random() < 0.3 else 0
    work = Work(
        vcpus=vcpus,
        mem_per_vcpu_bytes=pages * PAGE_BYTES,
        touch_pages=of.randint(1, pages) if of.random() < 0.25 else None,
        order=of.choice(ORDERS),
        access="write" if pager.spec == "none" else of.choice(ACCESSES),
        overlap=overlap,
        seed=of.getrandbits(32),
        fetch_delay_ns=min(delay_ns, 50_000_000 // total),
        passes=of.randint(2, 4) if of.random() < 0.2 else 1,
        timeline=of.random() < 0.3,
        split=not overlap and of.random() < 0.2,
        placement=Placement(pin=of.random() < 0.1),
    )
    kind, stop_s, fault = of.random(), None, None
    if kind < 0.25:
        stop_s = 10 ** of.uniform(-4, -0.5)
    fitting = [name for name, (*_, pagers) in _FAULTS.items() if pager.name in pagers]
    if kind < 0.1:
        fitting = [name for name in fitting if name in _NEVER_ENDS]
    if fitting and (kind < 0.1 or 0.25 < kind < 0.45):
        fault = of.choice(fitting)
    return Draw(pager, work, stop_s, fault)


def _draw_pager(of: random.Random, vcpus: int, pages: int) -> Pager:
    if of.random() < 0.2:
        return parse_pager(of.choice(("none", "none,host=populated")))
    shares = vcpus if pages >= vcpus else 1
    uffds = of.choice(("1", str(of.randint(1, shares)), "per-vcpu" if shares == vcpus else "1"))
    if of.random() < 0.5:
        return parse_pager(f"exit,uffds={uffds}")
    fetch = of.choice(("pipelined", "blocking"))
    # A reader asleep in read(2) does not wake for a page that comes in meanwhile.
    waits = ["epoll", "poll", "spin", "adaptive", *["read"] * (fetch == "blocking")]
    return parse_pager(
        f"uffd,uffds={uffds},readers={of.choice((1, 1, 2, 3))},fetch={fetch},"
        f"wait={of.choice(waits)},drain={of.choice((1, 16))}"
    )
