"""What does `kvmpc compare` say beside others that want its CPUs, and is 10 % a sound limit?

Two tables. The first runs `compare uffd exit` as a process, by turns: beside nothing that this
script started, and beside a loop for each CPU; each with the policy it has, and under SCHED_FIFO,
where others cannot take its CPU. *refused*: it said that this host is too busy, and gave no ratio.
*had all counted*: the ratio of each round of first trials, starved or not, as it was before.

The second measures trials of uffd and exit by turns under SCHED_FIFO and under the usual policy,
beside loops that want 0 to all of the CPUs, and sorts the usual ones by the share that they lost:
what is left of the rate, to the rate under SCHED_FIFO in the same round; and of exit/uffd, what it
would read were it 1.00. A limit is sound where the last is within what rounds vary by anyway.

Needs root, for the policy. Takes about three minutes. The host should be at rest; where it is not,
others hardly count against a session of much weight (sched(7), "The autogroup feature"):

  setsid -w sh -c 'echo -20 >/proc/self/autogroup; exec python bench/busy_host.py'
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from common import Case, open_session, print_host, print_table, rounds_option, run, spread, warm_up

from kvmpc.exit_codes import EXIT_HOST, EXIT_OK
from kvmpc.judge.rows import compare_rows
from kvmpc.judge.summary import median
from kvmpc.pagers import parse_pager
from kvmpc.result.document import load
from kvmpc.result.metrics import LOST, RATE
from kvmpc.result.records import Result, Role
from kvmpc.run.session import Session
from kvmpc.units import MIB
from kvmpc.work.work import Work

PAGERS = ("uffd", "exit")
BINS = (0.0, 0.02, 0.05, 0.10, 0.15, 0.20, 0.30, 0.50, 1.0)
DUTIES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
PERIOD_S = 0.02


def _burn(duty: float) -> None:
    """Want a CPU for `duty` of the time."""
    while True:
        begin = time.monotonic()
        while time.monotonic() - begin < duty * PERIOD_S:
            pass
        if duty < 1:
            time.sleep((1 - duty) * PERIOD_S)


@contextmanager
def loops(duty: float) -> Iterator[None]:
    """Run a loop for each CPU that this process may use, beside the block."""
    burners = [
        multiprocessing.get_context("spawn").Process(target=_burn, args=(duty,), daemon=True)
        for _ in (os.sched_getaffinity(0) if duty else ())
    ]
    for burner in burners:
        burner.start()
    try:
        if burners:
            time.sleep(0.5)  # until they are at it
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.join()


@contextmanager
def policy(fifo: bool) -> Iterator[None]:
    """Run the block, and threads that it starts, under SCHED_FIFO, or as they would be."""
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    if fifo:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


def _compare(path: Path, *, fifo: bool, rounds: int, size: str) -> tuple[int, Result]:
    command = [sys.executable, "-m", "kvmpc", "compare", *PAGERS, "--rounds", str(rounds)]
    done = subprocess.run(
        [*(("chrt", "-f", "10") if fifo else ()), *command, "--mem-per-vcpu", size,
         "--busy-limit", "10%", "--json", str(path)],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    if done.returncode not in (EXIT_OK, EXIT_HOST):
        raise click.ClickException(f"kvmpc compare: {done.stderr}")
    return done.returncode, load(str(path))


def _of_first_trials(result: Result) -> list[float]:
    """Return exit/uffd of each round, of the first trial of either, starved or not."""
    first: dict[tuple[int, str], float] = {}
    for trial in result.trials:
        if trial.role is Role.MEASURED:
            first.setdefault((trial.round, trial.pager), trial.metrics[RATE.key])
    rounds = dict.fromkeys(number for number, _ in first)
    return [first[number, "exit"] / first[number, "uffd"] for number in rounds]


def _answers(times: int, rounds: int, size: str) -> list[tuple[object, ...]]:
    states = [(duty, fifo) for fifo in (False, True) for duty in (0.0, 1.0)]
    found: dict[tuple[float, bool], list[tuple[int, Result]]] = {state: [] for state in states}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(times):
            for duty, fifo in states if turn % 2 == 0 else reversed(states):
                with loops(duty):
                    path = Path(folder) / f"{turn}-{duty}-{fifo}.json"
                    found[duty, fifo].append(_compare(path, fifo=fifo, rounds=rounds, size=size))
    rows: list[tuple[object, ...]] = []
    for (duty, fifo), runs in found.items():
        given = [
            row.ratio.median
            for _, result in runs
            for row in compare_rows(result)
            if row.spec == "exit" and row.ratio is not None
        ]
        trials = [t for _, result in runs for t in result.trials if t.role is Role.MEASURED]
        rows.append(
            (
                f"{'SCHED_FIFO' if fifo else 'usual'}, {'loops' if duty else 'nothing'} beside",
                f"{sum(code == EXIT_HOST for code, _ in runs)} of {len(runs)}",
                f"{sum(trial.starved for trial in trials)} of {len(trials)}",
                spread(given),
                spread([ratio for _, result in runs for ratio in _of_first_trials(result)]),
            )
        )
    return rows


def _kept(session: Session, rounds: int, mib: int) -> dict[str, list[tuple[float, float]]]:
    """Return (lost, rate to that under SCHED_FIFO) of each usual trial, by pager."""
    work = Work(vcpus=len(os.sched_getaffinity(0)), mem_per_vcpu_bytes=mib * MIB)
    cases = {spec: Case(parse_pager(spec), work) for spec in PAGERS}
    warm_up(session, cases)
    found: dict[str, list[tuple[float, float]]] = {spec: [] for spec in PAGERS}
    for duty in DUTIES:
        with loops(duty):
            for number in range(rounds):
                for spec, case in cases.items():
                    trials = {}
                    for fifo in (True, False) if number % 2 else (False, True):
                        with policy(fifo):
                            trials[fifo] = run(session, case)
                    usual, reference = (trials[fifo].metrics for fifo in (False, True))
                    found[spec].append((usual[LOST.key], usual[RATE.key] / reference[RATE.key]))
    return found


def _by_loss(kept: dict[str, list[tuple[float, float]]]) -> Sequence[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for low, high in itertools.pairwise(BINS):
        of_each = [[rate for lost, rate in kept[spec] if low <= lost < high] for spec in PAGERS]
        uffd, exits = map(median, of_each)
        rows.append(
            (
                f"{low:.0%} to {high:.0%}",
                *(f"{spread(rates)} ({len(rates)})" for rates in of_each),
                f"{exits / uffd:.2f}" if uffd and exits else "-",
            )
        )
    return rows


@click.command(help=__doc__)
@rounds_option(15)
@click.option("--times", type=click.IntRange(0, 100), default=3, show_default=True,
              help="Runs of compare in each state.")  # fmt: skip
@click.option("--mib", type=click.IntRange(1), default=4, show_default=True,
              help="Memory of each vCPU.")  # fmt: skip
@click.option("--json", "path", help="Write (lost, rate) of each trial there.")
def main(rounds: int, times: int, mib: int, path: str | None) -> None:
    print_host()
    if times:
        print_table(
            ("how it ran", "refused", "starved trials", "exit/uffd given", "had all counted"),
            _answers(times, 3, f"{mib}M"),
            "medians and ranges; 3 rounds a run",
        )
    with open_session() as session:
        kept = _kept(session, rounds, mib)
    if path:
        Path(path).write_text(json.dumps(kept))
    print_table(
        ("lost", "rate left of uffd", "rate left of exit", "exit/uffd of 1.00"),
        _by_loss(kept),
        "medians, ranges (trials)",
    )


if __name__ == "__main__":
    main()
