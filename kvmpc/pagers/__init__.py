"""The pagers: one file for each way to supply missing pages, and the parser of their specs."""

from __future__ import annotations

from collections.abc import Mapping

from kvmpc.errors import UsageError
from kvmpc.pagers.exit import ExitPager
from kvmpc.pagers.none import NonePager
from kvmpc.pagers.pager import Pager
from kvmpc.pagers.providers import PROVIDERS
from kvmpc.pagers.spec import parse_options
from kvmpc.pagers.uffd import UffdPager

__all__ = ["DEFAULT_COMPARE", "PAGERS", "Pager", "parse_pager"]

PAGERS: Mapping[str, type[Pager]] = {
    pager.name: pager for pager in (NonePager, UffdPager, ExitPager)
}

DEFAULT_COMPARE = ("none", "uffd", "uffd,uffds=per-vcpu", "exit", "exit,uffds=per-vcpu")
"""What is compared unless told where all CPUs have a vCPU; else see `kvmpc.run.defaults`."""


def parse_pager(spec: str) -> Pager:
    """Return the pager that `spec` names; a label such as ``exit(sigbus)`` is a spec as well.

    Raises: UsageError naming what is allowed.
    """
    spec = spec.strip()
    for provider in PROVIDERS:
        label = f"{ExitPager.name}({provider})"
        if spec == label or spec.startswith(f"{label},"):
            return parse_pager(f"{ExitPager.name},provider={provider}{spec[len(label) :]}")
    name = spec.split(",")[0]
    if name not in PAGERS:
        raise UsageError("PAGER", spec, ", ".join(PAGERS) + " (with ,key=value...)")
    pager = PAGERS[name]
    return pager(**parse_options(spec, pager.keys))
