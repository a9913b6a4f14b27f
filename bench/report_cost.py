"""How long does a page of a large result take, and where does the time go?

The result is made up: 160 vCPUs and 1000 trials unless told otherwise, with everything in it that
grows with either. The aim is under 10 s from the file to the page. Needs the extra kvmpc[report],
no KVM. Times are CPU seconds of this process, which other load on the host moves less than it
moves the clock; the clock's are beside them.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click
from common import print_host, print_table

from kvmpc.result.document import load, to_json
from kvmpc.result.records import Point, Result, TrialResult
from kvmpc.show.page.page import render

PAGERS = ("none", "uffd", "uffd,readers=4", "uffd,uffds=per-vcpu", "exit", "exit,uffds=per-vcpu")
_T = TypeVar("_T")


def made_up(vcpus: int, trials: int, points: int) -> Result:
    """Return a finished result with so many trials of `PAGERS`, spread over sizes up to `vcpus`."""
    chance = random.Random(1)
    sizes = sorted({max(1, vcpus >> shift) for shift in range(points)})
    made = []
    for number in range(trials):
        turn, row = divmod(number, len(PAGERS) * len(sizes))
        made.append(_trial(PAGERS[row % len(PAGERS)], sizes, row // len(PAGERS), turn + 1, chance))
    return Result(
        tool_version="0",
        command=("kvmpc", "sweep", "made up"),
        started="2025-01-31T12:00:00+00:00",
        finished=True,
        options={"vcpus": vcpus, "mem_per_vcpu_bytes": 1 << 22, "fetch_delay_ns": 0},
        pagers=PAGERS,
        labels=PAGERS,
        host={"hostname": "none", "kernel": {"release": "none"}},
        trials=tuple(made),
        warnings=(),
        points=tuple(Point(options={"vcpus": size}, pagers=PAGERS) for size in sizes)
        if len(sizes) > 1
        else (),
    )


def _trial(
    pager: str, sizes: list[int], point: int, number: int, chance: random.Random
) -> TrialResult:
    rate, vcpus = 1e5 * chance.uniform(0.9, 1.1), sizes[point]
    elapsed_ns = round(1024 * vcpus / rate * 1e9)
    names = ("install_ns_per_page", "fault_p50_ns", "fault_p99_ns")
    return TrialResult(
        pager=pager,
        label=pager,
        fetches=pager != "none",
        round=number,
        status="ok",
        error=None,
        verified="yes",
        vcpus=vcpus,
        expected_pages=1024 * vcpus,
        sparse=False,
        elapsed_ns=elapsed_ns,
        metrics={
            "pages_per_s": rate,
            "mib_per_s": rate / 256,
            "cpu_vcpus_s": vcpus * 0.1,
            "cpu_readers_s": 0.1,
            "cpu_s_per_gib": chance.uniform(5, 6),
            **{name: chance.uniform(1e4, 1e5) for name in names},
        },
        counts=dict.fromkeys(("installs", "reads", "messages", "kvm_runs"), 1024 * vcpus),
        histogram_cycles=tuple(
            (low, low + (1 << shift - 4) - 1, chance.randrange(1, 1000))
            for shift in range(8, 24)
            for low in range(1 << shift, 1 << shift + 1, 1 << shift - 4)
        ),
        guest_tsc_khz=2.5e6,
        guest_tsc_is_host_tsc=True,
        per_vcpu={
            name: tuple(chance.randrange(1, elapsed_ns) + add for _ in range(vcpus))
            for name, add in (("start_ns", 0), ("end_ns", elapsed_ns), ("cpu_ns", 0))
        },
        per_reader={"messages": tuple(range(vcpus))},
        pages_per_node={"0": 1024 * vcpus},
        warnings=(),
        point=point,
    )


@click.command(help=__doc__)
@click.option("--vcpus", type=click.IntRange(1, 4096), default=160, show_default=True)
@click.option("--trials", type=click.IntRange(1, 100_000), default=1000, show_default=True)
def main(vcpus: int, trials: int) -> None:
    print_host()
    rows = []
    for points in (1, 9):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "result.json")
            file.write_text(to_json(made_up(vcpus, trials, points)), encoding="ascii")
            result, *loading = timed(lambda file=file: load(str(file)))  # type: ignore[misc]
            page, *rendering = timed(lambda result=result: render([("r", result)]))  # type: ignore[misc]
            cpu_s, clock_s = (sum(both) for both in zip(loading, rendering, strict=True))
            rows.append(
                (
                    f"{points} point{'s' * (points > 1)}",
                    f"{file.stat().st_size / 1e6:.1f} MB",
                    f"{loading[0]:.2f}",
                    f"{rendering[0]:.2f}",
                    f"{cpu_s:.2f}",
                    f"{clock_s:.2f}",
                    f"{len(page) / 1e6:.2f} MB",
                )
            )
    print_table(
        ("result", "file", "load CPU s", "page CPU s", "CPU s", "clock s", "page"),
        rows,
        f"{vcpus} vCPUs at most, {trials} trials; without Python's start and its imports (1 s)",
    )


def timed(call: Callable[[], _T]) -> tuple[_T, float, float]:
    """Return what a call returns, its CPU seconds and those of the clock."""
    cpu, clock = time.process_time(), time.monotonic()
    value = call()
    return value, time.process_time() - cpu, time.monotonic() - clock


if __name__ == "__main__":
    main()
