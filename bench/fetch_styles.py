"""Does the style of the uffd handler, and not the mechanism, decide a comparison with a network?

Takes about 25 s and 30 MiB. A fetch is a sleep of --delay (``--fetch-delay`` of kvmpc). A blocking
reader sleeps through each fetch, a pipelined one queues it and goes on reading; an exiting vCPU
sleeps in its own thread, so that as many fetches are under way as there are vCPUs. Rates are
compared to pipelined within a round. The last column is what a fetch really took, from the won
claim to the bytes being due: above the delay by the timer, the wake-up and, where CPUs are few,
the wait for one.
"""

from __future__ import annotations

import click
from common import (
    Case,
    interleaved,
    median_of,
    numbers,
    open_session,
    paired,
    print_host,
    print_table,
    rounds_option,
    spread,
)

from kvmpc.errors import UsageError
from kvmpc.pagers import parse_pager
from kvmpc.units import PAGE_BYTES, format_ns, parse_duration_ns
from kvmpc.work.work import Work

STYLES = ("uffd", "uffd,fetch=blocking", "exit")


@click.command(help=__doc__)
@rounds_option(5)
@click.option("--vcpus", default="1,2,4,8", show_default=True, callback=numbers)
@click.option("--delay", "delays", default="30us,200us", show_default=True)
@click.option("--pages", type=click.IntRange(8), default=997, show_default=True,
              help="Pages in a trial, all vCPUs together.")  # fmt: skip
def main(rounds: int, vcpus: tuple[int, ...], delays: str, pages: int) -> None:
    try:
        delays_ns = [parse_duration_ns(text, "--delay") for text in delays.split(",")]
    except UsageError as error:
        raise click.UsageError(str(error)) from error
    print_host()
    rows = []
    with open_session() as session:
        for delay_ns in delays_ns:
            for count in vcpus:
                work = Work(
                    vcpus=count,
                    mem_per_vcpu_bytes=max(1, pages // count) * PAGE_BYTES,
                    fetch_delay_ns=delay_ns,
                )
                cases = {spec: Case(parse_pager(spec), work) for spec in STYLES}
                found = interleaved(session, cases, rounds)
                for trials in found.values():
                    rows.append(
                        (
                            format_ns(delay_ns),
                            count,
                            trials[0].label,
                            f"{median_of(trials, 'pages_per_s'):.0f}",
                            spread(paired(trials, found[STYLES[0]])),
                            format_ns(median_of(trials, "fetch_ns_per_page")) if delay_ns else "-",
                        )
                    )
    print_table(
        ("delay", "vCPUs", "pager", "pages/s", "to pipelined", "a fetch took"),
        rows,
        f"medians of {rounds} rounds, [lowest-highest]",
    )


if __name__ == "__main__":
    main()
