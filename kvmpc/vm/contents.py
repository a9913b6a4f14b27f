"""What the touched pages of a part hold: for who fills them ahead and who reads them back."""

from __future__ import annotations

import ctypes
from typing import Final, TypedDict

from kvmpc.loops.records import WRITTEN_WORD
from kvmpc.loops.stamps import STAMPS
from kvmpc.vm.memory import DATA_GPA, GuestMemory
from kvmpc.work.layout import Layout
from kvmpc.work.tags import TagRule
from kvmpc.work.work import Work

__all__ = ["PartFields", "build_body", "part_fields"]

_BODY: Final = WRITTEN_WORD + 8
_BEHIND_STAMPS: Final = max(STAMPS.values()) + 8


class PartFields(TypedDict):
    """What a `FillRecord` and an `InspectRecord` alike say of a part."""

    hva: int
    gpa: int
    end: int
    run_shift: int
    run_stride: int
    tag_multiplier: int
    tag_seed: int
    body: int
    body_words: int


def part_fields(
    memory: GuestMemory, layout: Layout, tags: TagRule, part_page: int, *, stamped: bool = False
) -> PartFields:
    """Return the fields for all touched pages of the part that begins at `part_page`.

    stamped: whether they carry the stamps of a latency split, which are no part of the body.
    """
    work = layout.work
    begin = _BEHIND_STAMPS if stamped else _BODY
    return PartFields(
        hva=memory.hva_of_page(part_page),
        gpa=DATA_GPA + part_page * work.unit_bytes,
        end=work.touched_per_part,
        run_shift=layout.run_pages.bit_length() - 1,
        run_stride=layout.run_stride,
        tag_multiplier=tags.multiplier,
        tag_seed=tags.seed,
        body=tags.seed,
        body_words=(work.unit_bytes - 8 - begin) // 8 if work.verify == "page" else 0,
    )


def build_body(staging_hva: int, work: Work, tags: TagRule) -> None:
    """Give a thread's staging page the body of every page, where `work` asks for one.

    Once and for all: on the measured path a page is staged in the same way with and without.
    """
    if work.verify == "page":
        words = (work.unit_bytes - 8 - _BODY) // 8
        ctypes.memmove(staging_hva + _BODY, tags.seed.to_bytes(8, "little") * words, words * 8)
