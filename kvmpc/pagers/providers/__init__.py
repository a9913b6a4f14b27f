"""What makes KVM_RUN return for a missing page: a file for each way, and their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kvmpc.pagers.providers.provider import Provider
from kvmpc.pagers.providers.sigbus import Sigbus

__all__ = ["PROVIDERS", "Provider"]

PROVIDERS: Final[Mapping[str, Provider]] = {provider.name: provider for provider in (Sigbus(),)}
"""By the name that ``exit,provider=`` takes, the default first."""
