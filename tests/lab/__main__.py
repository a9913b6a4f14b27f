"""``python -m tests.lab``: kvmpc on a kernel of your own, and the table of a lab's result."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import click

from . import cells, results
from .kernels import Unavailable, debian_kernel, given_kernel
from .machine import LabError, Machine


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--kernel",
    metavar="BZIMAGE|SERIES",
    help="A built kernel (arch/x86/boot/bzImage), or a series of Debian's, such as 6.12.",
)
@click.option(
    "--modules",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="INSTALL_MOD_PATH, or a folder with kvm.ko; none where KVM is built in.",
)
@click.option("--mmu", type=click.Choice(list(cells.MMUS)), default="tdp", show_default=True)
@click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write everything that came back.",
)
@click.pass_context
def main(
    context: click.Context,
    kernel: str | None,
    modules: Path | None,
    mmu: str,
    json_path: Path | None,
) -> None:
    """Boot a kernel under QEMU's software emulation, and run kvmpc's matrix in it.

    Exit codes: 0 every cell verified, 1 one did not, 2 usage, 3 QEMU or the kernel is missing,
    4 the machine broke, hung, or has no KVM that works.
    """
    if context.invoked_subcommand is not None:
        return
    if kernel is None:
        raise click.UsageError("--kernel is missing")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(_report(kernel, modules, mmu, json_path))
    except Unavailable as error:
        click.echo(f"{error}", err=True)
        sys.exit(3)
    except LabError as error:
        click.echo(f"{error}", err=True)
        sys.exit(4)


def _report(name: str, modules: Path | None, mmu: str, json_path: Path | None) -> int:
    image = Path(name)
    kernel = given_kernel(image, modules) if image.is_file() else debian_kernel(name)
    jobs = cells.jobs()
    click.echo(f"{kernel.name}: {len(jobs)} jobs, {cells.MMU_TITLES[mmu]}", err=True)

    def on_report(job: str, report: dict[str, Any]) -> str | None:
        code = "timed out" if report["timed_out"] else f"exit code {report['exit_code']}"
        click.echo(f"{job}: {code}, {report['seconds']} s", err=True)
        if job == "probe" and not cells.pagers_that_run(report):
            # Every other job would only say so again.
            hint = "" if kernel.modules else "\nWithout --modules, KVM has to be built in."
            return f"no pager runs on this kernel:\n{report['stderr'].strip()}{hint}"
        return None

    boot = Machine(kernel, cells.MMUS[mmu]).run(jobs, on_report)
    record = cells.judge(kernel, mmu, boot)
    if json_path is not None:
        results.save(json_path, [record])
    click.echo(results.markdown(results.document([record])))
    for function, reason in record["absent_probes"].items():
        click.echo(f"calls of {function} were not counted: {reason}")
    for line in record["complaints"]:
        click.echo(f"console: {line}")
    bad = bool(record["complaints"])
    for cell in record["cells"]:
        where = f"{cell['vcpus']} vCPUs, {cell['pager']}"
        if cell["status"] != "ok":
            bad = True
            click.echo(f"FAILED: {where}: {cell['error']}")
        else:
            for surprise in cells.surprises(mmu, cell):
                click.echo(f"unlike Debian's 6.1 and 6.12: {where}: {surprise}")
    for stop in record["stops"]:
        if "error" in stop:
            bad = True
            click.echo(f"FAILED: stop of {stop['kind']}: {stop['error']}\n{stop['stderr']}")
    huge = record["huge_pages"]
    if "error" in huge or any(huge.get("pages_found", ())):
        bad = True
        click.echo(f"FAILED: huge pages in guest memory: {huge}")
    if record["host_tests"]["exit_code"]:
        bad = True
        click.echo(record["host_tests"]["stdout"])
    return int(bad)


@main.command()
@click.argument("file", metavar="LAB.json", type=click.Path(exists=True, path_type=Path))
def table(file: Path) -> None:
    """Print the table of kernels and MMUs that README shows."""
    try:
        click.echo(results.markdown(results.load(file)), nl=False)
    except (ValueError, KeyError) as error:
        raise click.UsageError(f"{file}: {error}") from error


if __name__ == "__main__":
    main(prog_name="python -m tests.lab")
