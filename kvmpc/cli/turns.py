"""``kvmpc turns``: two states of this host, measured in turn and judged as pairs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import click

from kvmpc.cli.check import criteria_of, criteria_options, judge
from kvmpc.cli.harness import began
from kvmpc.cli.measure import compare, plan_of_options
from kvmpc.cli.options import PAGERS_HELP, format_option, trial_options, yes_option
from kvmpc.cli.output import progress, say, say_stopping
from kvmpc.errors import MismatchError, UsageError
from kvmpc.exit_codes import EXIT_OK

if TYPE_CHECKING:
    from kvmpc.judge.criteria import Criteria
    from kvmpc.result.records import Result
    from kvmpc.run.plan import Plan
    from kvmpc.run.turns import Sides

__all__ = ["turns"]

_FEWEST_PAIRS: Final = 12

_OURS: Final = {"json_path", "kind", "yes"}
"""Options of `compare` that a block is given by us, or not at all."""

_EPILOG = (
    """\b
Examples:
  kvmpc turns --old 'sysctl vm.compaction_proactiveness=20' \\
      --new 'sysctl vm.compaction_proactiveness=0' --json old.json new.json
  kvmpc turns uffd exit --old 'modprobe -r kvm_amd && modprobe kvm_amd npt=1' \\
      --new 'modprobe -r kvm_amd && modprobe kvm_amd npt=0' --finally 'modprobe kvm_amd'

\b
Exit codes: those of check, and 3 where a command failed.

"""
    + PAGERS_HELP
)


@click.command(epilog=_EPILOG)
@click.argument("pagers", nargs=-1, metavar="[PAGER]...")
@click.option(
    "--old",
    required=True,
    metavar="COMMAND",
    help="Shell command that makes the host what it was, before each block of it.",
)
@click.option(
    "--new",
    required=True,
    metavar="COMMAND",
    help="Shell command that makes it what is in question, before each block of it.",
)
@click.option(
    "--finally",
    "at_end",
    metavar="COMMAND",
    help="Shell command to run at the end, however it comes.",
)
@click.option(
    "--pairs",
    type=int,
    metavar="N",
    help="Pairs of blocks, one of each side in an order that is drawn "
    f"[{_FEWEST_PAIRS}, or a quarter more than the rows need]",
)
@click.option(
    "--rounds",
    type=int,
    metavar="N",
    default=2,
    show_default=True,
    help="Measured trials of each pager in a block, interleaved.",
)
@click.option(
    "--command-timeout",
    type=float,
    metavar="SECONDS",
    default=300.0,
    show_default=True,
    help="A command that takes longer has failed.",
)
@click.option(
    "--json",
    "json_paths",
    metavar="OLD NEW",
    nargs=2,
    help="Two files: every raw value of each side as JSON, after each block.",
)
@trial_options
@criteria_options
@yes_option
@format_option
@click.pass_context
def turns(
    context: click.Context,
    /,
    pagers: tuple[str, ...],
    old: str,
    new: str,
    at_end: str | None,
    pairs: int | None,
    json_paths: tuple[str, str] | None,
    command_timeout: float,
    kind: str,
    **options: Any,
) -> None:  # fmt: skip
    """Compare two states of this host that need no boot, in turn.

    A state is what a shell command sets: a module with another parameter, a sysctl, a cgroup.
    kvmpc measures pairs of blocks, one on each side, in an order that is drawn (--seed), and judges
    pairs, so that no drift of the host counts. Each block is a process of its own, and none is
    there while a command runs: KVM's modules can be reloaded.
    """
    from kvmpc.judge.starved import host_too_busy
    from kvmpc.result.document import to_json
    from kvmpc.result.files import OutputFile
    from kvmpc.result.records import NEW, OLD
    from kvmpc.run.turns import TurnsPlan, run_turns

    plan = plan_of_options(pagers, options)
    criteria = criteria_of(options["limits"], options["alphas"])
    turned = TurnsPlan(
        commands={OLD: old, NEW: new},
        at_end=at_end,
        pairs=_pairs(plan, criteria, pairs),
        seed=_seed(context),
        words=(*_words(context), *pagers),
        command_timeout_s=command_timeout,
    )
    with ExitStack() as stack:
        files = {
            side: stack.enter_context(OutputFile(path, "--json"))
            for side, path in zip((OLD, NEW), _two_files(json_paths), strict=False)
        }
        advance = stack.enter_context(progress(2 * turned.pairs * len(plan)))

        def on_block(sides: Sides, block: Result, left_s: float | None) -> None:
            for side, result in sides.items():
                if side in files:
                    files[side].write(to_json(result))
            for trial in block.trials:
                advance(trial, left_s)

        sides, failures = run_turns(
            turned, ("kvmpc", *sys.argv[1:]), on_block, _say_stopping, confirmed=options["yes"]
        )
    code = EXIT_OK
    if all(side in sides and sides[side].finished for side in (OLD, NEW)):
        try:
            code = judge([sides[OLD]], [sides[NEW]], criteria, kind)
            began()
        except MismatchError as error:  # told, and what went wrong at the end as well
            busy = host_too_busy(sides[OLD]) or host_too_busy(sides[NEW])
            failures = [busy or error, *failures]
    for failure in failures[1:]:
        say(f"kvmpc: {failure}", err=True)
    if failures:
        raise failures[0]
    if code != EXIT_OK:
        raise click.exceptions.Exit(code)


def _pairs(plan: Plan, criteria: Criteria, given: int | None) -> int:
    """Return how many pairs are measured. Raises: UsageError where so few could never be red."""
    from kvmpc.judge.turns import pairs_for
    from kvmpc.result.metrics import FAULT_P99

    tests = {
        judged.name: sum(
            len(point.pagers)
            for point in plan.points
            if not (judged.metric is FAULT_P99 and point.work.overlap)
        )
        for judged in criteria.judged
    }
    needed, total = pairs_for(criteria, tests), sum(tests.values())
    if given is not None and given < needed:
        raise UsageError(
            "--pairs",
            given,
            f"{needed} or more: fewer could never turn a check of {total} "
            f"test{'' if total == 1 else 's'} red; or fewer pagers or metrics (--limit p99=off), "
            "or another --alpha",
        )
    # More than needed: a block that others starved takes its pair with it.
    return max(_FEWEST_PAIRS, needed + needed // 4) if given is None else given


def _seed(context: click.Context) -> int:
    """Return what the order of the pairs is drawn from: the seed that was given, or a fresh one."""
    from secrets import randbits

    if context.get_parameter_source("seed") is click.core.ParameterSource.DEFAULT:
        return randbits(32)
    return int(context.params["seed"])


def _words(context: click.Context) -> Iterator[str]:
    """Yield the options of a block: those of `compare` that were given, and its rounds."""
    of_compare = {parameter.name for parameter in compare.params}
    for parameter in context.command.params:
        name = parameter.name or ""
        told = context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
        if not isinstance(parameter, click.Option) or name in _OURS or name not in of_compare:
            continue
        if told or name == "rounds":
            option = parameter.opts[0]
            yield option if parameter.is_flag else f"{option}={context.params[name]}"


def _two_files(paths: tuple[str, str] | None) -> tuple[str, ...]:
    """Return the files of both sides, none where none are wanted. Raises: UsageError."""
    for path in paths or ():
        if path == "-":
            raise UsageError("--json", path, "two files: standard output takes one document")
    if paths and os.path.realpath(paths[0]) == os.path.realpath(paths[1]):
        raise UsageError("--json", " ".join(paths), "two files, one for each side")
    return paths or ()


def _say_stopping(signal_name: str) -> None:
    say_stopping(signal_name, "stopping; what --finally says is done first")
