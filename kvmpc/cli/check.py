"""``kvmpc baseline`` and ``kvmpc check``: keep results, and judge others against them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from kvmpc.cli.options import format_option, refuse_stdin_twice
from kvmpc.cli.output import print_as, room_on, say
from kvmpc.errors import UsageError
from kvmpc.exit_codes import EXIT_FAILED, EXIT_OK, EXIT_REGRESSION, EXIT_UNSURE

if TYPE_CHECKING:
    from kvmpc.judge.criteria import Criteria
    from kvmpc.result.records import Result

__all__ = ["baseline", "check", "criteria_of", "criteria_options", "judge"]

_CHECK_EPILOG = """\b
Examples:
  kvmpc compare --rounds 10 --json new.json
  kvmpc check new.json --against lab1
  kvmpc check new.json --against old.json --normalise
  kvmpc check new.json --against lab1 --limit rate=3% --limit p99=off --alpha 0.001
  kvmpc check new.json --against lab1 --allow-host frequency.governors --format ktap
  kvmpc check new.json --against lab1 --allow-missing exit

\b
Metrics: rate (pages/s), p99 (fault time), cpu (CPU s/GiB).
Verdicts: worse, better, same (surely within the limit), unsure; how each is found, below the table.
Exit codes: 0 ok, 1 a row is worse or missing, 4 a pager's trials fail that did not, 5 unsure: none
is known to be worse, but not every row could be told; 2 these results cannot be compared (the
message names each reason).
"""

_EXIT_CODES = {
    "ok": EXIT_OK,
    "worse": EXIT_REGRESSION,
    "missing": EXIT_REGRESSION,
    "failed": EXIT_FAILED,
    "unsure": EXIT_UNSURE,
}
"""By what a check comes to."""


@click.group(
    epilog="""\b
Examples:
  kvmpc baseline save lab1 result.json
  kvmpc baseline save lab1-6.12 run1.json run2.json run3.json
  kvmpc baseline list

\b
Kept in $KVMPC_BASELINES, else in kvmpc/baselines below $XDG_DATA_HOME or ~/.local/share.
"""
)
def baseline() -> None:
    """Keep results under a name, for `kvmpc check`."""


@baseline.command(epilog="\b\nExamples:\n  kvmpc baseline save lab1 result.json")
@click.argument("name")
@click.argument("files", metavar="RESULT.json...", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Replace the baseline of that name.")
def save(name: str, files: tuple[str, ...], force: bool) -> None:
    """Keep one result, or several runs of the same thing, as NAME."""
    from kvmpc.judge.starved import host_too_busy
    from kvmpc.result import baselines
    from kvmpc.result.document import load
    from kvmpc.result.records import FAILED

    refuse_stdin_twice(*files)
    results = [load(file) for file in files]
    path = baselines.save(name, results, force=force)
    say(f"{name}: {len(results)} run{'' if len(results) == 1 else 's'} kept in {path}")
    for file, result in zip(files, results, strict=True):
        failed = sum(trial.status == FAILED for trial in result.trials)
        if failed:
            say(
                f"warning: {file}: {failed} of {len(result.trials)} trials failed; their pagers "
                "will not be compared: measure them again",
                err=True,
            )
        if (busy := host_too_busy(result)) is not None:
            say(f"warning: {file}: {busy.what}: {busy.reason}; measure it again", err=True)
        if not result.finished:
            say(f"warning: {file}: the run did not finish; run it to its end", err=True)


@baseline.command("list")
def list_() -> None:
    """List what is kept."""
    from kvmpc.result import baselines
    from kvmpc.show.cells import list_of

    kept = baselines.listed()
    rows = [
        (each.name, each.saved, str(each.runs or "-"), each.problem or ", ".join(each.kernels))
        for each in kept
    ]
    if rows:
        headers = ("name", "saved", "runs", "kernel")
        say("\n".join(list_of(headers, rows, room_on(err=False))))
    else:
        say(f"none is kept in {baselines.folder()}; remedy: kvmpc baseline save", err=True)


@baseline.command()
@click.argument("name")
def remove(name: str) -> None:
    """Forget NAME."""
    from kvmpc.result import baselines

    baselines.remove(name)


def criteria_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say when a row is red, as `limits` and `alphas`."""
    options = [
        click.option("--limit", "limits", metavar="METRIC=PERCENT|off", multiple=True,
                     help="Change for the worse that is tolerated [rate=5%, p99=15%, cpu=5%]"),
        click.option("--alpha", "alphas", metavar="[METRIC=]P", multiple=True,
                     help="False alarms of the whole check; with METRIC=, its own on top [0.01]"),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@click.command(epilog=_CHECK_EPILOG)
@click.argument("files", metavar="RESULT.json...", nargs=-1, required=True)
@click.option(
    "--against",
    metavar="NAME|FILE",
    multiple=True,
    required=True,
    help="A baseline, or a file (with a slash, or ending in .json); repeat for more runs.",
)
@criteria_options
@click.option(
    "--normalise",
    is_flag=True,
    help="Divide out the host's own speed, measured beside each trial without the kernel.",
)
@click.option(
    "--allow-host",
    metavar="FIELD",
    multiple=True,
    help="A fact of the host that may differ; repeat for more.",
)
@click.option(
    "--allow-missing",
    metavar="NAME",
    multiple=True,
    help="A pager or point of the baseline that may be missing, or fail; repeat for more.",
)
@click.option(
    "--allow-unfinished",
    is_flag=True,
    help="Judge what there is of a run that did not finish.",
)
@format_option
def check(
    files: tuple[str, ...],
    against: tuple[str, ...],
    limits: tuple[str, ...],
    alphas: tuple[str, ...],
    normalise: bool,
    allow_host: tuple[str, ...],
    allow_missing: tuple[str, ...],
    allow_unfinished: bool,
    kind: str,
) -> None:  # fmt: skip
    """Say whether a result is worse than a baseline.

    A row is worse if its change is beyond the limit and a test rules chance out, and the same only
    if its interval lies inside the limit. Else it is unsure, and says what it could have seen.
    Several results are several runs of the same thing: then runs are compared, not rounds.
    """
    from kvmpc.result.baselines import load_against
    from kvmpc.result.document import load

    criteria = criteria_of(
        limits,
        alphas,
        normalise=normalise,
        allow_host=allow_host,
        allow_missing=allow_missing,
        allow_unfinished=allow_unfinished,
    )
    refuse_stdin_twice(*files, *against)
    new = [load(file) for file in files]
    old = [result for each in against for result in load_against(each)]
    code = judge(old, new, criteria, kind)
    if code != EXIT_OK:
        raise click.exceptions.Exit(code)


def criteria_of(limits: Sequence[str], alphas: Sequence[str], **rest: Any) -> Criteria:
    """Return what `criteria_options` ask for; rest: the other fields. Raises: UsageError."""
    from kvmpc.judge.criteria import DEFAULT_ALPHA, Criteria, parse_alpha, parse_limit

    given = [parse_alpha(text) for text in alphas]
    whole = [alpha for name, alpha in given if name is None]
    if len(whole) > 1:
        raise UsageError("--alpha", ", ".join(alphas), "once without METRIC=")
    return Criteria(
        alpha=whole[0] if whole else DEFAULT_ALPHA,
        alphas={name: alpha for name, alpha in given if name is not None},
        limits=dict(parse_limit(text) for text in limits),
        **rest,
    )


def judge(old: Sequence[Result], new: Sequence[Result], criteria: Criteria, kind: str) -> int:
    """Print the check of `new` against `old`, and return its exit code. Raises: MismatchError."""
    from kvmpc.judge import regression
    from kvmpc.show.check_table import check_warnings
    from kvmpc.show.formats import format_check

    found = regression.check(old, new, criteria)
    print_as(kind, format_check(found, kind, room_on(err=False)))
    for warning in check_warnings(found, old, new, room_on(err=True)):
        say(warning, err=True)
    return _EXIT_CODES[found.status or "ok"]
