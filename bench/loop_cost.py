"""What share of a trial is kvmpc's own code: neither a system call nor the guest?

Takes about 15 s and 50 MiB. Kernel accounting cannot tell: it samples user time by the tick, and
counts the guest's time as user time or not. So two measurements, one from each side:

in situ
    Real trials, with the loops assembled with a probe in place of every system-call instruction.
    It reads the TSC before and after the call, and sums the gaps between the end of one call and
    the begin of the next: all the time that a thread spends in our code, cold caches included. A
    gap above --gap-limit cycles is a preempted thread; such gaps are left out, and counted. What
    the probe itself adds to a gap is measured on calls made back to back, and subtracted. The
    share is of the CPU time of all vCPU and reader threads, the guest's included; `at most` is
    the same without the subtraction. `probed` is the rate with probes over that without, in the
    same round.
warm
    The loops alone, on a scripted kernel of a few instructions that always has the next page's
    fault or message at hand: nanoseconds a page with hot caches and predictors, the script's own
    instructions included.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from typing import Any
from unittest import mock

import click
from common import (
    Case,
    open_session,
    paired,
    print_host,
    print_table,
    rotated,
    rounds_option,
    run,
    spread,
    warm_up,
)

from kvmpc.judge.summary import median
from kvmpc.loops import program as native
from kvmpc.loops.records import (
    ReaderRecord,
    RecordArray,
    ResolverRecord,
    Return,
    SharedRecord,
    VcpuRecord,
)
from kvmpc.loops.steps import Steps
from kvmpc.pagers import pager as base
from kvmpc.pagers import parse_pager
from kvmpc.result.records import TrialResult
from kvmpc.trial import clocks, tally
from kvmpc.units import MIB, PAGE_BYTES
from kvmpc.vm.bitmap import MissingBitmap
from kvmpc.vm.memory import DATA_GPA
from kvmpc.work.work import Work

PAGERS = ("uffd", "exit")
FLOOR_CALLS = 100_000
WARM_PAGES = 1_000_000

# Where the probe keeps its sums: in the middle of the thread's staging page, where no tag is. Pages
# are installed with them inside, and nobody looks.
LAST, SUM, GAPS, LONG = 1024, 1032, 1040, 1048

PROBE = """
; probed_kernel: what SYSCALL calls. Like the instruction it changes rax, rcx and r11 only.
probed_kernel:
    push rdx
    push rax
    mov rcx, [rbx + resolver.staging]
    test rcx, rcx
    jz .call                                ; the gate's opener: a record without a staging page
    cmp qword ptr [rbx + resolver.start_cycles], 0
    je .call                                ; before the gate
    lfence
    rdtsc
    shl rdx, 32
    or rax, rdx
    sub rax, [rcx + LAST]
    cmp rax, GAP_LIMIT
    ja .long
    add [rcx + SUM], rax
    inc qword ptr [rcx + GAPS]
    jmp .call
.long:
    inc qword ptr [rcx + LONG]
.call:
    pop rax
    pop rdx
    ud2                                     ; becomes the system-call instruction
    push rdx
    push rax
    mov rcx, [rbx + resolver.staging]
    test rcx, rcx
    jz .leave
    lfence
    rdtsc
    shl rdx, 32
    or rax, rdx
    mov [rcx + LAST], rax
.leave:
    pop rax
    pop rdx
    ret

; probe_floor: r12 = system calls to make, one right behind the other
probe_floor:
    mov eax, 0xffff                         ; no such system call: ENOSYS at once
    SYSCALL
    dec r12
    jnz probe_floor
    xor eax, eax
    ret
"""

SCRIPT = """
; scripted_kernel: KVM_RUN faults at the next page; read finds a message, then none, in turns; poll
; always has one; all else succeeds. resolver.range_start is the next page, range_len their number.
scripted_kernel:
    cmp eax, SYS_READ
    je .read
    cmp eax, SYS_PPOLL
    je .poll
    cmp eax, SYS_IOCTL
    jne .done
    cmp esi, KVM_RUN
    jne .done
    mov rcx, [rbx + resolver.range_start]
    cmp rcx, [rbx + resolver.range_len]
    jae .done
    inc qword ptr [rbx + resolver.range_start]
    shl rcx, UNIT_SHIFT
    add rcx, [rbx + resolver.data_gpa]
    mov [rbp + kvm_run.memory_fault_gpa], rcx
    mov dword ptr [rbp + kvm_run.exit_reason], KVM_EXIT_MEMORY_FAULT
    mov eax, -EFAULT
    ret
.read:
    xor qword ptr [rbx + reader.epoll_data], 1
    test qword ptr [rbx + reader.epoll_data], 1
    jz .none
    mov rcx, [rbx + resolver.range_start]
    inc qword ptr [rbx + resolver.range_start]
    shl rcx, UNIT_SHIFT
    add rcx, [rbx + resolver.data_hva]
    mov [rsi + uffd_msg.address], rcx
    mov byte ptr [rsi + uffd_msg.event], UFFD_EVENT_PAGEFAULT
    mov rcx, [rbx + resolver.range_start]
    cmp rcx, [rbx + resolver.range_len]
    jb .message
    mov dword ptr [rbx + resolver.stop], 1
.message:
    mov eax, UFFD_MSG_BYTES
    ret
.none:
    mov eax, -EAGAIN
    ret
.poll:
    mov eax, 1
    ret
.done:
    xor eax, eax
    ret
"""


@cache
def probed_program(steps: Steps, gap_limit: int) -> native.NativeProgram:
    """Return the loops with the probe around every system call."""
    text = PROBE
    names = {"LAST": LAST, "SUM": SUM, "GAPS": GAPS, "LONG": LONG, "GAP_LIMIT": gap_limit}
    for name, value in names.items():
        text = text.replace(f"+ {name}]", f"+ {value}]").replace(f", {name}\n", f", {value}\n")
    built = native.build(steps, extra=[("probe.asm", text)], syscall="probed_kernel")
    # The assembler would make a call of SYSCALL here as well, so the instruction is put in by hand.
    [place] = [line.offset for line in built.listing if line.text == "ud2"]
    code = built.code[:place] + b"\x0f\x05" + built.code[place + 2 :]
    return native.NativeProgram(replace(built, code=code))


def read_probe(record: ResolverRecord) -> tuple[int, int, int]:
    """Return (cycles in gaps, gaps, gaps above the limit) of one thread."""
    sums = [ctypes.c_uint64.from_address(record.staging + at).value for at in (SUM, GAPS, LONG)]
    return sums[0], sums[1], sums[2]


@contextmanager
def probed(gap_limit: int) -> Iterator[None]:
    """Make trials use the probed loops and put what the probes found into their metrics."""
    plain_metrics = tally.metrics

    def load(steps: Steps, unit_bytes: int) -> native.NativeProgram:
        assert unit_bytes == PAGE_BYTES
        return probed_program(steps, gap_limit)

    def metrics(
        work: Work,
        *,
        vcpus: Sequence[VcpuRecord],
        readers: Sequence[ReaderRecord],
        **others: Any,
    ) -> dict[str, float]:
        found = plain_metrics(work, vcpus=vcpus, readers=readers, **others)
        threads = [*vcpus, *readers]
        probes = [read_probe(thread) for thread in threads]
        for index, name in enumerate(("gap_cycles", "gaps", "long_gaps")):
            found[name] = float(sum(probe[index] for probe in probes))
        cpu_ns = (found["cpu_vcpus_s"] + found["cpu_readers_s"]) * 1e9
        found["cpu_cycles"] = cpu_ns * clocks.cycles_per_ns(threads)
        found["cycles_per_ns"] = clocks.cycles_per_ns(threads)
        return found

    with mock.patch.object(base, "load", load), mock.patch.object(tally, "metrics", metrics):
        yield


def probe_floor(gap_limit: int) -> float:
    """Return the cycles of a gap in which nothing but the probe happens."""
    with RecordArray(VcpuRecord, 1, tail_bytes=PAGE_BYTES) as array:
        record = array.records[0]
        record.staging, record.start_cycles = array.tails[0], 1
        probed_program(Steps(), gap_limit).call("probe_floor", record, FLOOR_CALLS)
        cycles, gaps, _ = read_probe(record)
    return cycles / gaps


@cache
def scripted_program(steps: Steps) -> native.NativeProgram:
    """Return the loops on the scripted kernel."""
    return native.NativeProgram(
        native.build(steps, extra=[("script.asm", SCRIPT)], syscall="scripted_kernel")
    )


def warm_ns(pager: str) -> float:
    """Return the nanoseconds a page of a pager's loop on the scripted kernel."""
    kind: type[ResolverRecord] = VcpuRecord if pager == "exit" else ReaderRecord
    steps = Steps(lost="lost_wait", wake="wake_losers") if pager == "exit" else Steps()
    function = "vcpu_loop" if pager == "exit" else "reader_loop"
    program = scripted_program(steps)
    with ExitStack() as stack:
        shared = stack.enter_context(RecordArray(SharedRecord, 1)).records[0]
        bitmap = stack.enter_context(MissingBitmap(WARM_PAGES))
        array = stack.enter_context(RecordArray(kind, 1, tail_bytes=3 * PAGE_BYTES))
        record, staging = array.records[0], array.tails[0]
        fds = ctypes.c_uint32(0)
        record.shared = ctypes.addressof(shared)
        record.missing, record.claimed = bitmap.missing_address, bitmap.claimed_address
        record.pages = record.range_len = WARM_PAGES
        # Never dereferenced: the script installs nothing.
        record.data_hva = record.data_gpa = DATA_GPA
        record.uffds, record.uffd_count = ctypes.addressof(fds), 1
        record.staging = staging
        if isinstance(record, VcpuRecord):
            record.run, record.last_page = staging + PAGE_BYTES, ~0
        elif isinstance(record, ReaderRecord):
            record.messages = record.next = record.end = staging + PAGE_BYTES
            record.epoll = -1
        begin = time.perf_counter_ns()
        code = program.call(function, record)
        took = time.perf_counter_ns() - begin
        expected = Return.EXIT if pager == "exit" else Return.STOPPED
        if code != expected or record.installs < WARM_PAGES - 1:
            raise click.ClickException(f"{function} ended with {code} after {record.installs}")
        return float(took / record.installs)


@click.command(help=__doc__)
@rounds_option(7)
@click.option("--vcpus", type=click.IntRange(1), default=2, show_default=True)
@click.option("--mib", type=click.IntRange(1), default=8, show_default=True,
              help="Memory of each vCPU.")  # fmt: skip
@click.option("--gap-limit", type=click.IntRange(1000, 2**30), default=20_000, show_default=True,
              help="Cycles; a longer gap is taken for preemption.")  # fmt: skip
def main(rounds: int, vcpus: int, mib: int, gap_limit: int) -> None:
    work = Work(vcpus=vcpus, mem_per_vcpu_bytes=mib * MIB)
    cases = {spec: Case(parse_pager(spec), work) for spec in PAGERS}
    plain: dict[str, list[TrialResult]] = {spec: [] for spec in PAGERS}
    instrumented: dict[str, list[TrialResult]] = {spec: [] for spec in PAGERS}
    floors: list[float] = []
    warm: dict[str, list[float]] = {spec: [] for spec in PAGERS}
    print_host()
    with open_session() as session:
        warm_up(session, cases)
        for number, spec in rotated(PAGERS, rounds):
            floors.append(probe_floor(gap_limit))
            plain[spec].append(run(session, cases[spec], number))
            with probed(gap_limit):
                instrumented[spec].append(run(session, cases[spec], number))
            warm[spec].append(warm_ns(spec))
    floor = min(floors)
    rows = []
    for spec in PAGERS:
        found = [trial.metrics for trial in instrumented[spec]]
        own = [m["gap_cycles"] - m["gaps"] * floor for m in found]
        shares = [100 * cycles / m["cpu_cycles"] for cycles, m in zip(own, found, strict=True)]
        most = [100 * m["gap_cycles"] / m["cpu_cycles"] for m in found]
        own_ns = [
            cycles / m["cycles_per_ns"] / work.expected_pages
            for cycles, m in zip(own, found, strict=True)
        ]
        rows.append(
            (
                instrumented[spec][0].label,
                f"{spread(shares, 2)} %",
                f"{median(most) or 0:.2f} %",
                f"{median(own_ns) or 0:.0f}",
                f"{min(warm[spec]):.0f}",
                f"{sum(m['gaps'] for m in found) / len(found) / work.expected_pages:.1f}",
                f"{sum(m['long_gaps'] for m in found) / sum(m['gaps'] for m in found):.2%}",
                spread(paired(instrumented[spec], plain[spec])),
            )
        )
    print_table(
        (
            "pager",
            "own share of CPU",
            "at most",
            "ns a page",
            "warm ns",
            "calls a page",
            "left out",
            "probed",
        ),
        rows,
        f"medians of {rounds} rounds, [lowest-highest]; {vcpus} vCPUs; the probe's own part of a "
        f"gap is {floor:.0f} cycles",
    )


if __name__ == "__main__":
    main()
