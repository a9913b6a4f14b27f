"""What makes a kernel slower than others of its release: checks built in, and tracing that is on.

As in `kvmpc.host.files`: what cannot be read is absent. Tracing is for root to see.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Final

from kvmpc.host.files import entries, read_text

__all__ = ["debug_options", "tracing_facts"]

_DEBUG: Final = (
    "KASAN", "KCSAN", "KMSAN", "PROVE_LOCKING", "LOCKDEP", "LOCK_STAT", "DEBUG_SPINLOCK",
    "DEBUG_LIST", "DEBUG_PAGEALLOC_ENABLE_DEFAULT", "DEBUG_OBJECTS", "DEBUG_VM", "DEBUG_KMEMLEAK",
    "DEBUG_PREEMPT", "DEBUG_ATOMIC_SLEEP", "SLUB_DEBUG_ON", "PREEMPT_RT",
)  # fmt: skip
"""Options that cost time at every fault, exit or wake-up. Source: lib/Kconfig.debug,
lib/Kconfig.kasan, .kcsan, .kmsan, mm/Kconfig.debug, kernel/Kconfig.preempt."""

_LARGEST_BYTES: Final = 1 << 24
"""A configuration is some 300 KB; more is none."""

_PATH: Final = re.compile(
    r"_*(kvm|vmx|svm|vcpu|tdp|mmu|direct_page_fault|ept_|paging|user_?fault|handle_mm_fault"
    r"|handle_userfault|mfill|mcopy|faultin|fixup_user_fault|.*get_user_pages|gup_|exc_page_fault"
    r"|do_user_addr_fault|do_anonymous_page|ep_|epoll|eventpoll|try_to_wake_up|schedule|futex"
    r"|do_syscall_64|ksys_read|vfs_read|.*ioctl).*"
)
"""Functions between a guest's touch and its page, by how their names begin."""

_SYSTEMS: Final = frozenset(
    {"kvm", "kvmmmu", "exceptions", "sched", "syscalls", "raw_syscalls", "kmem", "irq", "kprobes"}
)
"""Events of the kernel on that path, by subsystem."""


_MOST: Final = 20
"""Names that are kept of what is traced: all of a kernel's may be."""


def debug_options(root: Path, release: str | None) -> list[str] | None:
    """Return the options of `_DEBUG` that this kernel has; None where it does not say.

    Source: /proc/config.gz (CONFIG_IKCONFIG_PROC) or /boot/config-RELEASE; without either
    /sys/kernel/realtime (PREEMPT_RT) and /proc/lockdep (lockdep) may still tell.
    """
    config = _config(root, release)
    if config is not None:
        chosen = set(re.findall(r"^CONFIG_(\w+)=y$", config, re.MULTILINE))
        return [name for name in _DEBUG if name in chosen]
    found = []
    if (root / "proc/lockdep").exists():
        found.append("LOCKDEP")
    if read_text(root / "sys/kernel/realtime") == "1":
        found.append("PREEMPT_RT")
    return found or None


def _config(root: Path, release: str | None) -> str | None:
    try:
        packed = (root / "proc/config.gz").read_bytes()
        text = zlib.decompressobj(wbits=31).decompress(packed, _LARGEST_BYTES)
    except (OSError, zlib.error):
        if release is None or "/" in release:
            return None
        return read_text(root / f"boot/config-{release}", _LARGEST_BYTES)
    return text.decode(errors="replace")


def tracing_facts(root: Path) -> dict[str, object | None]:
    """Return what is traced on the path that is measured, JSON-ready; None where it is not known.

    tracer: the one in use where it is not ``nop``; events: those that are enabled; functions: those
    that are hooked, by ftrace, a kprobe at their entry or a BPF program; kprobes: how many there
    are anywhere. A BPF program at a tracepoint is not to be seen.
    Source: Documentation/trace/ftrace.rst (current_tracer, set_event, enabled_functions),
    Documentation/trace/kprobes.rst ("The kprobes debugfs interface").
    """
    tracefs = root / "sys/kernel/tracing"
    if not entries(tracefs, "current_tracer$"):
        tracefs = root / "sys/kernel/debug/tracing"
    tracer = read_text(tracefs / "current_tracer")
    events = _lines(tracefs / "set_event")
    hooked = [line.split()[0] for line in _lines(tracefs / "enabled_functions") if line.strip()]
    kprobes = _lines(root / "sys/kernel/debug/kprobes/list")
    return {
        "tracer": tracer if tracer != "nop" else None,
        "events": [name for name in events if name.partition(":")[0] in _SYSTEMS][:_MOST] or None,
        "functions": [name for name in hooked if _PATH.fullmatch(name)][:_MOST] or None,
        "kprobes_count": len(kprobes) or None,
    }


def _lines(path: Path) -> list[str]:
    return (read_text(path, _LARGEST_BYTES) or "").splitlines()
