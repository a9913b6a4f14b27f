"""``kvmpc compare``, ``run`` and ``sweep``: read a plan, run it, save, show."""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click

from kvmpc.cli.harness import began
from kvmpc.cli.options import PAGERS_HELP, busy_limit_option, format_option, work_options
from kvmpc.cli.output import print_result, progress, say, say_stopping
from kvmpc.errors import KernelError, KvmpcError, UsageError
from kvmpc.exit_codes import EXIT_FAILED, EXIT_HOST

if TYPE_CHECKING:
    from kvmpc.result.records import Result
    from kvmpc.result.writer import ResultWriter
    from kvmpc.run.campaign import Campaign
    from kvmpc.run.plan import Plan

__all__ = ["compare", "plan_of_options", "run", "sweep"]

_SWEEP_EXAMPLES = """\b
Examples:
  kvmpc sweep bench/smoke.toml
  kvmpc sweep bench/scaling.toml --set mem_per_vcpu=4M --set vcpus=1,2,4 --json scaling.json
  kvmpc sweep bench/scaling.toml --json scaling.json --resume
"""


@click.command(epilog=PAGERS_HELP)
@click.argument("pagers", nargs=-1, metavar="[PAGER]...")
@click.option("--rounds", type=int, metavar="N", default=6, show_default=True,
              help="Measured trials of each pager, interleaved; fewer than 6 have a range and no "
                   "interval.")  # fmt: skip
@work_options
@format_option
def compare(pagers: tuple[str, ...], **options: Any) -> None:
    """Measure several pagers on the same guest, side by side.

    Without PAGER: none, uffd, uffd,uffds=per-vcpu, exit, exit,uffds=per-vcpu; the third with as
    many userfaultfds as CPUs are spare, and wait=adaptive, if there are enough for the vCPUs.
    Ratios refer to the first pager that fetches.
    """
    _measure_options(pagers, options)


@click.command(epilog=PAGERS_HELP)
@click.argument("pager")
@click.option("--rounds", type=int, metavar="N", default=1, show_default=True,
              help="Measured trials.")  # fmt: skip
@work_options
@format_option
def run(pager: str, **options: Any) -> None:
    """Measure one PAGER."""
    _measure_options((pager,), options)


@click.command(epilog=_SWEEP_EXAMPLES)
@click.argument("spec", metavar="SPEC.toml")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True,
              help="Set a line of the spec anew; may be given several times.")  # fmt: skip
@click.option("--json", "json_path", metavar="FILE",
              help="Where the result goes [SPEC.json, here]")  # fmt: skip
@click.option("--resume", "resumed", is_flag=True,
              help="Go on with that file: no finished trial is measured again.")  # fmt: skip
@click.option("--profile", is_flag=True, help="As a line `profile = true` in the spec.")
@busy_limit_option(None)
@click.option("--yes", is_flag=True, help="Also if it takes more than an hour, or 10,000 trials.")
@format_option
def sweep(
    spec: str,
    settings: tuple[str, ...],
    json_path: str | None,
    resumed: bool,
    profile: bool,
    busy_limit: str | None,
    yes: bool,
    kind: str,
) -> None:
    """Measure every combination of the options in SPEC, interleaved, and keep every value.

    In a spec any option may be a list. Results are written after each trial: a sweep that was
    stopped, or killed, goes on with --resume. What this host cannot run is listed as skipped.
    """
    from kvmpc.run.sweep import read_spec

    given = ["profile=true"] * profile
    given += [] if busy_limit is None else [f"busy_limit={json.dumps(busy_limit)}"]
    plan = read_spec(spec, (*settings, *given), confirmed=yes)
    path = json_path or f"{os.path.splitext(os.path.basename(spec))[0]}.json"
    if not resumed and path != "-" and os.path.isfile(path) and os.path.getsize(path):
        raise UsageError("--json", path, "a new file, or --resume to go on with this one")
    _measure(plan, json_path=path, resumed=resumed, confirmed=yes, kind=kind)


def plan_of_options(pagers: tuple[str, ...], options: dict[str, Any]) -> Plan:
    """Return the plan that the options of `trial_options` and a command's own ask for.

    Raises: UsageError.
    """
    from kvmpc.run.axes import AXES, busy_limit_of
    from kvmpc.run.plan import make_plan

    return make_plan(
        {name: options[name] for name in AXES},
        pagers or None,
        confirmed=options["yes"],
        rounds=options["rounds"],
        warmup=options["warmup"],
        watchdog_s=options["watchdog"],
        profile=options.get("profile", False),
        busy_limit=busy_limit_of(options["busy_limit"], "--busy-limit"),
    )


def _measure_options(pagers: tuple[str, ...], options: dict[str, Any]) -> None:
    plan = plan_of_options(pagers, options)
    _measure(plan, json_path=options["json_path"], confirmed=options["yes"], kind=options["kind"])


def _measure(
    plan: Plan,
    *,
    json_path: str | None,
    resumed: bool = False,
    confirmed: bool = False,
    kind: str = "table",
) -> None:
    """Check the host, measure, save after each trial, show."""
    from kvmpc.judge.starved import host_too_busy
    from kvmpc.result.writer import ResultWriter
    from kvmpc.run.campaign import Campaign
    from kvmpc.run.session import Session

    with (
        ResultWriter(json_path) if json_path is not None else nullcontext() as writer,
        Session.open(("kvmpc", *sys.argv[1:]), say_stopping) as session,
    ):
        campaign = Campaign.prepare(session, plan, json_path if resumed else None)
        result, stopped = _run(campaign, writer, confirmed)
    print_result(result, err=json_path == "-", kind=kind)
    began()
    if stopped is not None:
        raise stopped
    if any(trial.status != "ok" for trial in result.trials):
        raise click.exceptions.Exit(EXIT_FAILED)
    too_busy = host_too_busy(result)
    if too_busy is not None:
        # Said, not raised: the document has a test for each row, and needs no end.
        say(f"kvmpc: {too_busy}", err=True)
        raise click.exceptions.Exit(EXIT_HOST)


def _run(
    campaign: Campaign, writer: ResultWriter | None, confirmed: bool
) -> tuple[Result, KvmpcError | None]:
    """Run the campaign, save and show progress; return what was measured, and what ended it."""
    done = sum(not trial.wasted for trial in campaign.result.trials)
    if writer:
        writer.begin(campaign.result)
    with progress(done + len(campaign.schedule), done) as advance:

        def on_trial(result: Result, left_s: float | None) -> None:
            if writer:
                writer.append(result)
            advance(result.trials[-1], left_s)

        result, stopped = campaign.run(on_trial, confirmed=confirmed)
    if writer:
        try:
            writer.finish(result)
        except KernelError as error:
            stopped = stopped or error
    return result, stopped
