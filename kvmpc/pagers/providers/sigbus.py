"""sigbus: UFFD_FEATURE_SIGBUS makes GUP fail instead of sleeping. Any kernel since 4.14.

A pessimistic stand-in for a kernel's own bitmap: the fault still walks GUP two or three times
before it comes out.
"""

from __future__ import annotations

from typing import ClassVar

from kvmpc.abi import userfaultfd as uffd_abi
from kvmpc.kernel.need import Need
from kvmpc.kernel.userfaultfd import FEATURE_SIGBUS
from kvmpc.pagers.providers.provider import Provider

__all__ = ["Sigbus"]


class Sigbus(Provider):
    """The exit comes bare, annotated or as MMIO; see ``loops/x86_64/vcpu.asm``."""

    name: ClassVar[str] = "sigbus"
    uffd_features: ClassVar[int] = uffd_abi.UFFD_FEATURE_SIGBUS
    needs: ClassVar[tuple[Need, ...]] = (*Provider.needs, FEATURE_SIGBUS)
