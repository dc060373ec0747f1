"""
Joining without the kernel's walk: by process, disk and image, direction, byte range and time.

Only a request that makes such a call by itself on a raw image is believed, and only when nothing else fits as well: a
call that could belong to two disks is left alone until the image's disk is known.
"""

from collections import Counter, defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_qemu.trace import rules
from otel_qemu.trace.decode import byte_ranges
from otel_qemu.trace.traces import Join, Table

CONVINCING_VOTES = 3
"""By how many an image's disk must lead before others are not looked at any more: one join may have been wrong."""


class RangeJoin:
    """Finds parents by range and time; remembers which disk each image belongs to."""

    def __init__(self) -> None:
        self._votes: defaultdict[tuple[int, int], Counter[int]] = defaultdict(Counter)

    def match(
        self, requests: Table, calls: Table, covered: NDArray[np.uint64], within_ns: int
    ) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """
        A parent for each call.

        Args:
            requests: dtype `REQUEST`, all that have ended.
            calls: dtype `CALL`, none of them joined yet.
            covered: bytes of each request that other calls have claimed, shape (n,).
            within_ns: how long after a call its request may have ended; who ends later is not looked at.

        Returns:
            Index into `requests` or -1, and the rule (`Join`); both of shape (n,).
        """
        parent = np.full(len(calls), -1, dtype="i8")
        join = np.zeros(len(calls), dtype="u1")
        if not len(requests) or not len(calls):
            return parent, join
        by_process = _Requests(requests, covered, within_ns)
        for index in np.argsort(calls["submit_ns"], kind="stable"):
            parent[index], join[index] = self._match_one(by_process, calls[index : index + 1])
        return parent, join

    def _match_one(self, requests: "_Requests", call: Table) -> tuple[int, int]:
        candidates = requests.around(call)
        rows = requests.table[candidates]
        candidates = candidates[rules.is_direct(rows, call) & rules.time_fits(rows, call)]
        candidates = self._of_its_disk(requests.table, candidates, call)
        rows = requests.table[candidates]
        in_range = candidates[rules.has_range(rows, call) & rules.range_fits(rows, call)]
        in_range = in_range[requests.uncovered[in_range] >= call["length"]]
        if len(in_range):
            return self._take(requests, in_range, call), Join.RANGE
        rangeless = candidates[~rules.has_range(rows, call)]
        if len(rangeless) == 1:
            return int(rangeless[0]), Join.TIME
        return -1, 0

    def _of_its_disk(self, table: Table, candidates: Any, call: Table) -> Any:
        """Those of the disk that the image belongs to; none when that cannot be told apart."""
        devices = table["device"][candidates]
        votes = self._votes[int(call["pid"][0]), int(call["image"][0])]
        first, second = [*votes.most_common(2), (0, 0), (0, 0)][:2]
        if first[1] >= second[1] + CONVINCING_VOTES:
            return candidates[devices == first[0]]
        return candidates if len(np.unique(devices)) == 1 else candidates[:0]

    def _take(self, requests: "_Requests", fitting: Any, call: Table) -> int:
        """The earliest request wins; its bytes are covered now, and the image's disk has one more witness."""
        index = int(fitting[np.argmin(requests.table["submit_ns"][fitting])])
        requests.uncovered[index] -= call["length"][0]
        self._votes[int(call["pid"][0]), int(call["image"][0])][int(requests.table["device"][index])] += 1
        return index


class _Requests:
    """Requests in the order of their ends, to find those that were in flight at a call."""

    def __init__(self, table: Table, covered: NDArray[np.uint64], within_ns: int) -> None:
        self.table = table
        start, end = byte_ranges(table)
        self.uncovered = end - start - np.minimum(covered, end - start)
        self._order = np.argsort(table["complete_ns"], kind="stable")
        self._ends = table["complete_ns"][self._order]
        self._within_ns = np.uint64(within_ns)

    def around(self, call: Table) -> Any:
        """Indices of requests of the call's process that ended after it, and not too long after."""
        end = call["complete_ns"][0]
        first, last = np.searchsorted(self._ends, (end, min(end, ~self._within_ns) + self._within_ns))
        indices = self._order[first:last]
        return indices[self.table["pid"][indices] == call["pid"][0]]
