"""What a profile says: samples with their call chains -> where the CPU time of a trial went.

Reads the text of ``perf script -F tid,time,period,event,ip,sym --ns``, of whatever perf version:
one line that names thread, time, period and event, then the chain, the innermost frame first. Which
spin lock a sample waited for is told by the function that took it; `WAITS` is that table. Nothing
here runs perf.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kvmpc.caution import Caution
from kvmpc.result.records import FEWEST_SAMPLES, WAITERS, Profile

__all__ = [
    "SPIN",
    "WAITS",
    "Sample",
    "Wait",
    "Window",
    "cautions",
    "parse",
    "summarise",
    "waiter",
    "waits",
]


TOP_FUNCTIONS = 10
_MAX_UNKNOWN_SHARE = 0.2
_MAX_LOCKDEP_SHARE = 0.02
_CLOCKS = ("cpu-clock", "task-clock")


class Window(NamedTuple):
    """When a thread's samples count: CLOCK_MONOTONIC in ns, both ends included."""

    tid: int
    role: str
    begin_ns: int
    end_ns: int


class Wait(NamedTuple):
    """Functions that take a lock themselves, and whose it is."""

    waiter: str
    functions: re.Pattern[str]
    reason: str


def _wait(waiter: str, functions: str, reason: str) -> Wait:
    return Wait(waiter, re.compile(functions), reason)


WAITS = (
    _wait(
        "mmap_vma",
        r"_*down_(read|write).*|_*up_(read|write).*|rwsem_.*|mmap_(read|write)_lock.*"
        r"|__mmap_lock.*|_*vma_start_.*|lock_vma_under_rcu|lock_mm_and_find_vma|uffd_mfill_lock"
        r"|uffd_lock_vma",
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
        "run_queue",
        r"try_to_wake_up|(sched_)?ttwu_.*|raw_spin_rq_.*|_*task_rq_lock|_*schedule|schedule_tail"
        r"|sched_balance_.*|.*load_balance|newidle_balance|pick_next_task.*|__do_set_cpus_allowed",
        "kernel/sched/core.c: rq->lock and p->pi_lock, of who is woken, and of who goes to sleep: "
        "a whole switch of threads is done under the lock",
    ),
    _wait(
        "userfaultfd",
        r"handle_userfault|userfaultfd_.*|_*wake_userfault|ep_.*|do_epoll_wait",
        "fs/userfaultfd.c: fault_pending_wqh, fault_wqh, event_wqh and fd_wqh, one of each for a "
        "userfaultfd. ep_poll_callback and who waits for it (fs/eventpoll.c): the same message "
        "going on to readers that share it",
    ),
    _wait(
        "mmu_lock",
        r"(kvm_)?(tdp_)?mmu_.*|kvm_tdp_.*|direct_page_fault|(paging(32|64)|ept|nonpaging)_.*"
        r"|_*kvm_(handle_hva|handle_gfn|unmap|zap|age|test_age|mmu).*",
        "arch/x86/kvm/mmu/: kvm->mmu_lock, read for a fault of the TDP MMU, else written; "
        "virt/kvm/kvm_main.c: the MMU notifiers",
    ),
)
"""Only the function that took the lock is looked up, never one that called it: what is in no entry
is nobody's of these, but "other" (page-table locks, memory cgroups, an interrupt's own)."""

_PARAVIRT_WAIT = r"kvm_wait|hv_qlock_wait|xen_qlock_wait|pv_wait.*"

_SLEEPING_LOCK = (
    r"rt_spin_(try)?lock.*|rt_(read|write)_(try)?lock.*|rtlock_slow(try)?lock.*|rtmutex_spin_on_owner"
    r"|_*rt_mutex_slow(try)?lock.*|_*rwbase_(read|write)_(try)?lock.*|task_blocks_on_rt_mutex"
    r"|rt_mutex_adjust_prio_chain"
)

SPIN = re.compile(
    r"(native_|__pv_|resilient_)?queued_spin_lock_slowpath|queued_(read|write)_lock_slowpath"
    r"|_*(do_)?raw_(spin|read|write)_(try)?lock.*|virt_spin_lock"
    r"|rwsem_(spin_on_owner|optimistic_spin)|osq_lock|mutex_(spin_on_owner|optimistic_spin)"
    rf"|{_PARAVIRT_WAIT}|{_SLEEPING_LOCK}"
)
"""Where a thread spins, or takes a lock: `_raw_spin_lock` itself is the wait for its cache line.

Source: kernel/locking/: qspinlock.c, qspinlock_paravirt.h (with kernel/kvm.c, hv_spinlock.c and
xen/spinlock.c under arch/x86: what a guest does instead of spinning), spinlock_debug.c
(`do_raw_spin_lock`), spinlock_rt.c and rtmutex.c (PREEMPT_RT: spinlock_t is a lock that spins on
its running owner and sleeps otherwise; asleep, a thread is in no sample). Of lockdep nothing: its
book-keeping (`lock_acquire`) is no wait.
"""

_HALTED = re.compile(_PARAVIRT_WAIT)
"""What these call is the wait too: the instruction, or the hypercall, that gives the CPU away."""

_INTERRUPT = re.compile(
    r"asm_(sysvec|common_interrupt|exc_nmi).*|_*(sysvec|common_interrupt).*|_*irq_exit.*"
    r"|handle_softirqs|__do_softirq"
)

_IRQS_ON = re.compile(r"_*raw_(spin|read|write)_unlock_irq.*|finish_task_switch")
"""Where interrupts come on again after a lock: an interrupt that had to wait is taken there.

`finish_task_switch` gives back the run queue's lock, under which a thread went to sleep and the
next one was chosen. In a kernel that is not preemptible `spin_unlock_irq` is inlined
(kernel/Kconfig.locks): there such time shows in whoever gave the lock back, and is not told apart.
"""

_QUEUE_HELPER = re.compile(r"__wake_up.*|_*(add|remove)_wait_queue.*|prepare_to_wait.*|finish_wait")
"""kernel/sched/wait.c: these take the lock of the wait queue that they were given."""

_LOCKDEP = re.compile(
    r"_*lock_(acquire|acquired|release|contended|is_held.*)|lockdep_.*|validate_chain|mark_lock.*"
    r"|check_(prev_add|noncircular|irq_usage)|lookup_chain_cache.*|register_lock_class"
    r"|(match|find)_held_lock|hlock_.*"
)
"""kernel/locking/lockdep.c."""

_HEAD = re.compile(
    r"\s*(?:\d+/)?(\d{1,10})\s+(\d{1,12})\.(\d{6,9}):\s+(\d{1,19})\s+"
    r"(\S+?):(?:[a-zA-Z]+:)?\s*(.*)"
)
_FRAME = re.compile(r"\s+([0-9a-f]{1,16})\s+(.+?)\s*")
_UNKNOWN = "[unknown]"


@dataclass(frozen=True)
class Sample:
    """One sample: `weight` is its period, `frames` the chain of (address, function), leaf first.

    time_ns: of the clock that perf was told to stamp with. A sample of the guest has no frames.
    """

    tid: int
    time_ns: int
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
            time_ns = int(head[2]) * 10**9 + int(head[3].ljust(9, "0"))
            yield Sample(int(head[1]), time_ns, int(head[4]), head[5], tuple(frames))

    for line in lines:
        frame = _FRAME.fullmatch(line.rstrip("\n"))
        begin = _HEAD.fullmatch(line.rstrip("\n"))
        if begin is not None:
            yield from done()
            head, frames = begin, []
            # Without a chain some versions put the address behind the event.
            frame = _FRAME.fullmatch(" " + begin[6])
        if frame is not None and head is not None:
            frames.append((int(frame[1], 16), _plain(frame[2])))
    yield from done()


def _plain(function: str) -> str:
    """Return a function's name without what compilers add: ``.isra.0``, ``.constprop.0``."""
    name = function.removesuffix("(inlined)").strip()
    return name if name.startswith("[") else name.split(".")[0]


def waits(frames: Sequence[tuple[int, str]]) -> bool:
    """Return whether the innermost frames are a wait for a spin lock."""
    functions = [function for address, function in frames if address >> 63]
    if functions and SPIN.fullmatch(functions[0]):
        return True
    for function in functions:
        if _INTERRUPT.fullmatch(function):
            return False
        if _HALTED.fullmatch(function):
            return True
    return False


def waiter(frames: Iterable[tuple[int, str]]) -> str:
    """Return whose lock the innermost frames are about: a key of `WAITERS`.

    The first function that is no lock's own took it, and decides.
    """
    functions = [function for address, function in frames if address >> 63]
    halted = [at for at, function in enumerate(functions) if _HALTED.fullmatch(function)]
    for function in functions[halted[0] if halted else 0 :]:
        if not any(own.fullmatch(function) for own in (SPIN, _IRQS_ON, _QUEUE_HELPER)):
            return next((w.waiter for w in WAITS if w.functions.fullmatch(function)), "other")
    # rwsem_spin_on_owner and osq_lock (from rwsem_optimistic_spin) may be all there is.
    return "other"


def summarise(
    samples: Iterable[Sample], windows: Iterable[Window], *, frequency_hz: int, trials: int = 1
) -> Profile | None:
    """Return where the time of the threads of `windows` went inside them; None without samples.

    trials: of how many trials these are.
    """
    own: dict[int, list[Window]] = {}
    for window in windows:
        own.setdefault(window.tid, []).append(window)
    weights: Counter[str] = Counter()
    spins: Counter[str] = Counter(dict.fromkeys(WAITERS, 0))
    hidden: Counter[str] = Counter(dict.fromkeys(WAITERS, 0))
    modes: Counter[str] = Counter()
    by_role: Counter[str] = Counter()
    event, number, squares, unknown = "", 0, 0, 0
    for sample in samples:
        role = _role(sample, own.get(sample.tid, ()))
        if role is None:
            continue
        number, event = number + 1, sample.event
        squares += sample.weight**2
        function = sample.function
        weights[function] += sample.weight
        modes[sample.mode] += sample.weight
        by_role[role] += sample.weight
        if sample.mode == "kernel":
            unknown += sample.weight * (function == _UNKNOWN)
            if waits(sample.frames):
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
        trials=trials,
        # L. Kish's: cycles begin with periods of 1 until perf has found one that fits.
        effective_samples=total**2 // squares,
    )


def _role(sample: Sample, windows: Iterable[Window]) -> str | None:
    """Return the role of a sample's thread; None where it was taken outside of its windows."""
    return next((w.role for w in windows if w.begin_ns <= sample.time_ns <= w.end_ns), None)


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
    lockdep = sum(share for name, share in profile.top.items() if _LOCKDEP.fullmatch(name))
    if lockdep > _MAX_LOCKDEP_SHARE:
        found.append(
            Caution(
                "profile-lockdep",
                f"lockdep took {lockdep:.0%} of the profile's time or more, for its book-keeping "
                "of locks; that is counted as no wait, and every share is one of a debug kernel",
                "profile a kernel without CONFIG_PROVE_LOCKING and CONFIG_LOCK_STAT",
            )
        )
    if not profile.tells:
        found.append(
            Caution(
                "profile-short",
                f"{profile.weight} samples are too few for a profile's shares, which take "
                f"{FEWEST_SAMPLES}",
                "give each vCPU more pages (--mem-per-vcpu)",
            )
        )
    return found
