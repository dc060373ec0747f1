"""One number for several columns' values, by which equal rows are found."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_ODD = np.uint64(0x9E3779B97F4A7C15)
"""2^64 divided by the golden ratio: a multiplication by it spreads numbers that are close (Knuth, TAOCP 3, 6.4)."""


def mixed(*columns: Any) -> NDArray[np.uint64]:
    """
    One number a row, uint64, shape (n,): the same for the same values, and hardly ever for others.

    Whoever looks for equal rows by it compares their values as well.
    """
    numbers: NDArray[np.uint64] = columns[0].astype("u8") * _ODD
    for column in columns[1:]:
        numbers ^= numbers >> np.uint64(29)
        numbers += column.astype("u8")
        numbers *= _ODD
    return numbers
