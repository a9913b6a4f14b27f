"""What do the guest's timing and its tag checks cost? They should be under 2 % of a real trial.

Takes about 45 s and 80 MiB. The same trial with both on (as kvmpc always runs), with one of them
off, with both off, and a second time with both on: the last shows what pure noise looks like. A
cost is what the trial with both on takes over the one without, less one, within a round: once of
the clock, once of the CPU time of all its threads, which other load disturbs less. An interval
holds the true median with 95 % confidence (by ranks, with no assumption on the distribution); a
cost whose interval holds zero is within the noise, marked ``~``.

Both cost a fixed CPU time a page, whoever supplies it. ``none,host=populated`` supplies nothing and
shows that time best (in four times the pages and twice the rounds); the second table is the
difference of its lowest CPU times with and without, set against each pager's own CPU time for a
page. That is the sharper answer wherever the first table drowns in noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import click
from common import (
    Case,
    interleaved,
    open_session,
    paired,
    print_host,
    print_table,
    rounds_option,
)

from kvmpc.judge.intervals import median_interval
from kvmpc.judge.summary import median
from kvmpc.pagers import parse_pager
from kvmpc.result.records import TrialResult
from kvmpc.units import GIB, MIB, PAGE_BYTES
from kvmpc.work.work import Work

WITHOUT = {  # what is off: (timed, checked)
    "timing": (False, True),
    "checks": (True, False),
    "both": (False, False),
    "(nothing)": (True, True),
}
SENSITIVE = "none,host=populated"


@click.command(help=__doc__)
@rounds_option(15)
@click.option("--vcpus", type=click.IntRange(1), default=1, show_default=True)
@click.option("--mib", type=click.IntRange(1), default=8, show_default=True,
              help="Memory of each vCPU.")  # fmt: skip
@click.argument("pagers", nargs=-1)
def main(rounds: int, vcpus: int, mib: int, pagers: tuple[str, ...]) -> None:
    print_host()
    rows = []
    cost_ns: dict[str, float] = {}
    page_ns: dict[str, float] = {}
    with open_session() as session:
        for spec in dict.fromkeys((SENSITIVE, *(pagers or ("uffd", "exit")))):
            pager, scale = parse_pager(spec), 4 if spec == SENSITIVE else 1
            size = Work(vcpus=vcpus, mem_per_vcpu_bytes=mib * MIB * scale)
            cases = {"on": Case(pager, size)}
            for name, (timed, checked) in WITHOUT.items():
                cases[name] = Case(pager, replace(size, timed=timed, checked=checked))
            found = interleaved(session, cases, rounds * min(scale, 2))
            lowest = {name: lowest_cpu_ns(trials) for name, trials in found.items()}
            page_ns[pager.label] = lowest["on"]
            for name in WITHOUT:
                if spec == SENSITIVE:
                    cost_ns[name] = lowest["on"] - lowest[name]
                by_clock = paired(found[name], found["on"], "pages_per_s")
                by_cpu = paired(found["on"], found[name], "cpu_s_per_gib")
                rows.append((pager.label, name, *cost(by_clock), *cost(by_cpu)))
    print_table(
        ("pager", "cost of", "clock", "95 % interval", "CPU", "95 % interval"),
        rows,
        f"{rounds} rounds",
    )
    print_table(
        ("pager", "CPU ns a page", *WITHOUT),
        [
            (label, f"{ns:.0f}", *(f"{cost_ns[name] / ns:+.2%}" for name in WITHOUT))
            for label, ns in page_ns.items()
        ],
        f"{SENSITIVE}: " + ", ".join(f"{name} {ns:+.0f} ns" for name, ns in cost_ns.items()),
    )


def lowest_cpu_ns(trials: Sequence[TrialResult]) -> float:
    """Return the least CPU time a page, of vCPU threads with their guests and of readers."""
    return min(trial.metrics["cpu_s_per_gib"] for trial in trials) * 1e9 * PAGE_BYTES / GIB


def cost(ratios: list[float]) -> tuple[str, str]:
    """Return the median cost, marked if it is within the noise, and its interval."""
    middle, interval = f"{(median(ratios) or 1.0) - 1:+.1%}", median_interval(ratios)
    if interval is None:
        return middle, "-"
    mark = "~" if interval.low <= 1 <= interval.high else ""
    return f"{mark}{middle}", f"{interval.low - 1:+.1%} to {interval.high - 1:+.1%}"


if __name__ == "__main__":
    main()
