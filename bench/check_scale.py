"""How long do a large result and a check of it take: 160 vCPUs, 1000 trials on each side?

Writes two results of made-up numbers, of the size that real ones have (every vCPU's and reader's
raw values, full histograms), and times what ``kvmpc show`` and ``kvmpc check`` do with them. The
aim is under 10 s for load and check together. Needs no KVM.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import TypeVar

import click
from common import print_host, print_table

from kvmpc.judge.reading import read
from kvmpc.judge.regression import check
from kvmpc.result.document import load, to_json
from kvmpc.result.records import Result, TrialResult
from kvmpc.show.formats import format_check, format_result
from kvmpc.show.sentences import format_warnings

PAGERS = ("none", "uffd", "uffd,uffds=per-vcpu", "exit", "exit,uffds=per-vcpu")
HOST: dict[str, object] = {"kernel": {"release": "made up"}, "cpu": {"allowed_count": 160}}

_Found = TypeVar("_Found")


def _trial(draw: Random, pager: str, number: int, vcpus: int) -> TrialResult:
    readers = 0 if pager.startswith(("none", "exit")) else vcpus

    def raw(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(10**9) for _ in range(count))

    rate = draw.lognormvariate(12, 0.03)
    names = (
        "fault_p50_ns",
        "fault_p90_ns",
        "fault_p999_ns",
        "fault_max_ns",
        "setup_ns",
        "start_skew_ns",
    )
    return TrialResult(
        pager=pager,
        label=pager.replace("exit", "exit(sigbus)"),
        fetches=pager != "none",
        round=number,
        status="ok",
        error=None,
        verified="yes",
        vcpus=vcpus,
        expected_pages=vcpus * 16384,
        sparse=False,
        elapsed_ns=draw.randrange(10**10),
        metrics={
            "pages_per_s": rate,
            "mib_per_s": rate / 256,
            "fault_p99_ns": 1e10 / rate,
            "cpu_s_per_gib": 1e6 / rate,
            **dict.fromkeys(names, rate),
        },
        counts={f"count{n}": draw.randrange(10**6) for n in range(20)},
        histogram_cycles=tuple((64 * n, 64 * n + 63, n) for n in range(200)),
        guest_tsc_khz=2.5e6,
        guest_tsc_is_host_tsc=True,
        per_vcpu={f"raw{n}": raw(vcpus) for n in range(6)},
        per_reader={f"raw{n}": raw(readers) for n in range(5)},
        pages_per_node={"0": vcpus * 16384},
        warnings=(),
    )


def _result(seed: int, vcpus: int, trials: int) -> Result:
    draw = Random(seed)
    rounds = range(1, trials // len(PAGERS) + 1)
    made = tuple(_trial(draw, pager, number, vcpus) for number in rounds for pager in PAGERS)
    return Result(
        tool_version="0",
        command=("kvmpc",),
        started="",
        finished=True,
        options={"vcpus": vcpus, "mem_per_vcpu_bytes": 64 << 20},
        pagers=PAGERS,
        labels=tuple(trial.label for trial in made[: len(PAGERS)]),
        host=HOST,
        trials=made,
        warnings=(),
    )


@click.command(help=__doc__)
@click.option("--vcpus", type=click.IntRange(1, 4096), default=160, show_default=True)
@click.option("--trials", type=click.IntRange(50, 100_000), default=1000, show_default=True)
def main(vcpus: int, trials: int) -> None:
    """Write, load, check, show."""
    print_host()
    rows: list[tuple[str, str]] = []

    def timed(what: str, act: Callable[[], _Found]) -> _Found:
        start = time.perf_counter()
        found = act()
        rows.append((what, f"{time.perf_counter() - start:.2f}"))
        return found

    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("old.json", "new.json")]
        for seed, path in enumerate(paths):
            made = _result(seed, vcpus, trials)
            path.write_text(timed(f"document of {path.name}", partial(to_json, made)))
        click.echo(
            f"{vcpus} vCPUs, {trials} trials: {paths[0].stat().st_size / 2**20:.0f} MiB each"
        )
        old, new = (timed(f"load {path.name}", partial(load, str(path))) for path in paths)
        found = timed("check", lambda: check([old], [new]))
    timed("its table", lambda: format_check(found, "table"))
    timed("table of a result", lambda: format_result(read(new), "table"))
    timed("warnings of a result", lambda: format_warnings(read(new)))
    print_table(("step", "s"), rows)


if __name__ == "__main__":
    main()
