"""What this host offers kvmpc, what is missing, why, and the remedy.

It asks the kernel, and believes what it sees it do rather than a version: each pager that could
work is tried on a guest of one vCPU and a few pages.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import resource
import select
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kvmpc.abi import kvm as kvm_abi
from kvmpc.abi import kvm_x86, unistd
from kvmpc.abi import userfaultfd as uffd_abi
from kvmpc.errors import HostError, KernelError
from kvmpc.host.facts import second_level_paging
from kvmpc.host.headroom import allowed_cpus, memory_available_bytes, thread_headroom
from kvmpc.host.numa import usable_nodes
from kvmpc.kernel import cpu_latency, syscalls
from kvmpc.kernel.kvm import KVM_PATH, Kvm
from kvmpc.kernel.userfaultfd import query_features
from kvmpc.pagers import parse_pager
from kvmpc.result.records import TrialResult
from kvmpc.trial.signals import Interrupt, interruptible
from kvmpc.trial.trial import run_trial
from kvmpc.units import GIB, PAGE_BYTES, format_cpu_list
from kvmpc.work.work import Work

__all__ = ["Probed", "probe"]

_TRIED = ("none", "none,host=populated", "uffd", "uffd,readers=2", "exit")
_TRIED_PAGES = 23


@dataclass(frozen=True)
class Probed:
    """One thing looked at.

    status: ``yes``, ``no`` (what `needed_for` names cannot run here), or ``info``.
    detail: what was found; remedy: what to do about a ``no``.
    """

    name: str
    status: str
    needed_for: str
    detail: str
    remedy: str = ""


def _try(name: str, needed_for: str, ask: Callable[[], str]) -> Probed:
    """Return what `ask` finds; a host that cannot, or a kernel that refuses, is a no."""
    try:
        return Probed(name, "yes", needed_for, ask())
    except HostError as error:
        return Probed(name, "no", needed_for, error.reason, error.remedy)
    except KernelError as error:
        return Probed(name, "no", needed_for, str(error), "see dmesg")


def probe() -> tuple[Probed, ...]:
    """Look at everything, in an order in which a later thing may depend on an earlier.

    In the main thread only. Raises: Interrupted.
    """
    with interruptible() as interrupt:
        return tuple(_everything(interrupt))


def _everything(interrupt: Interrupt) -> Iterator[Probed]:
    yield _try("machine", "everything", _machine)
    yield _try("assembler", "everything", _assembler)
    opened = _try(KVM_PATH, "everything", _kvm_version)
    yield opened
    usable = opened.status == "yes"
    if usable:
        with Kvm() as kvm:
            for probed in _of_kvm(kvm):
                usable &= probed.status != "no"
                yield probed
    yield _try("userfaultfd", "uffd, exit", _userfaultfd)
    yield _try("UFFD_FEATURE_SIGBUS", "exit", _sigbus)
    yield _try("epoll_pwait2", "uffd with readers > 1", _epoll_pwait2)
    yield Probed("memory", "info", "", f"{memory_available_bytes() / GIB:.1f} GiB available")
    yield Probed("threads", "info", "", _threads())
    yield Probed("open files", "info", "", _files())
    yield Probed("placement", "info", "", _placement())
    if usable:
        with Kvm() as kvm:
            for spec in _TRIED:
                yield _try(f"trial of {spec}", spec, lambda spec=spec: _trial(kvm, spec, interrupt))  # type: ignore[misc]


def _machine() -> str:
    machine, release = platform.machine(), platform.release()
    if platform.system() != "Linux" or machine != "x86_64":
        raise HostError(
            "machine",
            f"{platform.system()} on {machine}",
            "kvmpc's loops and guest are x86-64 code: use an x86-64 Linux host",
        )
    return f"{machine}, Linux {release}"


def _assembler() -> str:
    try:
        import keystone  # 60 to 150 ms, which only this check should cost
    except ImportError as error:
        raise HostError(
            "keystone-engine", f"cannot be imported ({error})", "pip install keystone-engine"
        ) from error
    return f"keystone {keystone.__version__}"


def _kvm_version() -> str:
    paging = second_level_paging() or "unknown"
    with Kvm() as kvm:
        vcpus = kvm.max_vcpus()
    return f"API {kvm_abi.KVM_API_VERSION}, up to {vcpus} vCPUs, second-level paging: {paging}"


_CAPABILITIES = (
    ("KVM_CAP_USER_MEMORY", 1, "everything", "2.6.28"),
    ("KVM_CAP_SYNC_REGS", kvm_x86.KVM_SYNC_X86_REGS, "exit", "4.17"),
    ("KVM_CAP_IMMEDIATE_EXIT", 1, "everything", "4.11"),
)


def _of_kvm(kvm: Kvm) -> Iterator[Probed]:
    for name, wanted, needed_for, since in _CAPABILITIES:
        value = kvm.check_extension(getattr(kvm_abi, name))
        if value & wanted:
            yield Probed(name, "yes", needed_for, f"value {value:#x}")
        else:
            yield Probed(name, "no", needed_for, "not offered", f"use Linux {since} or newer")
    cpuid = kvm.supported_cpuid()
    pages = "1 GiB" if cpuid.has_1g_pages else "2 MiB"
    yield Probed(
        "guest mappings",
        "info",
        "",
        f"{pages} pages, {cpuid.physical_address_bits} physical address bits",
    )


def _userfaultfd() -> str:
    return f"kernel faults handled, features {query_features():#x}"


def _sigbus() -> str:
    if not query_features() & uffd_abi.UFFD_FEATURE_SIGBUS:
        raise HostError("UFFD_FEATURE_SIGBUS", "not offered", "use Linux 4.14 or newer")
    return "offered"


def _epoll_pwait2() -> str:
    with select.epoll() as epoll:
        event = (ctypes.c_uint8 * 16)()
        zero = (ctypes.c_uint64 * 2)(0, 0)
        try:
            syscalls.syscall(
                unistd.SYS_epoll_pwait2,
                epoll.fileno(),
                ctypes.addressof(event),
                1,
                ctypes.addressof(zero),
                call="epoll_pwait2",
            )
        except KernelError as error:
            if error.errno == errno.ENOSYS:
                raise HostError("epoll_pwait2", "not offered", "use Linux 5.11 or newer") from error
            raise
    return "offered"


def _threads() -> str:
    headroom = thread_headroom()
    return "no limit found" if headroom is None else f"{headroom} more can be started"


def _files() -> str:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    shown = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
    return f"soft limit {soft}, raised as needed up to {shown}"


def _placement() -> str:
    nodes = usable_nodes()
    try:
        cpu_latency.check()
        held = "can be held"
    except HostError as error:
        held = error.reason
    return (
        f"CPUs {format_cpu_list(allowed_cpus())}; "
        f"NUMA nodes {format_cpu_list(nodes) or 'none'}; CPU latency {held}"
    )


def _trial(kvm: Kvm, spec: str, interrupt: Interrupt) -> str:
    work = Work(vcpus=1, mem_per_vcpu_bytes=_TRIED_PAGES * PAGE_BYTES)
    result = run_trial(kvm, work, parse_pager(spec), interrupt=interrupt)
    if result.error is not None:
        raise HostError(spec, f"failed: {result.error}", "report this with the output of probe")
    return f"{_TRIED_PAGES} pages verified{_exit_forms(result)}"


def _exit_forms(result: TrialResult) -> str:
    """Return in which form the exits of a trial named their page."""
    forms = {
        "exits_annotated": "annotated by KVM",
        "exits_registers": "bare EFAULT, page from the guest's registers",
        "exits_mmio": "MMIO",
    }
    seen = [f"{result.counts[name]} {text}" for name, text in forms.items() if result.counts[name]]
    return f"; exits: {', '.join(seen)}" if seen else ""
