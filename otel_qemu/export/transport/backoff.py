# SPDX-License-Identifier: Apache-2.0
"""Pauses between tries."""

import random

LONGEST_ASKED_S = 300.0
"""The longest pause that an endpoint may ask for."""


class Backoff:
    """
    Exponential pauses with full jitter, so that a fleet whose backend was away does not come back all at once.

    Args:
        first_s: the longest pause after the first failure; it doubles with each further one.
        longest_s: the longest pause of our own accord.
    """

    def __init__(self, first_s: float = 1.0, longest_s: float = 30.0) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._most_s = first_s

    def next_s(self, asked_s: float | None = None) -> float:
        """The pause after one more failure; the jitter comes on top of what the endpoint asks for."""
        jitter_s = random.uniform(0, self._most_s)
        self._most_s = min(self._most_s * 2, self._longest_s)
        return jitter_s + min(asked_s or 0.0, LONGEST_ASKED_S)

    def reset(self) -> None:
        """Begin anew: the endpoint is there."""
        self._most_s = self._first_s
