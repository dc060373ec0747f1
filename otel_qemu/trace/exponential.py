# SPDX-License-Identifier: Apache-2.0
"""
Base-2 exponential buckets (OpenTelemetry data model, "ExponentialHistogram"), exactly.

At scale s, bucket i holds durations above 2^(i / 2^s) and up to 2^((i + 1) / 2^s) seconds.  Durations are whole ns, so
a bound may be rounded down to whole ns without moving any of them; integer roots find it without an error.
"""

from functools import lru_cache
from math import isqrt

SCALES = range(-2, 9)
"""Those that bounds are made for: from a factor of 16 from one to the next, to one of 1.0027."""

_LOWEST_LOG2, _HIGHEST_LOG2 = -20, 7


def exponential_bounds(scale: str) -> tuple[float, ...]:
    """
    Upper bounds in s of the buckets between 2^-20 s, about 1 µs, and 2^7 s.

    Raises:
        ValueError: it is not one of `SCALES`.
    """
    if scale not in map(str, SCALES):
        raise ValueError(f"{scale!r} is no scale from {SCALES[0]} to {SCALES[-1]}")
    first, last = (log2 * 2 ** int(scale) for log2 in (_LOWEST_LOG2, _HIGHEST_LOG2))
    return tuple(upper_bound_ns(index, int(scale)) / 1e9 for index in range(int(first) - 1, int(last)))


@lru_cache(maxsize=1 << 15)
def upper_bound_ns(index: int, scale: int) -> int:
    """The longest duration of a bucket in ns: 10^9 times 2^((index + 1) / 2^scale), rounded down."""
    above = index + 1
    if scale < 0:
        above, scale = above << -scale, 0
    power = (10**9) ** (1 << scale)
    root = power << above if above >= 0 else power >> -above
    for _ in range(scale):  # floors of roots of floors are floors of roots
        root = isqrt(root)
    return root
