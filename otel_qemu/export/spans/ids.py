# SPDX-License-Identifier: Apache-2.0
"""Trace and span ids: random bits, never pointers, so that sampling by trace id is fair and nothing leaks."""

import random

import numpy as np
from numpy.typing import NDArray

from otel_qemu.trace.sample import RANDOM_BITS

TRACE_ID_BYTES = 16
SPAN_ID_BYTES = 8
_RANDOM_BYTES = RANDOM_BITS // 8

IdColumn = NDArray[np.void]
"""Ids, 16 or 8 bytes each, shape (n,)."""


class Ids:
    """
    Ids that no one can foresee, or, for a test, those of a seed.

    Args:
        bits: where the random bits come from; the operating system's by default.
    """

    def __init__(self, bits: random.Random | None = None) -> None:
        self._bits = bits or random.SystemRandom()

    def trace_ids(self, randomness: NDArray[np.uint64]) -> IdColumn:
        """
        Ids of 128 random bits, none of them 0.

        Args:
            randomness: the low 56 bits of each, shape (n,); 0 where none were drawn when it was sampled.
        """
        drawn = self._drawn(len(randomness), TRACE_ID_BYTES)
        low = np.ascontiguousarray(randomness, ">u8").view("u1").reshape(-1, 8)[:, -_RANDOM_BYTES:]
        given = low.any(axis=1)
        drawn[given, -_RANDOM_BYTES:] = low[given]
        return drawn.view(f"V{TRACE_ID_BYTES}").ravel()

    def span_ids(self, count: int) -> IdColumn:
        """Ids of 64 random bits, none of them 0."""
        return self._drawn(count, SPAN_ID_BYTES).view(f"V{SPAN_ID_BYTES}").ravel()

    def _drawn(self, count: int, size_bytes: int) -> NDArray[np.uint8]:
        drawn = np.frombuffer(bytearray(self._bits.randbytes(count * size_bytes)), "u1").reshape(count, size_bytes)
        zero = ~drawn.any(axis=1)
        if zero.any():
            drawn[zero] = self._drawn(int(zero.sum()), size_bytes)
        return drawn
