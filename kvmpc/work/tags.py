"""Where a missing page's bytes come from: a simulated sender whose every page is recognisable.

A page carries a tag in its first and its last word, derived from its gpa and the trial's seed, so
that a page that is missing, misplaced or stale cannot pass for the right one. The host's loops
write tags and the guest compares them, by the macro ``tag`` of ``guest/x86_64/rules.asm``; here is
the same rule in Python, for reports and tests.

The second word is the guest's (`WRITTEN_WORD` in kvmpc/loops/records.py). What lies between is
zero, or where the whole page is verified the rule's seed in every word.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ZERO", "TagRule", "tag_rule"]

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
"""2^64 divided by the golden ratio, odd: multiplying by it spreads page numbers over all bits."""


@dataclass(frozen=True)
class TagRule:
    """tag(gpa) = gpa * multiplier ^ seed, both 64-bit; the last word is the tag rotated by half."""

    multiplier: int
    seed: int

    def tag(self, gpa: int) -> int:
        """Return the first word of the page at `gpa`."""
        return (gpa * self.multiplier & _MASK) ^ self.seed

    def last_word(self, gpa: int) -> int:
        """Return the last word of the page at `gpa`."""
        tag = self.tag(gpa)
        return (tag << 32 | tag >> 32) & _MASK


ZERO = TagRule(0, 0)
"""What memory that nobody filled holds."""


def tag_rule(seed: int) -> TagRule:
    """Return the rule for one trial.

    The seed's low twelve bits are never zero, and a gpa has none there: no tag is 0, which is what
    a page that nobody filled would show.
    """
    mixed = (seed + 1) * _GOLDEN & _MASK
    return TagRule(_GOLDEN, mixed & ~0xFFF | 0x5A5)
