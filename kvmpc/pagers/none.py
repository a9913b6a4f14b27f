"""none: no page is missing to userspace. The reference for every other pager.

`host=cold`: the kernel allocates a zeroed page in the fault, the cheapest way a page can come
about. `host=populated`: the host has the page, tagged, and only KVM's own mapping is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from kvmpc.loops.records import FillRecord
from kvmpc.pagers.pager import Pager, Scene, Supply
from kvmpc.pagers.spec import Key, choice
from kvmpc.vm.contents import part_fields
from kvmpc.work.tags import ZERO, TagRule

__all__ = ["NonePager"]


@dataclass(frozen=True)
class NonePager(Pager):
    """The kernel's own faults."""

    host: str = "cold"

    name: ClassVar[str] = "none"
    keys: ClassVar[Mapping[str, Key]] = {"host": choice("cold", "populated")}
    fetches: ClassVar[bool] = False

    @property
    def starts_empty(self) -> bool:
        """Populated memory is filled before the gate."""
        return self.host == "cold"

    def tags(self, seed: int) -> TagRule:
        """Return zeros for cold memory: nobody has written to it."""
        return ZERO if self.host == "cold" else super().tags(seed)

    def open(self, scene: Scene) -> Supply:
        """Set up for one trial."""
        return Supply(scene) if self.host == "cold" else PopulatedSupply(scene)


class PopulatedSupply(Supply):
    """Each vCPU's thread fills its part of the touched pages before the gate."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._fills: list[FillRecord] = []
        self._stopped = False

    def progress(self) -> int:
        """Return how far the fills are, all together."""
        return sum(record.index for record in self._fills)

    def stop(self) -> None:
        """End the fills: for a large guest they take minutes."""
        self._stopped = True
        for record in self._fills:
            record.stop = 1

    def before_ready(self, vcpu: int) -> int:
        """Fill this vCPU's pages; with overlap, its share of the pages that all touch."""
        scene = self.scene
        work = scene.work
        order = scene.layout.order(vcpu)
        first, end = 0, order.count
        if work.overlap:
            first = vcpu * order.count // work.vcpus
            end = (vcpu + 1) * order.count // work.vcpus
        part = part_fields(scene.memory, scene.layout, scene.tags, order.part_page)
        record = FillRecord(**part | {"index": first, "end": end})
        self._fills.append(record)
        # Either `stop` finds the record in the list, or it has set the flag before.
        if self._stopped:
            record.stop = 1
        return self.program().call("fill", record)
