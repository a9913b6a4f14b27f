"""The options that say what every trial works on, for all commands that measure.

What pagers and formats there are is said by heart: to ask those who know would take help half as
long again. ``tests/cli/test_options.py`` says where it differs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from kvmpc.errors import UsageError

__all__ = [
    "PAGERS_HELP",
    "busy_limit_option",
    "format_option",
    "refuse_stdin_twice",
    "trial_options",
    "work_options",
    "yes_option",
]


PAGERS_HELP = """\b
PAGER is name[,key=value...]:
  none[,host=cold|populated]
  uffd[,readers=R][,uffds=one|per-vcpu|K][,fetch=pipelined|blocking]
      [,wait=epoll|poll|read|spin|adaptive][,spin=TIME][,drain=MESSAGES]
  exit[,uffds=one|per-vcpu|K]
"""


def busy_limit_option(default: str | None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return what adds ``--busy-limit``, as `busy_limit`."""
    return click.option(
        "--busy-limit", metavar="PERCENT|off", default=default, show_default=default is not None,
        envvar="KVMPC_BUSY_LIMIT", show_envvar=True,
        help="A trial whose CPU time others had more of does not count, and is run again.",
    )  # fmt: skip


def format_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--format``, as `kind`."""
    return click.option(
        "--format",
        "kind",
        type=click.Choice(["table", "markdown", "mail", "csv", "json", "ktap", "tmt"]),
        default="table",
        show_default=True,
        help="How to print it; mail is short, of 72 columns; json and csv have derived numbers, "
        "unrounded; ktap and tmt are for test runners.",
    )(command)


def trial_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say what every trial works on."""
    options: list[Callable[[Callable[..., Any]], Callable[..., Any]]] = [
        click.option("--vcpus", metavar="N", help="vCPUs [this host's CPUs, up to 160]; "
                     "several, to measure each: 1,2,4 or 1-160:x2."),
        click.option("--mem-per-vcpu", metavar="SIZE",
                     help="Memory of each vCPU [64M up to 32 vCPUs, 16M above]"),
        click.option("--touch-pages", type=int, metavar="K", help="Touch only K pages of it."),
        click.option("--order", metavar="ORDER", default="sequential", show_default=True,
                     help="sequential or scattered."),
        click.option("--access", metavar="ACCESS", default="write", show_default=True,
                     help="First touch of a page: write or read."),
        click.option("--overlap", is_flag=True, help="All vCPUs touch the same memory and race."),
        click.option("--fetch-delay", metavar="TIME", default="0", show_default=True,
                     help="Simulated network time of one page, such as 200us."),
        click.option("--passes", metavar="N",
                     help="Then touch it N-1 times more, all vCPUs together: full speed [1]."),
        click.option("--timeline", is_flag=True,
                     help="Sample progress during the trial; always with --passes."),
        click.option("--split", is_flag=True,
                     help="Stamp each page: time to notice, fetch, install, go on."),
        click.option("--verify", metavar="HOW", default="words", show_default=True,
                     help="Of each page afterwards: words (tags, what the guest wrote) or page "
                     "(every byte)."),
        click.option("--pin", is_flag=True,
                     help="One CPU each: vCPU i on the i-th of --cpus, readers in turn."),
        click.option("--cpus", metavar="LIST",
                     help="CPUs of the vCPUs' threads, such as 0-3,8 [those this process may use]"),
        click.option("--reader-cpus", metavar="LIST",
                     help="CPUs of readers [--cpus; with --pin those without a vCPU]"),
        click.option("--numa", metavar="MODE",
                     help="Guest memory: local (to who installs a page), interleave, or node=N."),
        click.option("--cpu-latency", metavar="US",
                     help="Forbid idle states that take longer to leave, such as 0."),
        click.option("--seed", type=int, metavar="N", default=1, show_default=True,
                     help="Varies tags and scattered orders."),
        click.option("--warmup", type=int, metavar="N", default=1, show_default=True,
                     help="Rounds before the measured ones, at 1/8 of the pages."),
        click.option("--watchdog", type=float, metavar="SECONDS", default=10.0, show_default=True,
                     help="A trial without a new page for so long has failed."),
        busy_limit_option("10%"),
    ]  # fmt: skip
    return _with(options, command)


def work_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add those options, and what else a run can be asked for."""
    options = [
        click.option("--profile", is_flag=True,
                     help="Run each pager once more under perf: where its CPU time goes."),
        click.option("--json", "json_path", metavar="FILE|-",
                     help="Write every raw value as JSON, after each trial."),
        yes_option,
    ]  # fmt: skip
    return trial_options(_with(options, command))


def _with(options: Sequence[Callable[..., Any]], command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(options):
        command = option(command)
    return command


yes_option = click.option("--yes", is_flag=True, help="Also if it takes more than an hour.")


def refuse_stdin_twice(*files: str) -> None:
    """Raise UsageError where more than one of `files` is ``-``, which can be read once."""
    if files.count("-") > 1:
        raise UsageError(
            "RESULT", "-", f"once, not {files.count('-')} times: it is read to its end"
        )
