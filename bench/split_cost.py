"""What does a latency split cost? Beyond about 1 % of the rate, a trial's rate is not to be used.

Takes about a minute. The same trial with and without `--split`, and a second time without: that
shows what pure noise looks like. A ratio is the rate with over the rate without, in the same round;
its interval holds the true median with 95 % confidence. The last column is CPU time, which other
load disturbs less.
"""

from __future__ import annotations

from dataclasses import replace

import click
from common import (
    numbers,
    on_and_off,
    open_session,
    paired,
    print_host,
    print_table,
    rate_to_off,
    rounds_option,
    spread,
)

from kvmpc.pagers import parse_pager
from kvmpc.units import MIB, PAGE_BYTES
from kvmpc.work.work import Work


@click.command(help=__doc__)
@rounds_option(15)
@click.option("--vcpus", callback=numbers, default="1,2,160", show_default=True)
@click.option("--mib", type=click.IntRange(1), default=32, show_default=True,
              help="Memory of all vCPUs together.")  # fmt: skip
@click.argument("pagers", nargs=-1)
def main(rounds: int, vcpus: tuple[int, ...], mib: int, pagers: tuple[str, ...]) -> None:
    print_host()
    rows = []
    with open_session() as session:
        for count in vcpus:
            pages = max(1, mib * MIB // count // PAGE_BYTES)
            for spec in pagers or ("uffd", "exit"):
                plain = Work(vcpus=count, mem_per_vcpu_bytes=pages * PAGE_BYTES)
                pager = parse_pager(spec)
                found = on_and_off(session, pager, plain, replace(plain, split=True), rounds)
                for name in ("on", "off again"):
                    by_cpu = paired(found[name], found["off"], "cpu_s_per_gib")
                    rows.append(
                        (
                            f"{pager.label} x {count}",
                            name,
                            *rate_to_off(found, name),
                            spread(by_cpu, 3),
                        )
                    )
    print_table(
        ("trial", "split", "rate to off", "95 % interval", "CPU time to off"),
        rows,
        f"{rounds} rounds",
    )


if __name__ == "__main__":
    main()
