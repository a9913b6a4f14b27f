"""What the touched pages of a part hold: for who fills them ahead and who reads them back."""

from __future__ import annotations

from typing import TypedDict

from kvmpc.vm.memory import DATA_GPA, GuestMemory
from kvmpc.work.layout import Layout
from kvmpc.work.tags import TagRule

__all__ = ["PartFields", "part_fields"]


class PartFields(TypedDict):
    """What a `FillRecord` and an `InspectRecord` alike say of a part."""

    hva: int
    gpa: int
    end: int
    run_shift: int
    run_stride: int
    tag_multiplier: int
    tag_seed: int


def part_fields(memory: GuestMemory, layout: Layout, tags: TagRule, part_page: int) -> PartFields:
    """Return the fields for all touched pages of the part that begins at `part_page`."""
    return PartFields(
        hva=memory.hva_of_page(part_page),
        gpa=DATA_GPA + part_page * layout.work.unit_bytes,
        end=layout.work.touched_per_part,
        run_shift=layout.run_pages.bit_length() - 1,
        run_stride=layout.run_stride,
        tag_multiplier=tags.multiplier,
        tag_seed=tags.seed,
    )
