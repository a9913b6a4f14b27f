"""The command line: the only place that prints and that picks exit codes.

Data goes to stdout, progress and warnings to stderr. Modules that a command needs are imported when
it runs: ``kvmpc --help`` has to answer at once.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

from kvmpc.errors import HostError, Interrupted, KernelError, KvmpcError, UsageError

if TYPE_CHECKING:
    from kvmpc.config import Work
    from kvmpc.results import Result, TrialResult

__all__ = ["cli", "main"]

EXIT_OK, EXIT_REGRESSION, EXIT_USAGE, EXIT_HOST, EXIT_FAILED, EXIT_INTERRUPTED = 0, 1, 2, 3, 4, 130


def _size_bytes(_: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    from kvmpc.units import parse_size_bytes

    return None if text is None else parse_size_bytes(text, parameter.opts[0])


def _duration_ns(_: click.Context, parameter: click.Parameter, text: str) -> int:
    from kvmpc.units import parse_duration_ns

    return parse_duration_ns(text, parameter.opts[0])


_EPILOG = """\b
Examples:
  kvmpc probe
  kvmpc compare
  kvmpc compare --vcpus 160 --mem-per-vcpu 4M --json result.json
  kvmpc compare uffd,readers=4 exit --fetch-delay 200us
  kvmpc run exit --vcpus 8
  kvmpc show result.json

\b
Exit codes: 0 ok, 2 wrong usage, 3 this host cannot (the message says what would help),
4 a trial failed, 130 interrupted.
"""

_PAGERS = """\b
PAGER is name[,key=value...]:
  none[,host=cold|populated]
  uffd[,readers=R][,uffds=one|per-vcpu|K][,fetch=pipelined|blocking]
  exit[,uffds=one|per-vcpu|K]
"""


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="kvmpc")
def cli() -> None:
    """Compare the mechanisms that feed a KVM guest its missing pages.

    A guest of N vCPUs touches memory that is not there yet; a pager supplies it. kvmpc measures
    pagers on the same guest in one run and verifies every page.
    """


def _work_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say what every trial works on."""
    options = [
        click.option("--vcpus", type=int, metavar="N", help="vCPUs [this host's CPUs, up to 160]"),
        click.option(
            "--mem-per-vcpu",
            metavar="SIZE",
            callback=_size_bytes,
            help="Memory of each vCPU [64M up to 32 vCPUs, 16M above]",
        ),
        click.option("--touch-pages", type=int, metavar="K", help="Touch only K pages of it."),
        click.option("--order", metavar="ORDER", default="sequential", show_default=True,
                     help="sequential or scattered."),
        click.option("--access", metavar="ACCESS", default="write", show_default=True,
                     help="First touch of a page: write or read."),
        click.option("--overlap", is_flag=True, help="All vCPUs touch the same memory and race."),
        click.option("--fetch-delay", metavar="TIME", default="0", callback=_duration_ns,
                     help="Simulated network time of one page, such as 200us."),
        click.option("--seed", type=int, metavar="N", default=1, show_default=True,
                     help="Varies tags and scattered orders."),
        click.option("--warmup", type=int, metavar="N", default=1, show_default=True,
                     help="Rounds before the measured ones, at 1/8 of the pages."),
        click.option("--watchdog", type=float, metavar="SECONDS", default=10.0, show_default=True,
                     help="A trial without a new page for so long has failed."),
        click.option("--json", "json_path", metavar="FILE|-",
                     help="Write every raw value as JSON, after each trial."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@cli.command(epilog=_PAGERS)
@click.argument("pagers", nargs=-1, metavar="[PAGER]...")
@click.option("--rounds", type=int, metavar="N", default=3, show_default=True,
              help="Measured trials of each pager, interleaved.")  # fmt: skip
@_work_options
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


@cli.command(epilog=_PAGERS)
@click.argument("pager")
@click.option("--rounds", type=int, metavar="N", default=1, show_default=True,
              help="Measured trials.")  # fmt: skip
@_work_options
def run(pager: str, rounds: int, **options: Any) -> None:
    """Measure one PAGER."""
    _measure((pager,), rounds, options)


@cli.command(epilog="\b\nExamples:\n  kvmpc show result.json\n  kvmpc show - < result.json")
@click.argument("file", metavar="FILE|-")
def show(file: str) -> None:
    """Show the table of a result that --json wrote."""
    from kvmpc.results import load

    _print_result(load(file), err=False)


@cli.command(epilog="\b\nExamples:\n  kvmpc probe\n  kvmpc probe --json")
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
def probe(as_json: bool) -> None:
    """Say what this host offers, what is missing, and the remedy."""
    from dataclasses import asdict

    from tabulate import tabulate

    from kvmpc import probe as probing
    from kvmpc.interrupt import interruptible

    with interruptible() as interrupt:
        checks = list(probing.probe(interrupt))
    if as_json:
        _say(json.dumps([asdict(check) for check in checks], indent=1))
    else:
        rows = [(check.name, check.status, check.detail) for check in checks]
        _say(tabulate(rows, headers=("", "", "found"), maxcolwidths=[28, 4, 60]))
    missing = [check for check in checks if check.status == "no"]
    for check in missing:
        _say(f"{check.needed_for} cannot run here: {check.name}: {check.detail}", err=True)
        _say(f"  remedy: {check.remedy}", err=True)
    if missing:
        sys.exit(EXIT_HOST)


def _work_of(options: dict[str, Any]) -> Work:
    from kvmpc.config import MAX_VCPUS_DEFAULT, Work, default_mem_per_vcpu_bytes
    from kvmpc.host import allowed_cpus

    vcpus = options["vcpus"]
    if vcpus is None:
        vcpus = min(len(allowed_cpus()), MAX_VCPUS_DEFAULT)
    size = options["mem_per_vcpu"]
    return Work(
        vcpus=vcpus,
        mem_per_vcpu_bytes=default_mem_per_vcpu_bytes(vcpus) if size is None else size,
        touch_pages=options["touch_pages"],
        order=options["order"],
        access=options["access"],
        overlap=options["overlap"],
        seed=options["seed"],
        fetch_delay_ns=options["fetch_delay"],
    )


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

    work = _work_of(options)
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
    with interruptible(_say_stopping) as interrupt, Kvm() as kvm:
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
        with _progress(len(schedule)) as advance:
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
    _print_result(result, err=path == "-")
    if stopped is not None:
        raise stopped
    if any(trial.status != "ok" for trial in result.trials):
        sys.exit(EXIT_FAILED)


@contextmanager
def _progress(length: int) -> Iterator[Callable[[TrialResult], None]]:
    """Show a bar on stderr for the block; nothing where that is no terminal."""
    if sys.stderr is None or not sys.stderr.isatty():  # None: it was closed
        yield lambda _: None
        return
    with click.progressbar(
        length=length, file=sys.stderr, label="trials", item_show_func=lambda text: text
    ) as bar:
        yield lambda trial: bar.update(1, f"{trial.label}: {trial.status}")


def _print_result(result: Result, *, err: bool) -> None:
    from kvmpc.report import format_table, format_warnings

    _say(format_table(result), err=err)
    for warning in format_warnings(result):
        _say(warning, err=True)


def _say_stopping(signal_name: str) -> None:
    # Not through sys.stderr: a signal handler may have interrupted a write to it.
    text = "stopping; unmapping a large guest may take a while (again: leave at once)"
    with suppress(OSError):
        os.write(2, f"kvmpc: {signal_name}: {text}\n".encode())


def _say(text: str, *, err: bool = False) -> None:
    """Print `text`; where whoever read our output has left, there is nobody to tell.

    Here and not in `main`: a closed pipe must not change the exit code, nor be made click's 1,
    which is ours for a regression.
    """
    try:
        click.echo(text, err=err)
    except BrokenPipeError:
        stream = sys.stderr if err else sys.stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


_EXIT_CODES: tuple[tuple[type[KvmpcError], int], ...] = (
    (UsageError, EXIT_USAGE),
    (HostError, EXIT_HOST),
    (Interrupted, EXIT_INTERRUPTED),
    (KvmpcError, EXIT_FAILED),
)


def main() -> int:
    """Run the command line and return its exit code."""
    try:
        result = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except KvmpcError as error:
        click.echo(f"kvmpc: {error}", err=True)
        return next(code for family, code in _EXIT_CODES if isinstance(error, family))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except OSError as error:  # of our output: all else that the kernel refuses is a KvmpcError
        click.echo(f"kvmpc: {error}", err=True)
        return EXIT_FAILED
    except Exception:  # noqa: BLE001 - a defect of ours, and Python's own exit code means regression
        traceback.print_exc()
        return EXIT_FAILED
    return result if isinstance(result, int) else EXIT_OK
