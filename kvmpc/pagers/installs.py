"""How a page gets to where the guest looks for it: one record for each way.

A pager that fetches has one of them beside what notices the missing page; which resolver step it
links, and how the ranges are registered that it installs in, is said here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kvmpc.abi import userfaultfd as abi
from kvmpc.loops.steps import InstallStep

__all__ = ["COPY", "Install"]


@dataclass(frozen=True, kw_only=True)
class Install:
    """One way to install.

    step: the variant of the step `install`. register_mode: ``UFFDIO_REGISTER_MODE_*`` of the
    ranges.
    """

    step: InstallStep
    register_mode: int


COPY: Final = Install(step="install_copy", register_mode=abi.UFFDIO_REGISTER_MODE_MISSING)
"""UFFDIO_COPY of a staged page, atomic, into a range registered for missing pages."""
