# SPDX-License-Identifier: Apache-2.0
"""The union of intervals, computed in the obvious way."""

from collections.abc import Sequence

Interval = tuple[int, int]


def union_ns(intervals: Sequence[Interval]) -> int:
    """Return the union by collecting every nanosecond that some call covers."""
    return len({moment for start, end in intervals for moment in range(start, end)})
