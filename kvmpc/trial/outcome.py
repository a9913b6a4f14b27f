"""What a trial found, from each producer of numbers one `Finding`; folded once to its result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from kvmpc.caution import Caution
from kvmpc.pagers.pager import Pager
from kvmpc.result.records import FAILED, OK, TrialResult
from kvmpc.work.work import Work

__all__ = ["Finding", "blank_result", "fold"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one producer found: fields of a `TrialResult`, and what weakens them.

    Every key of a mapping, and every other field, has one producer; None and empty say nothing.
    """

    verified: str | None = None
    elapsed_ns: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    histogram_cycles: tuple[tuple[int, int, int], ...] | None = None
    guest_tsc_khz: float | None = None
    guest_tsc_is_host_tsc: bool | None = None
    per_vcpu: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    per_reader: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    pages_per_node: Mapping[str, int] = field(default_factory=dict)
    kvm_stats: Mapping[str, int] = field(default_factory=dict)
    timeline: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    cautions: tuple[Caution, ...] = ()


def fold(blank: TrialResult, findings: Iterable[Finding]) -> TrialResult:
    """Return `blank` with all that was found; cautions in the order of `findings`.

    Raises: ValueError, where two have found the same.
    """
    found: dict[str, Any] = {}
    cautions: list[Caution] = []
    for finding in findings:
        cautions += finding.cautions
        for name in _FOUND:
            value = getattr(finding, name)
            if isinstance(value, Mapping):
                known = found.setdefault(name, {})
                if twice := sorted(known.keys() & value.keys()):
                    raise ValueError(f"{name} has two producers of {', '.join(twice)}")
                known |= value
            elif value is not None:
                if name in found:
                    raise ValueError(f"{name} has two producers")
                found[name] = value
    return replace(blank, **found, warnings=tuple(cautions))


_FOUND = [each.name for each in fields(Finding) if each.name != "cautions"]


def blank_result(
    work: Work, pager: Pager, round_number: int, *, error: str | None = None
) -> TrialResult:
    """Return the result of a trial of which nothing is known but how it ended."""
    return TrialResult(
        pager=pager.spec,
        label=pager.label,
        fetches=pager.fetches,
        round=round_number,
        status=OK if error is None else FAILED,
        error=error,
        verified=None,
        vcpus=work.vcpus,
        expected_pages=work.expected_pages,
        sparse=work.sparse,
        elapsed_ns=None,
        metrics={},
        counts={},
        histogram_cycles=(),
        guest_tsc_khz=None,
        guest_tsc_is_host_tsc=None,
        per_vcpu={},
        per_reader={},
        pages_per_node={},
        warnings=(),
    )
