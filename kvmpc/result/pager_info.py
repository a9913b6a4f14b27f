"""What a pager of a result is, as data, so that nothing that shows it has to read its name.

A result says it of each of its pagers (`Result.pager_infos`). One that is older does not: there,
and nowhere else, it is read from how the pager is spelled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["PagerInfo", "pager_of_spelling"]


@dataclass(frozen=True, kw_only=True)
class PagerInfo:
    """One pager of a result.

    spec: canonical, such as ``exit,uffds=per-vcpu``; what joins trials to a pager.
    label: what it is called in tables, such as ``exit(sigbus),uffds=per-vcpu``.
    kind: what its spec begins with: ``none``, ``uffd``, ``exit``.
    keys: every key of that kind with its value as a spec has it, those at their default as well.
    fetches: whether it installs pages itself.
    """

    spec: str
    label: str
    kind: str
    keys: Mapping[str, str]
    fetches: bool

    @property
    def provider(self) -> str | None:
        """What makes its exits happen; None where it has no exits."""
        return self.keys.get("provider")


_DEFAULTS: Final[Mapping[str, Mapping[str, str]]] = {
    "none": {"host": "cold"},
    "uffd": {"readers": "1", "uffds": "one", "fetch": "pipelined"},
    "exit": {"uffds": "one", "provider": "sigbus"},
}
"""Keys and defaults by kind when results began to say them. History: not to be kept up to date."""


def pager_of_spelling(spec: str, label: str) -> PagerInfo:
    """Return what `spec` and `label` say of a pager, in a result that does not say it itself."""
    kind, *words = spec.split(",")
    keys = {**_DEFAULTS.get(kind, {}), **dict(word.partition("=")[::2] for word in words)}
    provider = re.match(r"[^,(]*\(([^)]*)\)", label)
    if provider:
        keys["provider"] = provider[1]
    return PagerInfo(spec=spec, label=label, kind=kind, keys=keys, fetches=kind != "none")
