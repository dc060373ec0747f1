# SPDX-License-Identifier: Apache-2.0
"""Requests that are in flight for too long: reported while they hang, since their end may never come."""

import numpy as np

from otel_qemu.events import RECORD, Ending, Kept, Records

LONGEST_S = 30.0


class HungRequests:
    """Finds those that have not been reported yet."""

    def __init__(self, longest_s: float = LONGEST_S) -> None:
        """Begin; a request hangs when it is in flight for longer than `longest_s`."""
        self._longest_ns = round(longest_s * 1e9)
        self._reported: set[tuple[int, int, int]] = set()

    def select(self, in_flight: Records, now_ns: int) -> Records:
        """
        Requests that hang and were not reported before.

        Args:
            in_flight: all there are, dtype `RECORD`.
            now_ns: CLOCK_MONOTONIC.

        Returns:
            Copies that end now, as `Ending.HUNG`, with the first of their calls as far as it has come.
        """
        hung = in_flight[in_flight["submit_ns"] + np.uint64(self._longest_ns) < now_ns]
        keys = list(zip(hung["pid"].tolist(), hung["request"].tolist(), hung["submit_ns"].tolist(), strict=True))
        fresh = hung[[key not in self._reported for key in keys]] if keys else np.zeros(0, dtype=RECORD)
        self._reported = set(keys)  # those that have ended since are forgotten
        fresh = fresh.copy()
        fresh["complete_ns"], fresh["ending"], fresh["kept"] = now_ns, Ending.HUNG, Kept.SLOW
        return fresh
