"""How long the trials that are left will take, learned from those that were run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from kvmpc.run.schedule import PlannedTrial

__all__ = ["Estimate"]

_VCPU_S = 0.001
"""What a vCPU adds to set-up and tear-down, about: bench/tool_cost.py."""


_Kind = tuple[str, int, int]
"""Trials of one kind take equally long: pager, vCPUs, pages that each touches."""


class Estimate:
    """How long trials take, learned from those that were run; of each kind, from the last one."""

    def __init__(self) -> None:
        self._seen: dict[_Kind, tuple[float, float]] = {}

    def add(self, planned: PlannedTrial, seconds: float, running_s: float) -> None:
        """Take note that `planned` took so long, from set-up to tear-down and from the gate on."""
        self._seen[_kind(planned)] = seconds - running_s, running_s

    def left_s(self, trials: Iterable[PlannedTrial]) -> float | None:
        """Return the seconds that `trials` will take, about; None before the first trial.

        Each is taken to cost per touched page what the trial nearest in size did, of the same pager
        where there is one; set-up and tear-down do not grow with the pages, but with the vCPUs.
        """
        if not self._seen:
            return None
        # By kind: asked after every trial, of all that are left.
        kinds = Counter(map(_kind, trials))
        return sum(count * self._estimate_s(kind) for kind, count in kinds.items())

    def _estimate_s(self, kind: _Kind) -> float:
        spec, vcpus, touched = kind
        size = vcpus * touched
        of_pager = [seen for seen in self._seen if seen[0] == spec] or list(self._seen)
        nearest = min(of_pager, key=lambda seen: abs(math.log(seen[1] * seen[2] / size)))
        around_s, running_s = self._seen[nearest]
        more_vcpus = max(0, vcpus - nearest[1])
        return running_s * size / (nearest[1] * nearest[2]) + around_s + more_vcpus * _VCPU_S


def _kind(planned: PlannedTrial) -> _Kind:
    return planned.pager.spec, planned.work.vcpus, planned.work.touched_per_part
