"""Histograms of cycles: what a bucket counts, quantiles, and cycles as time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

__all__ = ["BLUR", "Histogram", "bucket_bounds", "cycles_to_ns", "quantile_cycles"]

BLUR: Final = math.log1p(1 / 32)
"""By what a quantile's logarithm may be off, to either side: it is a bucket's middle."""


def bucket_bounds(bucket: int) -> tuple[int, int]:
    """Return (lowest, highest) duration in cycles that `bucket` of the histogram counts."""
    shift = max(0, bucket // 16 - 1)
    lowest = (bucket - shift * 16) << shift
    return lowest, lowest + (1 << shift) - 1


Histogram = Sequence[tuple[int, int, int]]
"""(lowest, highest, touches) of the non-empty buckets, ascending; both ends belong to it."""


def cycles_to_ns(cycles: float, tsc_khz: float) -> float:
    """Return the nanoseconds in `cycles` of a counter of `tsc_khz` (cycles in a millisecond)."""
    return cycles * 1e6 / tsc_khz


def quantile_cycles(histogram: Histogram, quantile: float) -> float:
    """Return the midpoint of the bucket that holds the `quantile` (nearest rank), in cycles.

    A bucket is at most 1/16 of its lowest value wide, so the midpoint is off by at most 1/32 to
    either side (`BLUR`); the upper end would be off by up to 1/16, and always upwards.

    Raises: ValueError where the histogram is empty.
    """
    total = sum(touches for _, _, touches in histogram)
    # In whole numbers: 0.07 * 100 is 7.000000000000001, whose ceiling is one rank too far.
    rank = max(1, -(-round(quantile * 10**6) * total // 10**6))
    for lowest, highest, touches in histogram:
        rank -= touches
        if rank <= 0:
            return (lowest + highest) / 2
    raise ValueError("an empty histogram has no quantiles")
