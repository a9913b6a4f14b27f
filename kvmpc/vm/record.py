"""What a vCPU of the guest is told and what it reports: the record in its own page."""

from __future__ import annotations

import ctypes

from kvmpc.loops.records import FieldSpec, ctypes_fields

__all__ = ["GUEST_FIELDS", "HISTOGRAM_BUCKETS", "HISTOGRAM_LIMIT", "GuestRecord"]

HISTOGRAM_LIMIT = (1 << 40) - 1
"""Cycles; a longer touch counts as this long (minutes). The longest is kept on its own."""

HISTOGRAM_BUCKETS = 592

u32, u64 = ctypes.c_uint32, ctypes.c_uint64
F = FieldSpec

GUEST_FIELDS = (
    F("touches", u64, "touches", "in", "how many pages to touch"),
    F("start", u64, "index", "in", "index of the first"),
    F("step", u64, "indices", "in", "from one to the next, modulo count"),
    F("count", u64, "indices", "in", "touched pages in the part"),
    F("part", u64, "gpa", "in", "first page of the part"),
    F("run_shift", u64, "bits", "in", "log2 of the pages in a run"),
    F("run_stride", u64, "pages", "in", "from one run's first page to the next one's"),
    F("tag_multiplier", u64, "number", "in", "TagRule.multiplier"),
    F("tag_seed", u64, "number", "in", "TagRule.seed"),
    F("touched", u64, "touches", "out", "progress"),
    F("start_cycles", u64, "TSC cycles", "out", "guest TSC after the gate"),
    F("end_cycles", u64, "TSC cycles", "out", "guest TSC after the last page"),
    F("longest_cycles", u64, "TSC cycles", "out", "the longest touch"),
    F("mismatches", u64, "pages", "out", "pages whose tags were wrong"),
    F("wrong_gpa", u64, "gpa", "out", "the first of them"),
    F("wrong_first", u64, "word", "out", "what its first word was"),
    F("wrong_last", u64, "word", "out", "what its last word was"),
    F("trap_rsp", u64, "gva", "out", "stack pointer in an exception; 0 = none happened"),
    F("trap_cr2", u64, "gva", "out", "CR2 then"),
    F("histogram", u32 * HISTOGRAM_BUCKETS, "touches", "out", "by duration, see bucket_bounds"),  # type: ignore[arg-type]
    # Last, so that no other field's place depends on them.
    F("further", u64, "passes", "in", "passes after the first; counts down"),
    F("again", u64, "touches", "out", "progress in these"),
    F(
        "changed",
        u64,
        "touches",
        "out",
        "of these, found a page other than the pass before left it",
    ),
    F("changed_gpa", u64, "gpa", "out", "the first of them"),
    F("changed_word", u64, "word", "out", "what was in the word that the guest writes"),
)


class GuestRecord(ctypes.Structure):
    """What one vCPU is told and what it reports; in its own page of the low slot."""

    _fields_ = ctypes_fields(GUEST_FIELDS)
