"""What does kvmpc itself cost: time to set a guest up and take it down, and memory, per vCPU?

Takes about 40 s with the defaults and 200 MiB at 1024 vCPUs. Aims: 160 vCPUs ready in under 0.25 s
beyond mapping memory; under 64 KiB of kvmpc's own memory a vCPU; growth linear.

Each size runs in a process of its own, where a trial of one vCPU comes first: imports and the
assembler are paid once a process, not once a vCPU. Guest memory is tiny (4 pages a vCPU), so that
mapping it does not dominate; what GuestMemory and the memslots take is subtracted all the same
(`beyond mapping`). Times are medians of --trials. `CPU` is what set-up took of the CPUs in this
process, all threads: on a machine that does other things as well, it says more than the wall
clock. `after` is between the last page and the tear-down: verifying, counting.

Memory is the growth from before the trial to the gate, when every vCPU is parked and no page of
data memory is there, in the first trial of that size: `anon` (stacks, records, the guest's own
page, Python's objects) and `file` (the pages of struct kvm_run) from /proc/self/smaps_rollup;
`tables` are this process's page tables (VmPTE); `kernel` is the host's fall in MemAvailable beyond
these, which holds KVM's vCPUs and kernel stacks, and whatever else the machine did meanwhile (so
it is the median of all trials). `left` is what anonymous memory has grown by after that trial. A
vCPU's part is the growth over one vCPU's, divided by the further vCPUs, so that fixed costs do not
flatter the small sizes.

--stages says where set-up goes: the wall time in each part, which with more threads than CPUs
includes what those already started take of the CPU.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import click
from common import Case, numbers, open_session, print_host, print_table, run

from kvmpc.host.files import read_meminfo_bytes
from kvmpc.judge.summary import median
from kvmpc.kernel import kvm
from kvmpc.pagers import parse_pager
from kvmpc.pagers.shares import UffdShares
from kvmpc.run import needs
from kvmpc.trial.crew import Crew
from kvmpc.trial.kvm_counters import TrialStats
from kvmpc.trial.watchdog import Watchdog
from kvmpc.units import KIB, PAGE_BYTES
from kvmpc.vm import guest, memory
from kvmpc.work.work import Work

PAGES_PER_VCPU = 4

# Where the wall time of set-up and of the end of a trial goes; none of these calls another of them.
STAGES: dict[str, tuple[Any, str]] = {
    "map memory": (memory.GuestMemory, "__init__"),
    "memslots": (memory.GuestMemory, "give_to"),
    "write tables": (guest.Guest, "__init__"),
    "register uffds": (UffdShares, "__init__"),
    "KVM_CREATE_VM": (kvm.Kvm, "create_vm"),
    "KVM_CREATE_VCPU": (kvm.Vm, "create_vcpu"),
    "KVM_SET_CPUID2": (kvm.Vcpu, "set_cpuid"),
    "KVM_GET_SREGS": (kvm.Vcpu, "get_sregs"),
    "KVM_SET_SREGS": (kvm.Vcpu, "set_sregs"),
    "KVM_SET_REGS": (kvm.Vcpu, "set_regs"),
    "TSC offset": (kvm.Vcpu, "share_host_tsc"),
    "start threads": (Crew, "start"),
    "wait for ready": (Watchdog, "wait"),
    "KVM statistics": (TrialStats, "begin"),  # before the gate, after set-up
}
MAPPING = ("map memory", "memslots")


@contextmanager
def stopwatch() -> Iterator[dict[str, float]]:
    """Yield a dict of the ns spent in each stage of `STAGES` so far; the caller clears it."""
    spent: dict[str, float] = {}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **keywords: Any) -> Any:
            begin = time.perf_counter_ns()
            try:
                return function(*args, **keywords)
            finally:
                spent[name] = spent.get(name, 0.0) + time.perf_counter_ns() - begin

        return wrapper

    with ExitStack() as stack:
        for name, (owner, attribute) in STAGES.items():
            wrapper = timed(name, getattr(owner, attribute))
            stack.enter_context(mock.patch.object(owner, attribute, wrapper))
        yield spent


def memory_now() -> dict[str, int]:
    """Return this process's memory and the host's available memory, in bytes."""
    rollup = Path("/proc/self/smaps_rollup").read_text("ascii")
    status = Path("/proc/self/status").read_text("ascii")

    def field(text: str, name: str) -> int:
        match = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
        return int(match[1]) * KIB if match else 0

    anon = field(rollup, "Anonymous")
    return {
        "anon": anon,
        "file": field(rollup, "Rss") - anon,
        "tables": field(status, "VmPTE"),
        "available": read_meminfo_bytes(Path("/proc/meminfo"))["MemAvailable"],
    }


def grown_since(before: dict[str, int]) -> dict[str, int]:
    """Return the growth of each kind; `kernel` is what the host lost beyond the others."""
    now = memory_now()
    grown = {name: now[name] - before[name] for name in before}
    lost = -grown.pop("available")
    return grown | {"kernel": lost - sum(grown.values())}


@contextmanager
def at_gate(look: Callable[[], None]) -> Iterator[None]:
    """Call `look` right before the gate opens: set-up has been timed, nothing runs."""
    plain = Crew.open_gate

    def open_gate(crew: Crew) -> None:
        look()
        plain(crew)

    with mock.patch.object(Crew, "open_gate", open_gate):
        yield


def measure(spec: str, vcpus: int, trials: int) -> dict[str, Any]:
    """Measure one pager at one size in this process; JSON for the parent."""
    work = Work(vcpus=vcpus, mem_per_vcpu_bytes=PAGES_PER_VCPU * PAGE_BYTES)
    case = Case(parse_pager(spec), work)
    first = Case(case.pager, Work(vcpus=1, mem_per_vcpu_bytes=PAGES_PER_VCPU * PAGE_BYTES))
    samples: list[dict[str, int]] = []
    found: dict[str, Any] = {"times": [], "stages": []}
    with open_session() as session:
        needs.check_run(session.kvm, work, [case.pager])
        run(session, first)
        before = memory_now()
        with at_gate(lambda: samples.append(grown_since(before))):
            run(session, case)
        left = memory_now()["anon"] - before["anon"]
        for number in range(1, trials + 1):
            before = memory_now()
            with stopwatch() as spent:
                looks: list[tuple[int, dict[str, float]]] = []

                def look(
                    looks: list[tuple[int, dict[str, float]]] = looks,
                    spent: dict[str, float] = spent,
                    before: dict[str, int] = before,
                ) -> None:
                    looks.append((time.process_time_ns(), spent.copy()))
                    samples.append(grown_since(before))

                with at_gate(look):
                    cpu_begin, begin = time.process_time_ns(), time.monotonic_ns()
                    result = run(session, case, number)
                    wall = time.monotonic_ns() - begin
            cpu_end, stages = looks[0]
            setup, teardown = result.metrics["setup_ns"], result.metrics["teardown_ns"]
            found["stages"].append(stages)
            found["times"].append(
                {
                    "setup": setup,
                    "beyond": setup - sum(stages[name] for name in MAPPING),
                    "cpu": cpu_end - cpu_begin,
                    "after": wall - setup - teardown - (result.elapsed_ns or 0),
                    "teardown": teardown,
                }
            )
    kernel = median(sample["kernel"] for sample in samples)
    found["memory"] = samples[0] | {"kernel": kernel, "left": left}
    return found


def in_own_process(spec: str, vcpus: int, trials: int) -> dict[str, Any]:
    """Return what `measure` finds in a fresh process."""
    command = [sys.executable, __file__, "--child", spec, str(vcpus), str(trials)]
    process = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if process.returncode:
        raise click.ClickException(f"{spec} at {vcpus} vCPUs: see above")
    found: dict[str, Any] = json.loads(process.stdout)
    return found


def median_of(rows: list[dict[str, float]], name: str) -> float:
    """Return the median of one entry of several dicts."""
    return median(row.get(name, 0.0) for row in rows) or 0.0


class Growth:
    """A quantity at several sizes, and what one more vCPU adds to it."""

    def __init__(self, values: dict[int, float]) -> None:
        self.values = values
        self.base = min(values)

    def each(self, vcpus: int) -> float | None:
        """Return the growth over the smallest size, by the further vCPUs."""
        if vcpus == self.base:
            return None
        return (self.values[vcpus] - self.values[self.base]) / (vcpus - self.base)

    def ratio(self) -> str:
        """Return how much dearer a vCPU is at the largest size than at the second smallest."""
        sizes = sorted(self.values)
        if len(sizes) < 3:
            return "-"
        small, large = self.each(sizes[1]), self.each(sizes[-1])
        return f"{large / small:.2f}" if small and large and small > 0 else "-"


@click.command(help=__doc__)
@click.option("--vcpus", default="1,16,160,1024", show_default=True, callback=numbers)
@click.option("--trials", type=click.IntRange(1), default=3, show_default=True,
              help="Timed trials at each size.")  # fmt: skip
@click.option("--stages", is_flag=True, help="Show where the time of set-up goes.")
@click.option("--child", nargs=3, type=(str, int, int), hidden=True)
@click.argument("pagers", nargs=-1)
def main(
    vcpus: tuple[int, ...],
    trials: int,
    stages: bool,
    child: tuple[str, int, int] | None,
    pagers: tuple[str, ...],
) -> None:
    if child is not None:
        click.echo(json.dumps(measure(*child)))
        return
    print_host()
    sizes = sorted(set(vcpus))
    times, sizes_rows, stage_rows, ratios = [], [], [], []
    for spec in pagers or ("uffd", "exit"):
        found = {count: in_own_process(spec, count, trials) for count in sizes}
        beyond = Growth({n: median_of(found[n]["times"], "beyond") for n in sizes})
        cpu = Growth({n: median_of(found[n]["times"], "cpu") for n in sizes})
        teardown = Growth({n: median_of(found[n]["times"], "teardown") for n in sizes})
        own = Growth({n: found[n]["memory"]["anon"] + found[n]["memory"]["file"] for n in sizes})
        ratios.append((spec, beyond.ratio(), cpu.ratio(), teardown.ratio(), own.ratio()))
        for count in sizes:
            row = found[count]["times"]
            times.append(
                (
                    spec,
                    count,
                    ms(median_of(row, "setup")),
                    ms(beyond.values[count]),
                    ms(min(time["beyond"] for time in row)),
                    us(beyond.each(count)),
                    ms(cpu.values[count]),
                    us(cpu.each(count)),
                    ms(median_of(row, "after")),
                    ms(teardown.values[count]),
                    us(teardown.each(count)),
                )
            )
            parts = [
                Growth({n: found[n]["memory"][name] for n in sizes}).each(count)
                for name in ("anon", "file", "tables", "kernel", "left")
            ]
            sizes_rows.append((spec, count, *(kib(part) for part in parts), kib(own.each(count))))
            stage_rows += [
                (spec, count, name, ms(ns), us(ns / count))
                for name in STAGES
                if (ns := median_of(found[count]["stages"], name)) > 0
            ]
    print_table(
        ("pager", "vCPUs", "set-up", "beyond mapping", "lowest", "us a vCPU", "CPU", "us a vCPU",
         "after", "tear-down", "us a vCPU"),
        times,
        f"ms, medians of {trials} trials",
    )  # fmt: skip
    print_table(
        ("pager", "vCPUs", "anon", "file", "tables", "kernel", "left", "own (anon + file)"),
        sizes_rows,
        "KiB a vCPU",
    )
    if len(sizes) > 2:
        print_table(
            ("pager", "set-up", "its CPU", "tear-down", "own memory"),
            ratios,
            f"the cost of one vCPU at {sizes[-1]} over that at {sizes[1]}; 1 = linear",
        )
    if stages:
        print_table(("pager", "vCPUs", "stage of set-up", "ms", "us a vCPU"), stage_rows)


def ms(ns: float) -> str:
    """Return milliseconds."""
    return f"{ns / 1e6:.1f}"


def us(ns: float | None) -> str:
    """Return microseconds."""
    return "-" if ns is None else f"{ns / 1e3:.0f}"


def kib(count: float | None) -> str:
    """Return KiB."""
    return "-" if count is None else f"{count / KIB:.1f}"


if __name__ == "__main__":
    main()
