"""Trace and span ids: random bits, never pointers, so that sampling by trace id is fair and nothing leaks."""

import random


class Ids:
    """
    Ids that no one can foresee, or, for a test, those of a seed.

    Args:
        bits: where the random bits come from; the operating system's by default.
    """

    def __init__(self, bits: random.Random | None = None) -> None:
        self._bits = bits or random.SystemRandom()

    def trace_id(self) -> int:
        """128 random bits, not 0."""
        return self._bits.getrandbits(128) or self.trace_id()

    def span_id(self) -> int:
        """64 random bits, not 0."""
        return self._bits.getrandbits(64) or self.span_id()
