"""What the shares of a profile are known to: their intervals.

A share is a proportion of samples, so its interval is Wilson's (E. B. Wilson, 1927): it holds its
level from a few hundred samples on also near 0 and 1, where shares of locks lie, and never leaves
them. It speaks of chance in sampling alone, not of another trial. Whether there are samples enough
for any share to be told says `Profile.tells`. Pure functions of records.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from kvmpc.result.records import Profile

__all__ = ["Proportion", "proportion", "spin"]

_Z: Final = 1.959964
"""The normal quantile of a two-sided 95 % interval."""


@dataclass(frozen=True, kw_only=True)
class Proportion:
    """A share of a profile's CPU time, with its 95 % interval."""

    share: float
    low: float
    high: float


def proportion(profile: Profile, share: float) -> Proportion:
    """Return a share of `profile`, as found in it, with the interval that its samples give it."""
    # From a file, or a sum of shares: a little more than all is all.
    share, n = min(1.0, share), max(1, profile.weight)
    spread = _Z**2 / n
    middle = (share + spread / 2) / (1 + spread)
    reach = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    # Exact at both ends, whatever is lost in rounding.
    low = 0.0 if share == 0 else max(0.0, middle - reach)
    high = 1.0 if share == 1 else min(1.0, middle + reach)
    return Proportion(share=share, low=min(low, share), high=max(high, share))


def spin(profile: Profile) -> Proportion | None:
    """Return the share of spin locks surely waited for; None where functions have no names."""
    return proportion(profile, sum(profile.spin.values())) if profile.spin else None
