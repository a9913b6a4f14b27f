"""What this host offers kvmpc, what is missing, why, and the remedy.

It tells of the needs that a run checks and makes the rehearsals that a run makes: see
`kvmpc.run.rehearsal`. What depends on something that is missing is not tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kvmpc.errors import HostError
from kvmpc.host.files import Cgroups
from kvmpc.host.headroom import (
    Limit,
    address_limits,
    allowed_cpus,
    file_limits,
    memory_limits,
    thread_limits,
)
from kvmpc.host.numa import usable_nodes
from kvmpc.kernel import cpu_latency
from kvmpc.kernel.kvm import Kvm
from kvmpc.kernel.need import Need
from kvmpc.pagers import Pager, parse_pager
from kvmpc.result.records import TrialResult
from kvmpc.run.defaults import default_pagers
from kvmpc.run.rehearsal import NEEDS, PAGES, rehearse
from kvmpc.trial.signals import Interrupt, interruptible
from kvmpc.units import GIB, PAGE_BYTES, format_cpu_list
from kvmpc.work.work import MAX_VCPUS_DEFAULT, Work

__all__ = ["Probed", "probe"]

_TRIED = ("none", "none,host=populated", "uffd", "uffd,readers=2", "exit")


@dataclass(frozen=True)
class Probed:
    """One thing looked at.

    status: ``yes``, ``no`` (what `needed_for` names cannot run here), ``info``, or ``skip``: not
    tried, since something it depends on is a ``no``.
    detail: what was found; remedy: what to do about a ``no``.
    """

    name: str
    status: str
    needed_for: str
    detail: str
    remedy: str = ""


def probe() -> tuple[Probed, ...]:
    """Look at everything, in an order in which a later thing may depend on an earlier.

    In the main thread only. Raises: Interrupted.
    """
    with interruptible() as interrupt:
        return tuple(_everything(interrupt))


def _everything(interrupt: Interrupt) -> Iterator[Probed]:
    pagers = [parse_pager(spec) for spec in _TRIED]
    missing: dict[Need, Need] = {}  # to what it is for want of
    for need in dict.fromkeys((*NEEDS, *(need for pager in pagers for need in pager.needs))):
        users = [pager.spec for pager in pagers if need in pager.needs]
        needed_for = "everything" if need in NEEDS else ", ".join(users)
        if need.within in missing:
            missing[need] = missing[need.within]
            yield _not_tried(need.name, needed_for, [missing[need]])
            continue
        try:
            yield Probed(need.name, "yes", needed_for, need.check())
        except HostError as error:
            missing[need] = need
            yield Probed(need.name, "no", needed_for, error.reason, error.remedy)
    yield from _limits()
    for pager in pagers:
        name = f"trial of {pager.spec}"
        lacks = [missing[need] for need in (*NEEDS, *pager.needs) if need in missing]
        if lacks:
            yield _not_tried(name, pager.spec, lacks)
        else:
            yield _trial(name, pager, interrupt)


def _not_tried(name: str, needed_for: str, lacks: Sequence[Need]) -> Probed:
    names = ", ".join(dict.fromkeys(need.name for need in lacks))
    return Probed(name, "skip", needed_for, f"not tried: needs {names}")


def _limits() -> Iterator[Probed]:
    """Tell how much there is of what a run takes: it says itself what is too little."""
    for name, limits, unit in (
        ("memory", memory_limits(), "GiB available"),
        ("address space", address_limits(), "GiB can be mapped"),
        ("threads", thread_limits(), "more can be started"),
        ("open files", file_limits(), "more can be opened"),
    ):
        yield Probed(name, "info", "", _tightest(limits, unit))
    yield Probed("placement", "info", "", _placement())
    yield Probed("compare", "info", "", _compared())


def _tightest(limits: Sequence[Limit], unit: str) -> str:
    if not limits:
        return "no limit found"
    least = min(limits, key=lambda limit: limit.left)
    shown = f"{least.left / GIB:.1f}" if unit.startswith("GiB") else str(least.left)
    return f"{shown} {unit} ({least.name})"


def _placement() -> str:
    nodes = usable_nodes()
    try:
        cpu_latency.check()
        held = "can be held"
    except HostError as error:
        held = f"cannot be held: {error.reason}"
    return (
        f"CPUs {format_cpu_list(allowed_cpus())}; "
        f"NUMA nodes {format_cpu_list(nodes) or 'none'}; CPU latency {held}"
    )


def _compared() -> str:
    """Tell what `compare` measures unless told: which uffd is best depends on the CPUs."""
    cpus = allowed_cpus()
    vcpus = min(len(cpus), MAX_VCPUS_DEFAULT)
    work = Work(vcpus=vcpus, mem_per_vcpu_bytes=PAGES * PAGE_BYTES)
    specs = default_pagers(work, cpus, Cgroups().quota_cpus())
    return f"{' '.join(specs)}, with {vcpus} vCPUs, unless told otherwise"


def _trial(name: str, pager: Pager, interrupt: Interrupt) -> Probed:
    work = Work(vcpus=1, mem_per_vcpu_bytes=PAGES * PAGE_BYTES)
    try:
        with Kvm() as kvm:
            result = rehearse(kvm, work, pager, interrupt)
    except HostError as error:
        return Probed(name, "no", pager.spec, f"{error.what}: {error.reason}", error.remedy)
    if result.error is not None:
        remedy = "report this with the output of probe"
        return Probed(name, "no", pager.spec, f"failed: {result.error}", remedy)
    return Probed(name, "yes", pager.spec, f"{PAGES} pages verified{_exit_forms(result)}")


def _exit_forms(result: TrialResult) -> str:
    """Return in which form the exits of a trial named their page."""
    forms = {
        "exits_annotated": "annotated by KVM",
        "exits_registers": "bare EFAULT, page from the guest's registers",
        "exits_mmio": "MMIO",
    }
    seen = [f"{result.counts[name]} {text}" for name, text in forms.items() if result.counts[name]]
    return f"; exits: {', '.join(seen)}" if seen else ""
