"""Times of records as OTLP has them: unsigned ns since 1970, held within 64 bits whatever a broken recording says."""

import numpy as np
from numpy.typing import NDArray

LAST_NS = (1 << 64) - 1

Times = NDArray[np.uint64]


def unix_ns(times_ns: Times, offset_ns: int) -> Times:
    """Each time with an offset of any sign and size, clamped to 0 and `LAST_NS`."""
    size = np.uint64(min(abs(offset_ns), LAST_NS))
    if offset_ns < 0:
        return np.where(times_ns > size, times_ns - size, np.uint64(0))
    return later(times_ns, size)


def later(times_ns: Times, by_ns: Times | np.uint64) -> Times:
    """The sum of each time and its delay, `LAST_NS` at most."""
    moved = times_ns + by_ns
    return np.where(moved < times_ns, np.uint64(LAST_NS), moved)
