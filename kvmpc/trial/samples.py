"""What a profile says: samples with their call chains -> where the CPU time of a trial went.

Reads the text of ``perf script -F tid,period,event,ip,sym``, of whatever perf version: one line
that names thread, period and event, then the chain, the innermost frame first. Which spin lock a
sample waited for is told by the functions above it; `WAITS` is that table. Nothing here runs perf.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from kvmpc.caution import Caution
from kvmpc.result.records import WAITERS, Profile

__all__ = ["SPIN", "WAITS", "Sample", "Wait", "cautions", "parse", "summarise", "waiter"]


TOP_FUNCTIONS = 10
_FEW_SAMPLES = 200
_MAX_UNKNOWN_SHARE = 0.2
_CLOCKS = ("cpu-clock", "task-clock")


class Wait(NamedTuple):
    """Functions whose lock it is when one of them is the first to be found above a spin wait."""

    waiter: str
    functions: re.Pattern[str]
    reason: str


def _wait(waiter: str, functions: str, reason: str) -> Wait:
    return Wait(waiter, re.compile(functions), reason)


WAITS = (
    _wait(
        "mmap_vma",
        r"down_(read|write).*|rwsem_.*|mmap_(read|write)_lock.*|__mmap_lock.*|vma_start_.*"
        r"|lock_vma_under_rcu|lock_mm_and_find_vma|uffd_mfill_lock|uffd_lock_vma",
        "include/linux/mmap_lock.h: mmap_lock is a rwsem, and a VMA's lock was one up to 6.14. "
        "The others that these threads take belong to the address space too: map_changing_lock of "
        "a userfaultfd (mm/userfaultfd.c, 6.9)",
    ),
    _wait(
        "page_allocator",
        r"get_page_from_freelist|_*rmqueue.*|_*alloc_(pages|frozen_pages).*|vma_alloc_folio.*"
        r"|free_(unref|pcppages|frozen|one_page).*|_*free_(pages|pages_ok).*|drain_(zone_)?pages.*",
        "mm/page_alloc.c: zone->lock and the per-CPU lists' lock",
    ),
    _wait(
        "other",
        r"mfill_.*|do_(anonymous|fault|swap|wp).*|_*handle_(mm|pte)_fault|follow_.*|_*pte_.*"
        r"|gup_.*|_*get_user_pages.*|try_to_unmap.*",
        "mm/memory.c, mm/gup.c: page-table locks (pte_offset_map_lock), a page-table page's own",
    ),
    _wait(
        "other",
        r".*mem_?cgroup.*|.*memcg.*|.*lru.*|folio_batch.*|_*slab.*|kmem_cache_.*|_*kmalloc.*"
        r"|___slab.*",
        "mm/memcontrol.c, mm/swap.c, mm/slub.c: charging, the LRU lists and the slab allocator",
    ),
    _wait(
        "other",
        r"try_to_wake_up|ttwu_.*|raw_spin_rq_.*|_*schedule|.*sched_.*|hrtimer_.*|futex_.*"
        r"|do_futex|do_nanosleep",
        "kernel/sched/core.c: run queues, whoever is woken or goes to sleep; timers and futexes",
    ),
    _wait(
        "userfaultfd",
        r"handle_userfault|userfaultfd_.*|_*wake_userfault|ep_.*",
        "fs/userfaultfd.c: fault_pending_wqh, fault_wqh, event_wqh and fd_wqh, one of each for a "
        "userfaultfd. __wake_up and the like are called with or take that lock. ep_poll_callback "
        "(fs/eventpoll.c): the same message going on to readers that share it",
    ),
    _wait(
        "mmu_lock",
        r"(kvm_)?(tdp_)?mmu_.*|kvm_tdp_.*|direct_page_fault|(paging(32|64)|ept|nonpaging)_.*"
        r"|_*kvm_(handle_hva|handle_gfn|unmap|zap|age|test_age|mmu).*",
        "arch/x86/kvm/mmu/: kvm->mmu_lock, read for a fault of the TDP MMU, else written; "
        "virt/kvm/kvm_main.c: the MMU notifiers",
    ),
)
"""Read from the innermost frame outwards: the first function that is in the table decides."""

SPIN = re.compile(
    r"(native_|__pv_)?queued_spin_lock_slowpath|queued_(read|write)_lock_slowpath"
    r"|_raw_(spin|read|write)_(try)?lock.*|rwsem_(spin_on_owner|optimistic_spin)|osq_lock"
    r"|mutex_(spin_on_owner|optimistic_spin)|kvm_wait|pv_wait.*"
)
"""Where a thread spins. Source: kernel/locking/. `_raw_spin_lock` itself: the lock's cache line."""

_IRQS_ON = re.compile(r"_raw_(spin|read|write)_unlock_irq.*")
"""Where interrupts come on again after a lock: an interrupt that had to wait is taken there."""

_HEAD = re.compile(r"\s*(?:\d+/)?(\d{1,10})\s+(\d{1,19})\s+(\S+?):(?:[a-zA-Z]+:)?\s*(.*)")
_FRAME = re.compile(r"\s+([0-9a-f]{1,16})\s+(.+?)\s*")
_UNKNOWN = "[unknown]"


@dataclass(frozen=True)
class Sample:
    """One sample: `weight` is its period, `frames` the chain of (address, function), leaf first.

    A sample of the guest has no frames.
    """

    tid: int
    weight: int
    event: str
    frames: tuple[tuple[int, str], ...]

    @property
    def function(self) -> str:
        """The function it was taken in; a compiler's suffix is not part of its name."""
        return self.frames[0][1] if self.frames else "(guest)"

    @property
    def mode(self) -> str:
        """guest, kernel, or user."""
        if not self.frames:
            return "guest"
        return "kernel" if self.frames[0][0] >> 63 else "user"


def parse(lines: Iterable[str]) -> Iterator[Sample]:
    """Yield every sample of perf script's text; what is no sample is passed over."""
    head: re.Match[str] | None = None
    frames: list[tuple[int, str]] = []

    def done() -> Iterator[Sample]:
        if head is not None:
            yield Sample(int(head[1]), int(head[2]), head[3], tuple(frames))

    for line in lines:
        frame = _FRAME.fullmatch(line.rstrip("\n"))
        begin = _HEAD.fullmatch(line.rstrip("\n"))
        if begin is not None:
            yield from done()
            head, frames = begin, []
            # Without a chain some versions put the address behind the event.
            frame = _FRAME.fullmatch(" " + begin[4])
        if frame is not None and head is not None:
            frames.append((int(frame[1], 16), _plain(frame[2])))
    yield from done()


def _plain(function: str) -> str:
    """Return a function's name without what compilers add: ``.isra.0``, ``.constprop.0``."""
    name = function.removesuffix("(inlined)").strip()
    return name if name.startswith("[") else name.split(".")[0]


def waiter(frames: Iterable[tuple[int, str]]) -> str:
    """Return whose lock the innermost frames are about: a key of `WAITERS`."""
    for address, function in frames:
        if address >> 63 and not SPIN.fullmatch(function) and not _IRQS_ON.fullmatch(function):
            for wait in WAITS:
                if wait.functions.fullmatch(function):
                    return wait.waiter
    # rwsem_spin_on_owner and osq_lock (from rwsem_optimistic_spin) may be all there is.
    return "other"


def summarise(
    samples: Iterable[Sample], roles: Mapping[int, str], *, frequency_hz: int
) -> Profile | None:
    """Return where the time of the threads in `roles` (tid -> role) went; None without samples."""
    weights: Counter[str] = Counter()
    spins: Counter[str] = Counter(dict.fromkeys(WAITERS, 0))
    hidden: Counter[str] = Counter(dict.fromkeys(WAITERS, 0))
    modes: Counter[str] = Counter()
    by_role: Counter[str] = Counter()
    event, number, unknown = "", 0, 0
    for sample in samples:
        role = roles.get(sample.tid)
        if role is None:
            continue
        number, event = number + 1, sample.event
        function = sample.function
        weights[function] += sample.weight
        modes[sample.mode] += sample.weight
        by_role[role] += sample.weight
        if sample.mode == "kernel":
            unknown += sample.weight * (function == _UNKNOWN)
            if SPIN.fullmatch(function):
                spins[waiter(sample.frames)] += sample.weight
            elif event in _CLOCKS and _IRQS_ON.fullmatch(function):
                hidden[waiter(sample.frames)] += sample.weight
    total = sum(weights.values())
    if not total:
        return None
    named = modes["kernel"] > 0 and unknown <= _MAX_UNKNOWN_SHARE * modes["kernel"]
    return Profile(
        event=event,
        frequency_hz=frequency_hz,
        samples=number,
        modes=_shares(modes, total),
        roles=_shares(by_role, total),
        spin=_shares(spins, total) if named else {},
        irqs_off=_shares(hidden, total) if named and event in _CLOCKS else {},
        top=_shares(dict(weights.most_common(TOP_FUNCTIONS)), total),
    )


def _shares(weights: Mapping[str, int], total: int) -> dict[str, float]:
    return {name: weight / total for name, weight in weights.items()}


def cautions(profile: Profile) -> list[Caution]:
    """Return what weakens `profile`, each with a remedy."""
    found = []
    if not profile.spin:
        found.append(
            Caution(
                "profile-no-symbols",
                "the profile's kernel addresses have no names: no share of spin locks",
                "sysctl kernel.kptr_restrict=0 (or 1, as root)",
            )
        )
    elif profile.event in _CLOCKS:
        found.append(
            Caution(
                "profile-clock",
                f"there is no PMU, so {profile.event} was sampled: it sees nothing while "
                "interrupts are off, as they are when a userfaultfd's queues are locked or waited "
                "for",
                "profile on a host whose PMU can be used (cycles)",
            )
        )
    if profile.samples < _FEW_SAMPLES:
        found.append(
            Caution(
                "profile-short",
                f"the profile has only {profile.samples} samples",
                "give each vCPU more pages (--mem-per-vcpu)",
            )
        )
    return found
