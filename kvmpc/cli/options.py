"""The options that say what every trial works on, for all commands that measure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from kvmpc.config import Work

__all__ = ["PAGERS_HELP", "work_of", "work_options"]


def _size_bytes(_: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    from kvmpc.units import parse_size_bytes

    return None if text is None else parse_size_bytes(text, parameter.opts[0])


def _duration_ns(_: click.Context, parameter: click.Parameter, text: str) -> int:
    from kvmpc.units import parse_duration_ns

    return parse_duration_ns(text, parameter.opts[0])


PAGERS_HELP = """\b
PAGER is name[,key=value...]:
  none[,host=cold|populated]
  uffd[,readers=R][,uffds=one|per-vcpu|K][,fetch=pipelined|blocking]
  exit[,uffds=one|per-vcpu|K]
"""


def work_options(command: Callable[..., None]) -> Callable[..., None]:
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


def work_of(options: dict[str, Any]) -> Work:
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
