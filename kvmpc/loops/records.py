"""The records that Python and the native loops share: layout, units, and the symbols made of them.

One record belongs to one thread and fills whole cache lines, so that no two threads write the same
line. A loop reads what is marked `in`, and writes what is marked `out`, `count` or `peak`; Python
sets the one before the thread starts and reads the other after it has left (progress and `stop`
excepted).
"""

from __future__ import annotations

import ctypes
import enum
import errno
from collections.abc import Iterable
from typing import Final, Generic, NamedTuple, Self, TypeVar

from kvmpc.abi import clock, epoll, futex, kvm, kvm_x86, poll, resource, unistd, userfaultfd
from kvmpc.assembler.assemble import Field, Symbols
from kvmpc.kernel import syscalls
from kvmpc.loops.stamps import STAMPS
from kvmpc.units import PAGE_BYTES

__all__ = [
    "ADDRESS_REGISTER",
    "FILL_FIELDS",
    "INSPECT_FIELDS",
    "LOOKS_PER_YIELD",
    "PENDING_FIELDS",
    "READER_FIELDS",
    "READ_MESSAGES",
    "REPEAT_LIMIT",
    "RESOLVER_FIELDS",
    "SHARED_FIELDS",
    "SPIN_CYCLES",
    "VCPU_FIELDS",
    "WRITTEN_WORD",
    "Call",
    "FieldSpec",
    "FillRecord",
    "InspectRecord",
    "PendingRecord",
    "ReaderRecord",
    "RecordArray",
    "ResolverRecord",
    "Return",
    "SharedRecord",
    "VcpuRecord",
    "ctypes_fields",
    "host_symbols",
    "record_symbols",
    "unit_constants",
]

READ_MESSAGES = 16
"""Messages that a reader takes in one read(2), unless told otherwise: it saves most polls."""

REPEAT_LIMIT = 1000
"""Exits in a row for one page after which a vCPU is taken to be stuck: nobody loses 1000 races."""

LOOKS_PER_YIELD = 8
"""Looks for a message after which a reader that spins gives way, a power of two.

A look takes half a microsecond: where it has its CPU to itself the yields cost it nothing that can
be measured; where CPUs are short, vCPUs wait for no more than some of them."""

SPIN_CYCLES = 4000
"""TSC cycles that a lost claim spins for before it sleeps: about one install."""

ADDRESS_REGISTER: Final = "rsi"
"""The guest's register that always holds the address it touches (guest/x86_64/touch.asm).

Where KVM reports a missing page without its address, vcpu.asm takes it from there."""

WRITTEN_WORD: Final = 8
"""Where in a page the guest's first touch stores, with write access: byte offset. It holds no tag,
and 0 when it comes; then the page's own gpa. Behind it begins the page's body."""

_LINE_BYTES = 128
"""Two cache lines: the adjacent-line prefetcher takes them in pairs."""

u32, i32, u64 = ctypes.c_uint32, ctypes.c_int32, ctypes.c_uint64


class Return(enum.IntEnum):
    """Why a native loop came back (its return value); every one but OK is a rare path."""

    OK = 0
    """`resolve`: the page is there."""
    EXIT = 1
    """KVM_RUN returned 0, or an EFAULT that names no missing page: struct kvm_run says what."""
    STOPPED = 2
    """The record's stop flag is set."""
    FAILED = 3
    """A system call failed: `failed_call` and `error` say which and how."""
    OUTSIDE = 4
    """A fault address, in `page` as a page number, lies outside data memory."""
    REPEATED = 5
    """`page` exited REPEAT_LIMIT times in a row, though it is installed."""
    FULL = 7
    """A reader's ring has more pages on their way than there are vCPUs, which cannot be."""
    EVENT = 6
    """A userfaultfd message that is no page fault, or an odd length: `error` holds it."""
    WRONG = 8
    """`inspect`: the page at `index` does not hold what it should."""


class Call(enum.IntEnum):
    """The system call that failed, as `failed_call` holds it."""

    KVM_RUN = 1
    UFFDIO_COPY = 2
    UFFDIO_WAKE = 3
    READ = 4
    PPOLL = 5
    EPOLL_PWAIT2 = 6
    FUTEX = 7
    CLOCK_GETTIME = 8
    CLOCK_NANOSLEEP = 9
    GETRUSAGE = 10


class FieldSpec(NamedTuple):
    """One field of a record. `unit` is what a number in it counts; `use` says who needs it.

    use: ``in``, Python sets it for the loop; ``out``, the loop reports it; ``scratch``, the loop
        keeps it for itself; ``count``, it reports it and a trial's counts have the sum over
        threads; ``peak``, they have the largest.
    """

    name: str
    ctype: type[ctypes._SimpleCData[int]] | type[ctypes.Structure]
    unit: str
    use: str
    meaning: str


F = FieldSpec

SHARED_FIELDS = (
    F("gate", u32, "flag", "out", "1 = open; vCPU threads sleep on it (futex) until then"),
    F("pad", u32, "none", "scratch", "alignment"),
    F("gate_ns", u64, "ns", "out", "CLOCK_MONOTONIC when the gate opened, before the wake"),
    F("sec", u64, "s", "scratch", "timespec"),
    F("nsec", u64, "ns", "scratch", "timespec"),
    *(
        F(f"line{i}", u64, "none", "scratch", "keeps the counters off the gate's line")
        for i in range(12)
    ),
    F("waiters", u32, "threads", "out", "threads asleep on a page that another one fetches"),
    F("parked", u32, "threads", "out", "vCPU threads that came to the closed gate to sleep there"),
)

RESOLVER_FIELDS = (
    F("stop", u32, "flag", "in", "1 = leave at the next opportunity; set at any time"),
    F("failed_call", u32, "Call", "out", "which system call failed"),
    F("error", u64, "errno", "out", "how it failed; for EVENT the message's event or length"),
    F("page", u64, "page", "out", "the page last worked on"),
    F("shared", u64, "hva", "in", "SharedRecord of the trial; lives until every thread has left"),
    F("missing", u64, "hva", "in", "missing bitmap; lives as long"),
    F("claimed", u64, "hva", "in", "claimed bitmap; lives as long"),
    F("pages", u64, "pages", "in", "pages of data memory"),
    F("data_hva", u64, "hva", "in", "page 0 of data memory in this process"),
    F("data_gpa", u64, "gpa", "in", "page 0 of data memory in the guest"),
    F("uffds", u64, "hva", "in", "array of u32 file descriptors, one per share of data memory"),
    F("uffd_count", u64, "fds", "in", "entries in uffds"),
    F("staging", u64, "hva", "in", "this thread's page to build a missing page in"),
    F("tag_multiplier", u64, "number", "in", "TagRule.multiplier"),
    F("tag_seed", u64, "number", "in", "TagRule.seed"),
    F("fetch_delay_ns", u64, "ns", "in", "simulated network time of one page"),
    F("fetch_delay_cycles", u64, "TSC cycles", "in", "the same by the host's TSC"),
    F("ns_per_cycle_q32", u64, "ns / 2^32", "in", "nanoseconds in a TSC cycle, times 2^32"),
    F("copy_dst", u64, "hva", "scratch", "struct uffdio_copy: dst"),
    F("copy_src", u64, "hva", "scratch", "struct uffdio_copy: src"),
    F("copy_len", u64, "bytes", "scratch", "struct uffdio_copy: len"),
    F("copy_mode", u64, "bits", "in", "struct uffdio_copy: mode, UFFDIO_COPY_MODE_*"),
    F("copy_copy", u64, "bytes", "scratch", "struct uffdio_copy: copy, or a negative errno"),
    F("range_start", u64, "hva", "scratch", "struct uffdio_range: start"),
    F("range_len", u64, "bytes", "scratch", "struct uffdio_range: len"),
    F("sec", u64, "s", "scratch", "timespec"),
    F("nsec", u64, "ns", "scratch", "timespec"),
    F(
        "start_ns",
        u64,
        "ns",
        "out",
        "CLOCK_MONOTONIC when the loop began after the gate; 0 = never",
    ),
    F("end_ns", u64, "ns", "out", "CLOCK_MONOTONIC when the loop last returned"),
    F("cpu_start_ns", u64, "ns", "out", "CLOCK_THREAD_CPUTIME_ID at start_ns"),
    F("cpu_end_ns", u64, "ns", "out", "CLOCK_THREAD_CPUTIME_ID at end_ns"),
    F("start_cycles", u64, "TSC cycles", "out", "host TSC at start_ns"),
    F("end_cycles", u64, "TSC cycles", "out", "host TSC at end_ns"),
    F(
        "fetch_cycles",
        u64,
        "TSC cycles",
        "out",
        "sum: from a won claim to the end of its simulated fetch; 0 without a delay",
    ),
    F(
        "install_cycles",
        u64,
        "TSC cycles",
        "out",
        "sum: building the page and UFFDIO_COPY, with the wake-up and what pre-empts",
    ),
    F("fetches", u64, "pages", "count", "fetches that came in"),
    F("installs", u64, "pages", "count", "UFFDIO_COPY that installed"),
    F("eexist", u64, "calls", "count", "UFFDIO_COPY that found the page already there"),
    F("eagain", u64, "calls", "count", "UFFDIO_COPY that the kernel asked to repeat"),
    F("wakes", u64, "calls", "count", "UFFDIO_WAKE made"),
    F("lost_claims", u64, "pages", "count", "claims of a page that was claimed before"),
    F("waits", u64, "calls", "count", "sleeps until another thread's page was there"),
    F("waits_empty", u64, "calls", "count", "returns from these that found it still missing"),
    F("interrupts", u64, "calls", "count", "EINTR seen"),
    F("returns", u64, "calls", "count", "returns to Python after the gate, the last one included"),
    F("gate_sleeps", u64, "sleeps", "out", "context switches of sleeping at the gate"),
    F("usage_start", resource.rusage, "rusage", "out", "this thread's, before the gate"),
    F("usage_end", resource.rusage, "rusage", "out", "this thread's, after end_ns"),
)

VCPU_FIELDS = (
    F("fd", u32, "fd", "in", "vCPU"),
    F("pad", u32, "none", "scratch", "alignment"),
    F("run", u64, "hva", "in", "struct kvm_run; mapped as long as the vCPU is open"),
    F("kvm_runs", u64, "calls", "count", "KVM_RUN calls"),
    F("exits_annotated", u64, "exits", "count", "KVM_EXIT_MEMORY_FAULT: gpa in kvm_run"),
    F("exits_registers", u64, "exits", "count", "bare EFAULT: gpa from the guest's register"),
    F("exits_mmio", u64, "exits", "count", "KVM_EXIT_MMIO inside data memory (counted by Python)"),
    F("last_page", u64, "page", "out", "page of the last exit; all ones = none yet"),
    F("repeats", u64, "exits", "out", "exits in a row for last_page after its first"),
    F("repeats_most", u64, "exits", "peak", "largest repeats seen"),
)

READER_FIELDS = (
    F("uffd", u32, "fd", "in", "userfaultfd that this reader reads"),
    F("epoll", i32, "fd", "in", "its epoll fd, where several readers share the uffd"),
    F("poll_fd", i32, "fd", "in", "struct pollfd: fd"),
    F("poll_events", u32, "bits", "in", "struct pollfd: events (low half), revents (high half)"),
    F("epoll_event", u64, "bits", "scratch", "struct epoll_event"),
    F("epoll_data", u64, "bits", "scratch", "struct epoll_event, its end"),
    F("messages", u64, "hva", "in", "buffer of read_bytes for struct uffd_msg"),
    F("read_bytes", u64, "bytes", "in", "length of a read: as many messages as it takes at once"),
    F("next", u64, "hva", "out", "first message not handled yet"),
    F("end", u64, "hva", "out", "behind the last message read"),
    F("queue", u64, "hva", "in", "ring of PendingRecord: pages on their way"),
    F("queue_mask", u64, "entries", "in", "ring size less 1"),
    F("queue_head", u64, "entries", "out", "entries taken from the ring"),
    F("queue_tail", u64, "entries", "out", "entries put into the ring"),
    F("timeout_ns", u64, "ns", "scratch", "until the next page is due; all ones = none is"),
    F("reads", u64, "calls", "count", "read(2) calls"),
    F("reads_empty", u64, "calls", "count", "of these, found no message (EAGAIN)"),
    F("received", u64, "messages", "count", "page-fault messages"),
    F("polls", u64, "calls", "count", "ppoll and epoll_pwait2 calls, which wait for a message"),
    F("wakeups", u64, "calls", "count", "of these, ended because of a message"),
    F("wakeups_empty", u64, "calls", "count", "of these, another reader had taken it"),
    F("woken", u64, "flag", "scratch", "the next read follows a wake-up"),
    F("spins", u64, "looks", "count", "looks for a message without sleeping before them"),
    F("spin_cycles", u64, "TSC cycles", "in", "wait=adaptive: how long it spins before it sleeps"),
    F("spin_until", u64, "TSC cycles", "scratch", "host TSC when this spin ends"),
    F("spin_work", u64, "messages", "scratch", "received and fetches when this spin began"),
)

PENDING_FIELDS = (
    F("due_cycles", u64, "TSC cycles", "scratch", "host TSC when the page's bytes come in"),
    F("page", u64, "page", "scratch", "which page"),
)

_PART_FIELDS = (
    F("hva", u64, "hva", "in", "first page of the part"),
    F("gpa", u64, "gpa", "in", "the same page in the guest"),
    F("index", u64, "index", "in", "first touched page to fill or read; counts up"),
    F("end", u64, "index", "in", "behind the last"),
    F("run_shift", u64, "bits", "in", "log2 of the pages in a run"),
    F("run_stride", u64, "pages", "in", "from one run's first page to the next one's"),
    F("tag_multiplier", u64, "number", "in", "TagRule.multiplier"),
    F("tag_seed", u64, "number", "in", "TagRule.seed"),
    F("body", u64, "word", "in", "what each word of a page's body holds"),
    F("body_words", u64, "words", "in", "of the body, which ends before the last word; 0 = none"),
)

FILL_FIELDS = (F("stop", u64, "flag", "in", "1 = leave; set at any time"), *_PART_FIELDS)

INSPECT_FIELDS = (
    *_PART_FIELDS,
    F("written", u64, "bits", "in", "all ones where the guest writes to each page, else 0"),
)


def ctypes_fields(
    fields: Iterable[FieldSpec],
) -> list[tuple[str, type[ctypes._SimpleCData[int]] | type[ctypes.Structure]]]:
    """Return `fields` as ctypes wants them."""
    return [(field.name, field.ctype) for field in fields]


class SharedRecord(ctypes.Structure):
    """What all threads of one trial share: the gate, and who waits where."""

    _fields_ = ctypes_fields(SHARED_FIELDS)


class ResolverRecord(ctypes.Structure):
    """What `resolve` needs and counts; the beginning of every thread's record."""

    _fields_ = ctypes_fields(RESOLVER_FIELDS)


class VcpuRecord(ResolverRecord):
    """The record of a vCPU's thread."""

    _fields_ = ctypes_fields(VCPU_FIELDS)


class ReaderRecord(ResolverRecord):
    """The record of a userfaultfd reader's thread."""

    _fields_ = ctypes_fields(READER_FIELDS)


class PendingRecord(ctypes.Structure):
    """One page on its way, in a pipelined reader's ring."""

    _fields_ = ctypes_fields(PENDING_FIELDS)


class FillRecord(ctypes.Structure):
    """What part of memory to fill ahead of a trial."""

    _fields_ = ctypes_fields(FILL_FIELDS)


class InspectRecord(ctypes.Structure):
    """What part of memory to read back, and what the guest has written there."""

    _fields_ = ctypes_fields(INSPECT_FIELDS)


R = TypeVar("R", bound=ctypes.Structure)


class RecordArray(Generic[R]):
    """`count` records of one kind in memory of their own, each on cache lines of its own.

    `tail_bytes` more bytes follow each record (a staging page, a buffer); `tail` is their hva.
    Resident from the start, so that no trial pays for their first touch.
    """

    def __init__(self, kind: type[R], count: int, *, tail_bytes: int = 0) -> None:
        record_bytes = -(-ctypes.sizeof(kind) // _LINE_BYTES) * _LINE_BYTES
        if tail_bytes:
            record_bytes = -(-record_bytes // PAGE_BYTES) * PAGE_BYTES
        stride = record_bytes + -(-tail_bytes // PAGE_BYTES) * PAGE_BYTES
        self._mapping = syscalls.Mapping.anonymous(
            max(1, count) * stride, populate=True, what=f"{count} {kind.__name__}"
        )
        addresses = [self._mapping.address + index * stride for index in range(count)]
        self.records: list[R] = [kind.from_address(address) for address in addresses]
        self.tails: list[int] = [address + record_bytes for address in addresses]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmap; no record may be used any more."""
        self.records = []
        self._mapping.close()


def record_symbols(
    name: str, kind: type[ctypes.Structure], fields: Iterable[FieldSpec]
) -> dict[str, Field]:
    """Return ``name.field`` symbols for a record."""
    found = {}
    for field in fields:
        # Of an array, the size of one element: that is what one instruction accesses.
        element = getattr(field.ctype, "_type_", None)
        kind_of_one = element if isinstance(element, type) else field.ctype
        offset = getattr(kind, field.name).offset
        found[f"{name}.{field.name}"] = Field(offset, ctypes.sizeof(kind_of_one))
    return found


def _kernel_field(kind: type[ctypes.Structure], *path: str) -> Field:
    """Return where the member at `path` is in a kernel structure, through those that hold it."""
    offset, within = 0, kind()
    for name in path[:-1]:
        offset += getattr(type(within), name).offset
        within = getattr(within, name)
    last = getattr(type(within), path[-1])
    return Field(offset + last.offset, last.size)


def _kernel_fields() -> dict[str, Field]:
    run, message = kvm.kvm_run, userfaultfd.uffd_msg
    return {
        "kvm_run.exit_reason": _kernel_field(run, "exit_reason"),
        "kvm_run.memory_fault_gpa": _kernel_field(run, "memory_fault", "gpa"),
        "kvm_run.touched_gpa": _kernel_field(run, "s", "regs", "regs", ADDRESS_REGISTER),
        "uffd_msg.event": _kernel_field(message, "event"),
        "uffd_msg.address": _kernel_field(message, "arg", "pagefault", "address"),
    }


def unit_constants(unit_bytes: int) -> dict[str, int]:
    """Return what assembly knows of the page that is demand-paged (`Work.unit_bytes`)."""
    return {
        "UNIT_BYTES": unit_bytes,
        "UNIT_SHIFT": unit_bytes.bit_length() - 1,
        "WRITTEN_WORD": WRITTEN_WORD,
        "LAST_WORD": unit_bytes - 8,
    }


def host_symbols(unit_bytes: int = PAGE_BYTES) -> Symbols:
    """Return every name that the files in ``loops/`` may use, for pages of `unit_bytes`."""
    constants = {name: number for number, name in errno.errorcode.items()}
    constants |= {f"RETURN_{code.name}": int(code) for code in Return}
    constants |= {f"CALL_{call.name}": int(call) for call in Call}
    for module in (clock, epoll, futex, kvm, kvm_x86, poll, resource, unistd, userfaultfd):
        for name in module.__all__:
            value = getattr(module, name)
            if isinstance(value, int):
                constants[name.upper()] = value
    constants |= {
        **unit_constants(unit_bytes),
        "UFFD_MSG_BYTES": ctypes.sizeof(userfaultfd.uffd_msg),
        "PENDING_BYTES": ctypes.sizeof(PendingRecord),
        "REPEAT_LIMIT": REPEAT_LIMIT,
        "SPIN_CYCLES": SPIN_CYCLES,
        "LOOKS_PER_YIELD": LOOKS_PER_YIELD,
        "NONE": -1,
        **STAMPS,
    }
    fields = _kernel_fields()
    fields |= record_symbols("shared", SharedRecord, SHARED_FIELDS)
    fields |= record_symbols("resolver", ResolverRecord, RESOLVER_FIELDS)
    fields |= record_symbols("vcpu", VcpuRecord, VCPU_FIELDS)
    fields |= record_symbols("reader", ReaderRecord, READER_FIELDS)
    fields |= record_symbols("pending", PendingRecord, PENDING_FIELDS)
    fields |= record_symbols("fill", FillRecord, FILL_FIELDS)
    fields |= record_symbols("inspect", InspectRecord, INSPECT_FIELDS)
    return Symbols(constants, fields)
