"""
Base-2 exponential histograms, exactly: the kernel counts with bounds that are bounds of such a histogram too.

Source: OpenTelemetry specification, metrics/data-model.md, "ExponentialHistogram": at scale 0, bucket ``index`` holds
values above 2^index and up to 2^(index+1).  Scale 0 is what 31 bounds allow: at scale 1 they would span 15 octaves
only, from 122 µs to 4 s.
"""

from collections.abc import Sequence
from typing import NamedTuple

from otel_qemu.trace.exponential import upper_bound_ns

SCALE = 0
_LOWEST, _HIGHEST = -18, 12
ZERO_THRESHOLD_S = 2.0**_LOWEST
"""What took no longer, 3.8 µs, is in the zero bucket."""


BOUNDS_S = tuple(upper_bound_ns(exponent - 1, SCALE) / 1e9 for exponent in range(_LOWEST, _HIGHEST + 1))
"""For the kernel: 31 powers of two, from 3.8 µs to 4096 s, cut to whole ns."""


class Buckets(NamedTuple):
    """
    The counts of an exponential histogram at `SCALE`.

    Attributes:
        zero_count: of values up to `ZERO_THRESHOLD_S`.
        offset: index of the first bucket.
        counts: of consecutive buckets; none before the first and after the last that count anything.
    """

    zero_count: int
    offset: int
    counts: tuple[int, ...]


def buckets_of(counts: Sequence[int]) -> Buckets:
    """
    The same counts in buckets.

    Args:
        counts: with `BOUNDS_S`, one more than those; the last is of what took longer than 4096 s and has no upper
            bound, which buckets cannot say: it is put above 4096 s and up to 8192 s.
    """
    filled = [index for index, count in enumerate(counts) if count and index]
    if not filled:
        return Buckets(int(counts[0]), 0, ())
    first, last = filled[0], filled[-1]
    return Buckets(int(counts[0]), _LOWEST + first - 1, tuple(int(count) for count in counts[first : last + 1]))
