# SPDX-License-Identifier: Apache-2.0
"""
Base-2 exponential histograms, exactly: the kernel counts with bounds that are bounds of such a histogram too.

Source: OpenTelemetry specification, metrics/data-model.md, "ExponentialHistogram": at scale 0, bucket ``index`` holds
values above 2^index and up to 2^(index+1).  Scale 0 is what 31 bounds allow: at scale 1 they would span 15 octaves
only, from 122 µs to 4 s.
"""

from collections.abc import Sequence

from otel_qemu.trace.exponential import upper_bound_ns

SCALE = 0
_LOWEST, _HIGHEST = -18, 12

BOUNDS_S = tuple(upper_bound_ns(exponent - 1, SCALE) / 1e9 for exponent in range(_LOWEST, _HIGHEST + 1))
"""For the kernel: 31 powers of two, from 3.8 µs to 4096 s, cut to whole ns."""


def positive_buckets(counts: Sequence[int]) -> tuple[int, Sequence[int]]:
    """
    The buckets of the same counts at `SCALE`, without those of the zero bucket, the first.

    Args:
        counts: with `BOUNDS_S`, one more than those; the last is of what took longer than 4096 s and has no upper
            bound, which buckets cannot say: it is put above 4096 s and up to 8192 s.

    Returns:
        Index of the first bucket, and the counts of consecutive ones; none before the first and after the last that
        count anything.
    """
    filled = [index for index, count in enumerate(counts) if count and index]
    if not filled:
        return 0, ()
    return _LOWEST + filled[0] - 1, counts[filled[0] : filled[-1] + 1]
