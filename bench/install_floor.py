"""How near is each pager to the floor of its installs: UFFDIO_COPY alone, with no fault?

Takes about 15 s and 60 MiB. The floor is a native loop (no Python in it) that installs pages into
plain memory registered with a userfaultfd: nobody faults, no VM, nobody is woken. Threads start
at one gate and take equal, contiguous shares; with `8 a call` one UFFDIO_COPY installs 8 pages,
which no pager does yet. Floors and pagers are interleaved and compared within a round; a pager's
`install` is the mean time of its own UFFDIO_COPY calls (wall clock: a preempted one counts long).
"""

from __future__ import annotations

import ctypes
import threading
from contextlib import ExitStack

import click
from common import (
    Case,
    numbers,
    open_session,
    print_host,
    print_table,
    rotated,
    rounds_option,
    run,
    spread,
    warm_up,
)

from kvmpc.abi import userfaultfd as abi
from kvmpc.judge.summary import median
from kvmpc.kernel.userfaultfd import Userfaultfd
from kvmpc.loops.program import load
from kvmpc.loops.records import RecordArray, Return, SharedRecord, VcpuRecord
from kvmpc.loops.steps import Steps
from kvmpc.pagers import parse_pager
from kvmpc.units import MIB, PAGE_BYTES, format_ns
from kvmpc.vm.memory import GuestMemory
from kvmpc.work.layout import shares
from kvmpc.work.work import Work

PAGERS = ("none", "uffd", "uffd,uffds=per-vcpu", "exit", "exit,uffds=per-vcpu")
BATCHES = (1, 8)

# copy_loop: rbx = record with copy_dst, copy_src, copy_len (one call's bytes), copy_mode set and
# the userfaultfd in vcpu.fd; r12 = calls to make -> eax = RETURN_*
COPY_LOOP = """
copy_loop:
    call wait_gate
    test eax, eax
    jnz .leave
    call stamp_start
    test eax, eax
    jnz .leave
    call .again
    jmp stamp_end
.again:
    mov qword ptr [rbx + resolver.copy_copy], 0
    mov edi, [rbx + vcpu.fd]
    mov esi, UFFDIO_COPY
    lea rdx, [rbx + resolver.copy_dst]
    mov eax, SYS_IOCTL
    SYSCALL
    test eax, eax
    jnz .failed
    inc qword ptr [rbx + resolver.installs]
    mov rax, [rbx + resolver.copy_len]
    add [rbx + resolver.copy_dst], rax
    dec r12
    jnz .again
    xor eax, eax
.leave:
    ret
.failed:
    mov ecx, CALL_UFFDIO_COPY
    jmp failed
"""


def install_alone(threads: int, batch: int, pages: int) -> float:
    """Install `pages` pages from `threads` threads, `batch` a call; return pages/s."""
    program = load(Steps(), extra=(("install_floor.asm", COPY_LOOP),))
    with ExitStack() as stack:
        shared = stack.enter_context(RecordArray(SharedRecord, 1)).records[0]
        memory = stack.enter_context(GuestMemory(PAGE_BYTES, pages * PAGE_BYTES))
        array = stack.enter_context(RecordArray(VcpuRecord, threads, tail_bytes=8 * PAGE_BYTES))
        uffd = stack.enter_context(Userfaultfd())
        uffd.register(memory.data_hva, memory.data_bytes)
        codes: list[int] = []
        workers = []
        for index, (first, count) in enumerate(shares(pages // batch, threads)):
            record = array.records[index]
            record.shared = ctypes.addressof(shared)
            record.fd = uffd.fd
            record.copy_dst = memory.hva_of_page(first * batch)
            record.copy_src = array.tails[index]
            record.copy_len = batch * PAGE_BYTES
            record.copy_mode = abi.UFFDIO_COPY_MODE_DONTWAKE
            workers.append(
                threading.Thread(
                    target=lambda record=record, count=count: codes.append(
                        program.call("copy_loop", record, count)
                    )
                )
            )
        for worker in workers:
            worker.start()
        program.call("open_gate", shared)
        for worker in workers:
            worker.join()
        if codes != [Return.OK] * threads:
            error = max(record.error for record in array.records)
            raise click.ClickException(f"UFFDIO_COPY failed with errno {error}")
        end_ns = max(record.end_ns for record in array.records)
        return float(pages // batch * batch / (end_ns - shared.gate_ns) * 1e9)


@click.command(help=__doc__)
@rounds_option(7)
@click.option("--vcpus", default="1,2", show_default=True, callback=numbers,
              help="vCPUs, and threads of the floor.")  # fmt: skip
@click.option("--mib", type=click.IntRange(1), default=8, show_default=True,
              help="Memory of each vCPU.")  # fmt: skip
def main(rounds: int, vcpus: tuple[int, ...], mib: int) -> None:
    print_host()
    rows = []
    with open_session() as session:
        for count in vcpus:
            work = Work(vcpus=count, mem_per_vcpu_bytes=mib * MIB)
            # Of one vCPU, per-vcpu is the same as one.
            specs = [spec for spec in PAGERS if count > 1 or "per-vcpu" not in spec]
            cases = {spec: Case(parse_pager(spec), work) for spec in specs}
            floors = {f"UFFDIO_COPY, {batch} a call": batch for batch in BATCHES}
            warm_up(session, cases)
            rates: dict[str, list[float]] = {name: [] for name in [*floors, *cases]}
            install_ns: dict[str, list[float]] = {name: [] for name in cases}
            for number, name in rotated(rates, rounds):
                if name in floors:
                    rates[name].append(install_alone(count, floors[name], work.total_pages))
                    continue
                metrics = run(session, cases[name], number).metrics
                rates[name].append(metrics["pages_per_s"])
                if "install_ns_per_page" in metrics:
                    install_ns[name].append(metrics["install_ns_per_page"])
            floor = rates[next(iter(floors))]
            for name, found in rates.items():
                rate = median(found) or 0.0
                own = median(install_ns.get(name, ()))
                rows.append(
                    (
                        count,
                        cases[name].pager.label if name in cases else name,
                        f"{rate:.0f}",
                        format_ns(count * 1e9 / rate),
                        spread([a / b for a, b in zip(found, floor, strict=True)], 3),
                        "" if own is None else format_ns(own),
                    )
                )
    print_table(
        ("threads", "", "pages/s", "a page and thread", "to the floor", "install"),
        rows,
        f"medians of {rounds} rounds, [lowest-highest]; the floor is UFFDIO_COPY, 1 a call",
    )


if __name__ == "__main__":
    main()
