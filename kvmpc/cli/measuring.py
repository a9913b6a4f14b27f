"""``kvmpc compare`` and ``kvmpc run``: validate, check the host, measure, save, show."""

from __future__ import annotations

import sys
from typing import Any

import click

from kvmpc.cli.options import PAGERS_HELP, work_of, work_options
from kvmpc.cli.output import EXIT_FAILED, print_result, progress, say_stopping
from kvmpc.errors import KernelError, KvmpcError, UsageError

__all__ = ["compare", "run"]


@click.command(epilog=PAGERS_HELP)
@click.argument("pagers", nargs=-1, metavar="[PAGER]...")
@click.option("--rounds", type=int, metavar="N", default=3, show_default=True,
              help="Measured trials of each pager, interleaved.")  # fmt: skip
@work_options
def compare(pagers: tuple[str, ...], rounds: int, **options: Any) -> None:
    """Measure several pagers on the same guest, side by side.

    Without PAGER: none, uffd, uffd,uffds=per-vcpu, exit, exit,uffds=per-vcpu. Ratios refer to the
    first pager that fetches.
    """
    from kvmpc.pagers import DEFAULT_COMPARE

    default = list(DEFAULT_COMPARE)
    if options["access"] == "read":
        # Untouched memory reads as the one shared zero page: nothing would be paged in.
        default[0] = "none,host=populated"
    _measure(pagers or tuple(default), rounds, options)


@click.command(epilog=PAGERS_HELP)
@click.argument("pager")
@click.option("--rounds", type=int, metavar="N", default=1, show_default=True,
              help="Measured trials.")  # fmt: skip
@work_options
def run(pager: str, rounds: int, **options: Any) -> None:
    """Measure one PAGER."""
    _measure((pager,), rounds, options)


def _measure(specs: tuple[str, ...], rounds: int, options: dict[str, Any]) -> None:
    """Validate, check the host, measure, save after each trial, show."""
    from dataclasses import asdict, replace
    from datetime import UTC, datetime
    from importlib.metadata import version

    from kvmpc import host
    from kvmpc.interrupt import interruptible
    from kvmpc.kvm import Kvm
    from kvmpc.limits import check_run
    from kvmpc.pagers import parse_pager
    from kvmpc.resultfile import ResultWriter
    from kvmpc.results import Result
    from kvmpc.schedule import Schedule, measure

    work = work_of(options)
    pagers = [parse_pager(spec) for spec in specs]
    schedule = Schedule(work, pagers, rounds, options["warmup"])
    watchdog_s = options["watchdog"]
    if not 0 < watchdog_s <= 3600 or watchdog_s * 1e9 < 10 * work.fetch_delay_ns:
        raise UsageError(
            "--watchdog", watchdog_s, "up to 3600 s, and at least ten times --fetch-delay"
        )
    path = options["json_path"]
    writer = None if path is None else ResultWriter(path)
    stopped: KvmpcError | None = None
    with interruptible(say_stopping) as interrupt, Kvm() as kvm:
        check_run(kvm, work, pagers)
        facts = host.collect()
        readers = max(pager.reader_count(work) for pager in pagers)
        result = Result(
            tool_version=version("kvmpc"),
            command=("kvmpc", *sys.argv[1:]),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            finished=False,
            options={
                **asdict(work),
                "rounds": rounds,
                "warmup": options["warmup"],
                "watchdog_s": watchdog_s,
            },
            pagers=tuple(pager.spec for pager in pagers),
            labels=tuple(pager.label for pager in pagers),
            host=facts,
            trials=(),
            warnings=tuple(host.tilts(facts, vcpu_threads=work.vcpus, reader_threads=readers)),
        )
        if writer:
            writer.write(result)
        with progress(len(schedule)) as advance:
            try:
                for trial in measure(kvm, schedule, interrupt=interrupt, watchdog_s=watchdog_s):
                    result = replace(result, trials=(*result.trials, trial))
                    if writer:
                        writer.write(result)
                    advance(trial)
                result = replace(result, finished=True)
            except KvmpcError as error:
                stopped = error  # what was measured is shown all the same
        if writer:
            try:
                writer.finish(result)
            except KernelError as error:
                stopped = stopped or error
    print_result(result, err=path == "-")
    if stopped is not None:
        raise stopped
    if any(trial.status != "ok" for trial in result.trials):
        sys.exit(EXIT_FAILED)
