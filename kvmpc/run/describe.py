"""What a result says of the pagers that a run measures."""

from __future__ import annotations

from kvmpc.pagers.pager import Pager
from kvmpc.result.pager_info import PagerInfo

__all__ = ["pager_info"]


def pager_info(pager: Pager) -> PagerInfo:
    """Return what a result says of `pager`."""
    return PagerInfo(
        spec=pager.spec,
        label=pager.label,
        kind=pager.name,
        keys=pager.values,
        fetches=pager.fetches,
    )
