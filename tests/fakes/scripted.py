"""The native loops on a scripted kernel, in a build that notes what of it was reached.

`ScriptedKernel` answers the system calls of a loop from a list, in order, and fails the test for
each one that is not on it. `Setting` is the memory that records point to. The build differs from
what pagers load in two ways: the system-call instruction is a call of ``scripted_kernel.asm``, and
marks stand behind every label and on both ways out of every conditional branch (no mark changes a
register or a flag; test_builds.py compares the two builds instruction by instruction).
"""

from __future__ import annotations

import ctypes
import errno
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import EllipsisType

from kvmpc.abi import clock, futex, kvm, poll, resource, unistd
from kvmpc.abi import userfaultfd as uffd_abi
from kvmpc.assembler.assemble import Program, assemble
from kvmpc.loops.program import NativeProgram, load, read_sources
from kvmpc.loops.records import (
    READ_MESSAGES,
    READER_FIELDS,
    RESOLVER_FIELDS,
    VCPU_FIELDS,
    FieldSpec,
    PendingRecord,
    ReaderRecord,
    ResolverRecord,
    Return,
    SharedRecord,
    VcpuRecord,
    host_symbols,
)
from kvmpc.loops.stamps import STAMPS
from kvmpc.loops.steps import Steps, Wait
from kvmpc.units import PAGE_BYTES
from kvmpc.vm.bitmap import MissingBitmap
from kvmpc.vm.memory import DATA_GPA
from kvmpc.work.tags import tag_rule

__all__ = [
    "STEPS",
    "Instrumented",
    "ScriptedKernel",
    "Setting",
    "counts",
    "extra_sources",
    "failure",
    "instrumented",
    "instrumented_program",
    "tsc",
    "unreached",
]

_UFFD = Steps()
_EXIT = Steps(lost="lost_wait", wake="wake_losers")
_PLAIN = {
    "uffd": _UFFD,
    "uffd+delay": replace(_UFFD, fetch="fetch_sleep"),
    "pipelined": replace(_UFFD, take="take_later", install_due="due_installs"),
    "exit": _EXIT,
    "exit+delay": replace(_EXIT, fetch="fetch_sleep"),
}
_WAITS: Mapping[str, Wait] = {
    "epoll": "wait_epoll",
    "read": "wait_read",
    "spin": "wait_spin",
    "adaptive": "wait_adaptive_poll",
    "adaptive+epoll": "wait_adaptive_epoll",
}
_PLAIN |= {
    f"{name}+{words}": replace(steps, wait=wait)
    for name, steps in _PLAIN.items()
    for words, wait in _WAITS.items()
    # A reader asleep in read(2) does not wake for a page that is due.
    if not name.startswith("exit") and (name, words) != ("pipelined", "read")
}

STEPS: Mapping[str, Steps] = _PLAIN | {f"{n}+split": s.stamped() for n, s in _PLAIN.items()}
"""The steps of every build that a pager can ask for; test_builds.py compares them with the pagers.
`none` links the same as `uffd`, which it never calls."""

SYSCALL_LABEL = "scripted_kernel"


# --- the instrumented build --------------------------------------------------------------------

_LABEL = re.compile(r"(\.?[a-z_][a-z0-9_]*):")
_CONDITIONAL = re.compile(r"(j(?!mp\b)[a-z]+)\s+(\S+)")

_JUNK = [f"    mov {name}, 0x5a5a5a5a5a5a5a5a" for name in ("rax", "rcx", "r8", "r9", "r10", "r11")]
"""At the entry: a caller in C leaves these registers with anything in them, by luck with zero."""


@dataclass
class Instrumented:
    """The loops' sources with marks in them.

    `marks` names what each byte of `reached` stands for. `copied` maps (file, line) here to the
    line of the original; of a conditional branch it is the line that holds its target.
    """

    sources: list[tuple[str, str]] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)
    copied: dict[tuple[str, int], int] = field(default_factory=dict)
    reached: ctypes.Array[ctypes.c_uint8] = field(
        default_factory=lambda: (ctypes.c_uint8 * 1024)(), repr=False
    )

    def add(self, name: str, text: str) -> None:
        """Add a source file, with marks."""
        lines: list[str] = []
        scope = ""
        for number, line in enumerate(text.split("\n"), start=1):
            statement = line.partition(";")[0].strip()
            label = _LABEL.fullmatch(statement)
            branch = _CONDITIONAL.fullmatch(statement)
            if label:
                scope = scope if label[1].startswith(".") else label[1]
                lines += [line, *self._mark(f"{name}:{number}: {label[1]} of {scope}")]
                lines += _JUNK if label[1] == "call_native" else ()
            elif branch:
                where = f"{name}:{number}: {statement} in {scope}"
                end, taken = (f".mark_{len(self.marks)}_{kind}" for kind in ("end", "taken"))
                lines += [f"    {branch[1]} {taken}", *self._mark(f"{where}, not taken")]
                lines += [f"    jmp {end}", f"{taken}:", *self._mark(f"{where}, taken")]
                lines += [f"    jmp {branch[2]}", f"{end}:"]
                self.copied[name, len(lines) - 1] = number
            else:
                lines.append(line)
                self.copied[name, len(lines)] = number
        self.sources.append((name, "\n".join(lines)))

    def _mark(self, what: str) -> list[str]:
        address = ctypes.addressof(self.reached) + len(self.marks)
        self.marks.append(what)
        assert len(self.marks) <= len(self.reached)
        # None of these changes a flag: a mark may stand between a compare and its branch.
        return [
            "    push rax",
            f"    mov rax, {address:#x}",
            "    mov byte ptr [rax], 1",
            "    pop rax",
        ]


@cache
def instrumented() -> Instrumented:
    """Return the loops with marks; one set of marks for all builds of this process."""
    result = Instrumented()
    for name, text in read_sources():
        result.add(name, text)
    return result


def unreached() -> list[str]:
    """Return what no call has reached so far: labels, and the ways out of conditional branches."""
    code = instrumented()
    return [mark for mark, hit in zip(code.marks, code.reached, strict=False) if not hit]


def extra_sources() -> list[tuple[str, str]]:
    """Return the scripted kernel and what else the tests link to the loops."""
    folder = Path(__file__).parent
    address = ctypes.cast(_CALLBACK, ctypes.c_void_p).value or 0
    names = ("scripted_kernel.asm", "entry_probe.asm")
    texts = [(name, (folder / name).read_text("ascii")) for name in names]
    return [(name, text.replace("CALLBACK", hex(address))) for name, text in texts]


def instrumented_program(build: str) -> Program:
    """Assemble the loops with marks and the steps of `build`."""
    return assemble(
        [*instrumented().sources, *extra_sources()],
        host_symbols(),
        vars(STEPS[build]),
        syscall=SYSCALL_LABEL,
    )


@cache
def _loaded(build: str) -> NativeProgram:
    return NativeProgram(instrumented_program(build))


# --- the kernel --------------------------------------------------------------------------------

Argument = int | EllipsisType
_NAMES = {
    getattr(unistd, name): name.removeprefix("SYS_")
    for name in unistd.__all__
    if name.startswith("SYS_")
}
_NO_SUCH_CALL = -errno.ENOTRECOVERABLE  # no loop retries on it: a wrong loop comes back


@dataclass(frozen=True)
class _Expected:
    name: str
    arguments: tuple[Argument, ...]
    reply: int
    do: Callable[[], None]

    def __str__(self) -> str:
        texts = ["..." if item is ... else hex(item) for item in self.arguments]
        return f"{self.name}({', '.join(texts)})"


class ScriptedKernel:
    """Answers the system calls of native code from a script.

    `expect` and the methods that end in it add to the script; `run` calls a native function, which
    must make exactly the calls on the script. Whatever goes wrong within a call (ctypes would
    swallow it) is raised by `run`.
    """

    def __init__(self) -> None:
        self.arguments: tuple[int, ...] = ()
        self._script: deque[_Expected] = deque()
        self._problems: list[BaseException] = []

    def expect(
        self, name: str, *arguments: Argument, reply: int = 0, do: Callable[[], None] | None = None
    ) -> None:
        """Expect call `name` with `arguments` (... is any), do `do`, answer `reply`.

        `do` finds what was given in `self.arguments`.
        """
        self._script.append(_Expected(name, arguments, reply, do or (lambda: None)))

    def run(
        self, function: str, record: ctypes.Structure, *, page: int = 0, build: str = "uffd"
    ) -> int:
        """Call `function` of `build` and return its code, once the whole script has been played."""
        global _active
        program = _loaded(build)
        _active = self
        try:
            code = program.call(function, record, page)
        finally:
            _active = None
        if self._problems:
            raise self._problems[0]
        left = [str(call) for call in self._script]
        assert not left, f"{function} returned {code} and never made these calls: {left}"
        return code

    def answer(self, number: int, arguments: tuple[int, ...]) -> int:
        """Answer one call. Raises: AssertionError when it is not the one expected."""
        name = _NAMES.get(number, str(number))
        shown = f"{name}({', '.join(hex(item) for item in arguments)})"
        if self._problems:
            return _NO_SUCH_CALL
        assert self._script, f"a call that nothing expects: {shown}"
        call = self._script.popleft()
        pairs = zip(call.arguments, arguments, strict=False)
        same = all(want is ... or want == got for want, got in pairs)
        assert name == call.name, f"expected {call}, got {shown}"
        assert same, f"expected {call}, got {shown}"
        self.arguments = arguments
        call.do()
        return call.reply

    def fail(self, error: BaseException) -> int:
        """Keep an error for `run`; answer so that no loop goes on."""
        self._problems.append(error)
        return _NO_SUCH_CALL

    # What the loops call.

    def clock(self, clock_id: int, ns: int, *, record: ResolverRecord, reply: int = 0) -> None:
        """Expect clock_gettime: it is `ns`."""

        def do() -> None:
            record.sec, record.nsec = divmod(ns, 10**9)

        timespec = _address(record, "sec")
        self.expect("clock_gettime", clock_id, timespec, reply=reply, do=do)

    def monotonic(self, ns: int, *, record: ResolverRecord, reply: int = 0) -> None:
        """Expect clock_gettime(CLOCK_MONOTONIC)."""
        self.clock(clock.CLOCK_MONOTONIC, ns, record=record, reply=reply)

    def usage(
        self, record: ResolverRecord, field: str, *, switches: int = 0, reply: int = 0
    ) -> None:
        """Expect getrusage(RUSAGE_THREAD) into `field`: so many voluntary context switches."""
        self.expect(
            "getrusage",
            resource.RUSAGE_THREAD,
            _address(record, field),
            reply=reply,
            do=lambda: setattr(getattr(record, field), "ru_nvcsw", switches),
        )

    def stamp_start(self, record: ResolverRecord, *, ns: int = 1, cpu_ns: int = 1) -> None:
        """Expect the two clock reads at a loop's start."""
        self.clock(clock.CLOCK_THREAD_CPUTIME_ID, cpu_ns, record=record)
        self.monotonic(ns, record=record)

    def stamp_end(self, record: ResolverRecord, *, ns: int = 2, cpu_ns: int = 2) -> None:
        """Expect the two clock reads at a loop's end."""
        self.monotonic(ns, record=record)
        self.clock(clock.CLOCK_THREAD_CPUTIME_ID, cpu_ns, record=record)
        self.usage(record, "usage_end")

    def sleep(
        self,
        record: ResolverRecord,
        until_ns: int,
        *,
        reply: int = 0,
        do: Callable[[], None] = lambda: None,
    ) -> None:
        """Expect clock_nanosleep until `until_ns`."""

        def check() -> None:
            assert (record.sec, record.nsec) == divmod(until_ns, 10**9)
            do()

        self.expect(
            "clock_nanosleep",
            clock.CLOCK_MONOTONIC,
            clock.TIMER_ABSTIME,
            _address(record, "sec"),
            0,
            reply=reply,
            do=check,
        )

    def copy(
        self,
        setting: Setting,
        record: ResolverRecord,
        page: int,
        *,
        reply: int = 0,
        copied: int | None = None,
        skipped: int = 0,
        do: Callable[[], None] = lambda: None,
    ) -> None:
        """Expect UFFDIO_COPY of `page` from byte `skipped` on; leave `copied` in its `copy`.

        Whoever installs has claimed the page before, and clears its missing bit only afterwards:
        one who reads the bitmap, as a kernel with its own would, must never run into a page that
        is not there.
        """

        # Without a latency split nobody stamps the staging page.
        stamps_end = 64 if record.data_hva != NO_MEMORY else 16

        def check() -> None:
            assert setting.is_claimed(page), "installed by somebody who has not claimed it"
            assert setting.bitmap.is_missing(page), "published before it is installed"
            asked = uffd_abi.uffdio_copy.from_address(_address(record, "copy_dst"))
            assert asked.dst == setting.data_hva + page * PAGE_BYTES + skipped
            assert asked.src == record.staging + skipped
            assert asked.len == PAGE_BYTES - skipped
            assert asked.mode == record.copy_mode
            assert asked.copy == 0, "a `copy` left over from the call before"
            staged = (ctypes.c_uint64 * 512).from_address(record.staging)
            gpa = DATA_GPA + page * PAGE_BYTES
            assert staged[0] == setting.tags.tag(gpa)
            assert staged[511] == setting.tags.last_word(gpa)
            assert staged[1] == 0, "the guest's word"
            assert bytes(staged)[stamps_end : PAGE_BYTES - 8] == BODY[stamps_end - 16 :]
            if copied is not None:
                asked.copy = copied
            do()

        self.expect(
            "ioctl",
            setting.fd_of(page),
            uffd_abi.UFFDIO_COPY,
            _address(record, "copy_dst"),
            reply=reply,
            do=check,
        )

    def wake_range(
        self, setting: Setting, record: ResolverRecord, page: int, *, reply: int = 0
    ) -> None:
        """Expect UFFDIO_WAKE of `page`, on the userfaultfd of its share."""

        def check() -> None:
            asked = uffd_abi.uffdio_range.from_address(_address(record, "range_start"))
            assert (asked.start, asked.len) == (setting.data_hva + page * PAGE_BYTES, PAGE_BYTES)

        self.expect(
            "ioctl",
            setting.fd_of(page),
            uffd_abi.UFFDIO_WAKE,
            _address(record, "range_start"),
            reply=reply,
            do=check,
        )

    def futex_wait(
        self, address: int, value: int, *, reply: int = 0, do: Callable[[], None] | None = None
    ) -> None:
        """Expect a futex wait without a time-out for `value` to change."""
        operation = futex.FUTEX_WAIT | futex.FUTEX_PRIVATE_FLAG
        self.expect("futex", address, operation, value, 0, reply=reply, do=do)

    def futex_wake(
        self, address: int, *, reply: int = 0, do: Callable[[], None] | None = None
    ) -> None:
        """Expect a futex wake of all."""
        operation = futex.FUTEX_WAKE | futex.FUTEX_PRIVATE_FLAG
        self.expect("futex", address, operation, 0x7FFFFFFF, reply=reply, do=do)

    def kvm_run(
        self,
        record: VcpuRecord,
        *,
        reply: int = -errno.EFAULT,
        do: Callable[[kvm.kvm_run], None] = lambda _run: None,
    ) -> None:
        """Expect KVM_RUN, with no exit reason left over; `do` fills in struct kvm_run."""

        def check() -> None:
            run = kvm.kvm_run.from_address(record.run)
            assert run.exit_reason == kvm.KVM_EXIT_UNKNOWN, "a stale exit_reason would be believed"
            do(run)

        self.expect("ioctl", record.fd, kvm.KVM_RUN, 0, reply=reply, do=check)

    def fault(self, record: VcpuRecord, gpa: int, *, stop: bool = False) -> None:
        """Expect KVM_RUN; it fails for `gpa`, annotated."""

        def do(run: kvm.kvm_run) -> None:
            run.exit_reason = kvm.KVM_EXIT_MEMORY_FAULT
            run.memory_fault.gpa = gpa
            record.stop = stop

        self.kvm_run(record, do=do)

    def interrupted_by_stop(self, record: VcpuRecord) -> None:
        """Expect KVM_RUN; a stop interrupts it."""
        self.kvm_run(record, reply=-errno.EINTR, do=lambda _run: setattr(record, "stop", 1))

    def read(self, record: ReaderRecord, *messages: uffd_abi.uffd_msg) -> None:
        """Expect a read of the userfaultfd that brings `messages`, or EAGAIN without any."""
        size = ctypes.sizeof(uffd_abi.uffd_msg)

        def do() -> None:
            for index, message in enumerate(messages):
                ctypes.memmove(record.messages + index * size, ctypes.addressof(message), size)

        self.read_error(record, len(messages) * size if messages else -errno.EAGAIN, do)

    def read_error(
        self, record: ReaderRecord, reply: int, do: Callable[[], None] | None = None
    ) -> None:
        """Expect a read of the userfaultfd that answers `reply`."""
        self.expect("read", record.uffd, record.messages, record.read_bytes, reply=reply, do=do)

    def poll(
        self,
        record: ReaderRecord,
        *,
        timed: bool = False,
        reply: int = 1,
        do: Callable[[], None] = lambda: None,
    ) -> None:
        """Expect the wait for a message: ppoll, or epoll_pwait2 where the record has an epoll.

        `timed`: no longer than the record's `timeout_ns`; else for ever.
        """
        timespec = _address(record, "sec") if timed else 0

        def check() -> None:
            if timed:
                assert (record.sec, record.nsec) == divmod(record.timeout_ns, 10**9)
            asked = poll.pollfd.from_address(_address(record, "poll_fd"))
            assert (asked.fd, asked.events) == (record.uffd, poll.POLLIN)
            do()

        if record.epoll < 0:
            arguments = (_address(record, "poll_fd"), 1, timespec, 0)
            self.expect("ppoll", *arguments, reply=reply, do=check)
        else:
            arguments = (record.epoll, _address(record, "epoll_event"), 1, timespec, 0, 0)
            self.expect("epoll_pwait2", *arguments, reply=reply, do=check)

    def poll_until_stop(self, record: ReaderRecord) -> None:
        """Expect the wait for a message; a stop interrupts it."""
        self.poll(record, reply=-errno.EINTR, do=lambda: setattr(record, "stop", 1))


@cache
def _clock() -> NativeProgram:
    return load(Steps())


def tsc() -> int:
    """Return the host's TSC now. No script can set it: tests bound what a loop read by this."""
    record = ResolverRecord()
    assert _clock().call("stamp_start", record) == Return.OK
    return int(record.start_cycles)


_active: ScriptedKernel | None = None


def _dispatch(number: int, *arguments: int) -> int:
    kernel = _active
    if kernel is None:
        return _NO_SUCH_CALL
    try:
        return kernel.answer(number, arguments)
    # ctypes would print it and go on; `run` raises it.
    except BaseException as error:  # noqa: BLE001
        return kernel.fail(error)


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 7)(_dispatch)


def _address(record: ctypes.Structure, name: str) -> int:
    return ctypes.addressof(record) + int(getattr(type(record), name).offset)


# --- what records point to ---------------------------------------------------------------------


_FROM_ZERO = (
    "start_ns",
    "fetch_cycles",
    "install_cycles",
    "gate_sleeps",
    "usage_start",
    "usage_end",
)
"""What a loop reports and begins at 0; of all else it must not matter what is there."""

JUNK_BYTE = 0x5A
_JUNK_WORD = int.from_bytes([JUNK_BYTE] * 8)

NO_MEMORY = 0x7E00_0000_0000

BODY = b"\xb0\xd7" * ((PAGE_BYTES - 24) // 2)
"""What a staging page holds between the guest's word and the last tag: no step may touch it."""


class Setting:
    """Bitmaps, staging pages and buffers for records; closed by its fixture.

    Data memory itself is not there: no kernel sees the addresses.
    """

    def __init__(self, pages: int = 23, fds: Iterable[int] = (41,)) -> None:
        self.pages = pages
        self.data_hva = NO_MEMORY
        self.tags = tag_rule(7)
        self.shared = SharedRecord(gate_ns=_JUNK_WORD, sec=_JUNK_WORD, nsec=_JUNK_WORD)
        self.bitmap = MissingBitmap(pages)
        numbers = list(fds)
        self.fds = (ctypes.c_uint32 * len(numbers))(*numbers)
        self._kept: list[object] = []

    def close(self) -> None:
        """Unmap the bitmaps."""
        self.bitmap.close()

    def back(self, record: ResolverRecord) -> None:
        """Put memory behind the data addresses of `record`, for steps that write to a page."""
        self.data_hva = record.data_hva = self._room(self.pages * PAGE_BYTES)
        ctypes.memset(self.data_hva, JUNK_BYTE, self.pages * PAGE_BYTES)

    def stamp(self, page: int, name: str) -> int:
        """Return a stamp that `page` carries in data memory."""
        address = self.data_hva + page * PAGE_BYTES + STAMPS[name]
        return ctypes.c_uint64.from_address(address).value

    def fd_of(self, page: int) -> int:
        """Return the userfaultfd of `page`, with one share."""
        assert len(self.fds) == 1, "state which fd is meant"
        del page
        return int(self.fds[0])

    def _room(self, size_bytes: int) -> int:
        buffer = (ctypes.c_uint64 * (size_bytes // 8))()
        self._kept.append(buffer)
        return ctypes.addressof(buffer)

    def _equip(self, record: ResolverRecord) -> None:
        self._kept.append(record)
        for spec in RESOLVER_FIELDS:
            if spec.use in ("out", "scratch") and spec.name not in _FROM_ZERO:
                setattr(record, spec.name, _JUNK_WORD & (1 << 8 * ctypes.sizeof(spec.ctype)) - 1)
        record.shared = ctypes.addressof(self.shared)
        record.missing = self.bitmap.missing_address
        record.claimed = self.bitmap.claimed_address
        record.pages = self.pages
        record.data_hva, record.data_gpa = self.data_hva, DATA_GPA
        record.uffds, record.uffd_count = ctypes.addressof(self.fds), len(self.fds)
        record.staging = self._room(PAGE_BYTES)
        ctypes.memmove(record.staging + 16, BODY, len(BODY))
        record.tag_multiplier, record.tag_seed = self.tags.multiplier, self.tags.seed

    def resolver(self) -> ResolverRecord:
        """Return the record of a thread that resolves."""
        record = ResolverRecord()
        self._equip(record)
        return record

    def vcpu(self) -> VcpuRecord:
        """Return the record of a vCPU's thread."""
        record = VcpuRecord()
        self._equip(record)
        record.fd, record.last_page = 51, ~0
        record.run = self._room(2 * PAGE_BYTES)
        return record

    def reader(self, *, epoll: int = -1, ring: int = 4) -> ReaderRecord:
        """Return the record of a reader that has been stamped as started."""
        record = ReaderRecord()
        self._equip(record)
        record.uffd = record.poll_fd = self.fds[0]
        record.poll_events, record.epoll = poll.POLLIN, epoll
        record.read_bytes = READ_MESSAGES * ctypes.sizeof(uffd_abi.uffd_msg)
        record.messages = record.next = record.end = self._room(record.read_bytes)
        record.queue = self._room(ring * ctypes.sizeof(PendingRecord))
        record.queue_mask = ring - 1
        record.start_ns, record.timeout_ns = 1, _JUNK_WORD
        return record

    def message(self, page: int, *, offset: int = 0) -> uffd_abi.uffd_msg:
        """Return the message of a fault at byte `offset` of `page`."""
        message = uffd_abi.uffd_msg(event=uffd_abi.UFFD_EVENT_PAGEFAULT)
        message.arg.pagefault.address = self.data_hva + page * PAGE_BYTES + offset
        return message

    def _word(self, base: int, page: int) -> ctypes.c_uint64:
        return ctypes.c_uint64.from_address(base + page // 64 * 8)

    def claim(self, page: int) -> None:
        """Claim `page`, as another thread would."""
        self._word(self.bitmap.claimed_address, page).value |= 1 << page % 64

    def publish(self, page: int) -> None:
        """Clear the missing bit of `page`, as another thread would."""
        self._word(self.bitmap.missing_address, page).value &= ~(1 << page % 64)

    def present(self) -> set[int]:
        """Return the pages whose missing bit is clear."""
        return {page for page in range(self.pages) if not self.bitmap.is_missing(page)}

    def claimed(self) -> set[int]:
        """Return the pages that are claimed."""
        return {page for page in range(self.pages) if self.is_claimed(page)}

    def is_claimed(self, page: int) -> bool:
        """Return whether `page` is claimed."""
        return bool(self.bitmap.claimed(page, 1))

    def missing_word(self, page: int) -> tuple[int, int]:
        """Return (address, value) of the futex for `page`."""
        address = self.bitmap.missing_address + page // 32 * 4
        return address, ctypes.c_uint32.from_address(address).value


def counts(record: ResolverRecord) -> dict[str, int]:
    """Return every counter of `record` that is not 0; no other one has moved.

    What a pipelined reader has put into its ring and taken from it counts here, too.
    """
    fields: list[FieldSpec] = list(RESOLVER_FIELDS)
    fields += VCPU_FIELDS if isinstance(record, VcpuRecord) else ()
    fields += READER_FIELDS if isinstance(record, ReaderRecord) else ()
    names = [f.name for f in fields if f.use in ("count", "peak") or f.name in _RING]
    return {name: getattr(record, name) for name in names if getattr(record, name)}


_RING = ("queue_head", "queue_tail", "repeats")


def failure(record: ResolverRecord) -> tuple[int, int]:
    """Return (failed_call, error)."""
    return record.failed_call, record.error
