"""What does it cost to read the pages back after a trial, and does it change what was measured?

Takes about a minute and 300 MiB. The same trial with `--verify words`, as kvmpc runs by default,
with `--verify page`, and with `words` a second time: what noise looks like. A ratio is the rate to
that of the first, in the same round, and its interval holds the true median with 95 % confidence;
pages are read back behind the measured time, so it should hold 1. The second table is the reading
back alone, of the pages of one trial, over and over: the lowest time, when others disturbed it
least. They are no longer in the CPU's caches where guest memory is larger than these.
"""

from __future__ import annotations

import time
from dataclasses import replace

import click
from common import (
    Case,
    interleaved,
    open_session,
    print_host,
    print_table,
    rate_to_off,
    rounds_option,
)

from kvmpc.pagers import parse_pager
from kvmpc.run.session import Session
from kvmpc.trial import verify
from kvmpc.trial.rig import Rig, TrialHooks
from kvmpc.trial.trial import run_trial
from kvmpc.units import MIB
from kvmpc.work.work import Work

REPEATS = 9


@click.command(help=__doc__)
@rounds_option(15)
@click.option("--vcpus", type=click.IntRange(1), default=2, show_default=True)
@click.option("--mib", type=click.IntRange(1), default=16, show_default=True,
              help="Memory of each vCPU in the first table.")  # fmt: skip
@click.option("--read-mib", type=click.IntRange(1), default=128, show_default=True,
              help="Memory of each vCPU in the second.")  # fmt: skip
@click.argument("pagers", nargs=-1)
def main(rounds: int, vcpus: int, mib: int, read_mib: int, pagers: tuple[str, ...]) -> None:
    print_host()
    words = Work(vcpus=vcpus, mem_per_vcpu_bytes=mib * MIB)
    rows = []
    with open_session() as session:
        for spec in pagers or ("none,host=populated", "uffd", "exit"):
            pager = parse_pager(spec)
            works = {"off": words, "page": replace(words, verify="page"), "words again": words}
            found = interleaved(
                session, {name: Case(pager, work) for name, work in works.items()}, rounds
            )
            rows += [(pager.label, name, *rate_to_off(found, name)) for name in [*works][1:]]
        read = replace(words, mem_per_vcpu_bytes=read_mib * MIB)
        alone = [
            (how, *read_back_ns(session, replace(read, verify=how))) for how in ("words", "page")
        ]
    print_table(
        ("pager", "verify", "rate to words", "95 % interval"), rows, f"{rounds} rounds, paired"
    )
    print_table(
        ("verify", "ns a page", "s a GiB"),
        [(how, f"{page_ns:.1f}", f"{gib_s:.4f}") for how, page_ns, gib_s in alone],
        f"lowest of {REPEATS}, {read.total_pages} pages",
    )


def read_back_ns(session: Session, work: Work) -> tuple[float, float]:
    """Return what reading back a page takes, in ns, and a GiB, in s."""
    took: list[int] = []

    def repeat(rig: Rig) -> None:
        for _ in range(REPEATS):
            begin = time.perf_counter_ns()
            verify.verify_contents(rig.program, rig.memory, rig.layout, rig.tags)
            took.append(time.perf_counter_ns() - begin)

    run_trial(
        session.kvm,
        work,
        parse_pager("none,host=populated"),
        interrupt=session.interrupt,
        hooks=TrialHooks(before_verify=repeat),
    )
    lowest = min(took) / work.total_pages
    return lowest, lowest * (1 << 30) / work.unit_bytes / 1e9


if __name__ == "__main__":
    main()
