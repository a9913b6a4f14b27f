"""What does sampling progress cost? It should be under 1 % of the rate.

Takes about a minute. The same trial with and without sampling, and a second time without: that
shows what pure noise looks like. A ratio is the rate with over the rate without, in the same round;
its interval holds the true median with 95 % confidence. The last column needs no luck: the time of
one sample, taken alone, over the interval between two.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

import click
from common import (
    numbers,
    on_and_off,
    open_session,
    print_host,
    print_table,
    rate_to_off,
    rounds_option,
)

from kvmpc.pagers import parse_pager
from kvmpc.trial import rig
from kvmpc.trial.timeline import FIRST_INTERVAL_S, Timeline
from kvmpc.units import MIB
from kvmpc.work.work import Work

SAMPLES = 200


@click.command(help=__doc__)
@rounds_option(15)
@click.option("--vcpus", callback=numbers, default="2,160", show_default=True)
@click.option("--mib", type=click.IntRange(1), default=32, show_default=True,
              help="Memory of all vCPUs together.")  # fmt: skip
@click.argument("pagers", nargs=-1)
def main(rounds: int, vcpus: tuple[int, ...], mib: int, pagers: tuple[str, ...]) -> None:
    print_host()
    rows = []
    with open_session() as session, sample_times() as seconds:
        for count in vcpus:
            pages = max(1, mib * MIB // count // 4096)
            for spec in pagers or ("none", "uffd", "exit"):
                plain = Work(vcpus=count, mem_per_vcpu_bytes=pages * 4096)
                pager = parse_pager(spec)
                seconds.clear()
                found = on_and_off(session, pager, plain, replace(plain, timeline=True), rounds)
                for name in ("on", "off again"):
                    alone = f"{min(seconds) * 1e6:.1f} us, {min(seconds) / FIRST_INTERVAL_S:.2%}"
                    rows.append(
                        (
                            f"{pager.label} x {count}",
                            name,
                            *rate_to_off(found, name),
                            alone if name == "on" else "-",
                        )
                    )
    print_table(
        ("trial", "sampling", "rate to off", "95 % interval", "a sample, of the interval"),
        rows,
        f"{rounds} rounds",
    )


@contextmanager
def sample_times() -> Iterator[list[float]]:
    """Time samples of each trial's records once nothing runs any more; seconds of each."""
    seconds: list[float] = []

    class Timed(Timeline):
        def columns(self, gate_ns: int) -> dict[str, tuple[int, ...]]:
            kept = super().columns(gate_ns)
            for _ in range(SAMPLES):
                begin = time.perf_counter()
                self.sample(now=True)
                seconds.append(time.perf_counter() - begin)
            return kept

    with mock.patch.object(rig, "Timeline", Timed):
        yield seconds


if __name__ == "__main__":
    main()
