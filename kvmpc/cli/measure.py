"""``kvmpc compare``, ``run`` and ``sweep``: validate, check the host, measure, save, show."""

from __future__ import annotations

import itertools
import os
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click

from kvmpc.cli.options import PAGERS_HELP, format_option, work_options
from kvmpc.cli.output import EXIT_FAILED, format_time, print_result, progress, say_stopping
from kvmpc.errors import KernelError, KvmpcError, UsageError

if TYPE_CHECKING:
    from kvmpc.kernel.kvm import Kvm
    from kvmpc.result.records import Result
    from kvmpc.result.writer import ResultWriter
    from kvmpc.run.plan import Plan
    from kvmpc.run.schedule import Schedule
    from kvmpc.trial.signals import Interrupt

__all__ = ["compare", "run", "sweep"]

_LONG_S = 3600.0
"""What takes longer than this has to be confirmed."""

_SWEEP_EXAMPLES = """\b
Examples:
  kvmpc sweep bench/smoke.toml
  kvmpc sweep bench/scaling.toml --set mem_per_vcpu=4M --set vcpus=1,2,4 --json scaling.json
  kvmpc sweep bench/scaling.toml --json scaling.json --resume
"""


@click.command(epilog=PAGERS_HELP)
@click.argument("pagers", nargs=-1, metavar="[PAGER]...")
@click.option("--rounds", type=int, metavar="N", default=3, show_default=True,
              help="Measured trials of each pager, interleaved.")  # fmt: skip
@work_options
@format_option
def compare(pagers: tuple[str, ...], **options: Any) -> None:
    """Measure several pagers on the same guest, side by side.

    Without PAGER: none, uffd, uffd,uffds=per-vcpu, exit, exit,uffds=per-vcpu. Ratios refer to the
    first pager that fetches.
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
@click.option("--yes", is_flag=True, help="Also if it takes more than an hour, or 10,000 trials.")
@format_option
def sweep(
    spec: str,
    settings: tuple[str, ...],
    json_path: str | None,
    resumed: bool,
    profile: bool,
    yes: bool,
    kind: str,
) -> None:
    """Measure every combination of the options in SPEC, interleaved, and keep every value.

    In a spec any option may be a list. Results are written after each trial: a sweep that was
    stopped, or killed, goes on with --resume. What this host cannot run is listed as skipped.
    """
    from kvmpc.run.sweep import read_spec

    plan = read_spec(spec, (*settings, *["profile=true"] * profile), confirmed=yes)
    path = json_path or f"{os.path.splitext(os.path.basename(spec))[0]}.json"
    if not resumed and path != "-" and os.path.isfile(path) and os.path.getsize(path):
        raise UsageError("--json", path, "a new file, or --resume to go on with this one")
    measure_plan(plan, json_path=path, resumed=resumed, confirmed=yes, kind=kind)


def _measure_options(pagers: tuple[str, ...], options: dict[str, Any]) -> None:
    from kvmpc.run.axes import AXES
    from kvmpc.run.plan import make_plan

    plan = make_plan(
        {name: options[name] for name in AXES},
        pagers or None,
        confirmed=options["yes"],
        rounds=options["rounds"],
        warmup=options["warmup"],
        watchdog_s=options["watchdog"],
        profile=options["profile"],
    )
    measure_plan(
        plan, json_path=options["json_path"], confirmed=options["yes"], kind=options["kind"]
    )


def measure_plan(
    plan: Plan,
    *,
    json_path: str | None,
    resumed: bool = False,
    confirmed: bool = False,
    kind: str = "table",
) -> None:
    """Check the host, measure, save after each trial, show."""
    from kvmpc.kernel.kvm import Kvm
    from kvmpc.result.writer import ResultWriter
    from kvmpc.trial.signals import interruptible

    with (
        ResultWriter(json_path) if json_path is not None else nullcontext() as writer,
        interruptible(say_stopping) as interrupt,
        Kvm() as kvm,
    ):
        schedule, result = _prepare(kvm, plan, json_path if resumed else None)
        result, stopped = _measure(kvm, schedule, result, writer, interrupt, confirmed)
    print_result(result, err=json_path == "-", kind=kind)
    if stopped is not None:
        raise stopped
    if any(trial.status != "ok" for trial in result.trials):
        sys.exit(EXIT_FAILED)


def _prepare(kvm: Kvm, plan: Plan, resume_path: str | None) -> tuple[Schedule, Result]:
    """Return what is to be measured on this host, and the result as far as it is known."""
    from datetime import UTC, datetime
    from importlib.metadata import version

    from kvmpc.host.facts import collect
    from kvmpc.run.campaign import planned_result
    from kvmpc.run.needs import what_cannot_run
    from kvmpc.run.resume import resume
    from kvmpc.run.schedule import Schedule

    skipped, refusal = what_cannot_run(kvm, plan)
    # One point is a question that has no answer then; a sweep has others to answer.
    if refusal is not None and (
        len(plan.points) == 1 or len(skipped) == sum(len(p.pagers) for p in plan.points)
    ):
        raise refusal
    result = planned_result(
        plan,
        skipped,
        tool_version=version("kvmpc"),
        command=("kvmpc", *sys.argv[1:]),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        host=collect(),
    )
    if resume_path is not None:
        result = resume(resume_path, result)
    return Schedule(plan, skipped, result.trials), result


def _measure(
    kvm: Kvm,
    schedule: Schedule,
    result: Result,
    writer: ResultWriter | None,
    interrupt: Interrupt,
    confirmed: bool,
) -> tuple[Result, KvmpcError | None]:
    """Run the schedule; return what was measured, and what ended it early, if anything did."""
    from dataclasses import replace

    from kvmpc.host.during import HostWatch
    from kvmpc.run.campaign import measure
    from kvmpc.run.estimate import Estimate

    watch = HostWatch()
    clock, left, stopped = Estimate(), list(schedule.trials()), None
    first_point = len(list(itertools.takewhile(lambda step: step.point == left[0].point, left)))
    if writer:
        writer.begin(result)
    with progress(len(left) + len(result.trials), len(result.trials)) as advance:
        try:
            for _, trial in measure(kvm, schedule, interrupt=interrupt, clock=clock):
                del left[0]
                result = replace(result, trials=(*result.trials, trial))
                if writer:
                    writer.append(result)
                left_s = clock.left_s(left)
                advance(trial, left_s)
                first_point -= 1
                if first_point == 0 and not confirmed and left_s is not None and left_s > _LONG_S:
                    raise UsageError(
                        "--yes", "not given", f"--yes: the rest takes {format_time(left_s)}"
                    )
            result = replace(result, finished=True)
        except KvmpcError as error:
            stopped = error  # what was measured is shown all the same
    result = replace(result, during=watch.facts())
    if writer:
        try:
            writer.finish(result)
        except KernelError as error:
            stopped = stopped or error
    return result, stopped
