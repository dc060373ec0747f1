# SPDX-License-Identifier: Apache-2.0
"""
Joining without the kernel's walk: by process, disk and image, direction, byte range and time.

Only a request that makes such a call by itself on a raw image is believed, and only when nothing else fits as well: a
call that could belong to two disks is left alone until the image's disk is known.

Calls are taken in the order of their submits, and beside them a sweep keeps the requests that are in flight then: by
operation, and those with a byte range sorted by its start.  So the cost of a call grows with the requests in flight,
not with those that are held.
"""

from bisect import bisect_left, bisect_right, insort
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from otel_qemu.trace import rules
from otel_qemu.trace.arrays.columns import Columns, TableLike
from otel_qemu.trace.decode import byte_ranges

CONVINCING_VOTES = 3
"""By how many an image's disk must lead before others are not looked at any more: one join may have been wrong."""

MOST_VOTES = 8
"""A disk has no more of them, so that an image whose address another one takes over is soon seen to have moved."""

MOST_IMAGES = 65_536
"""Images whose votes are remembered; of more, those met last."""

_NO_END = 1 << 64


class RangeJoin:
    """
    Finds parents by range and time; remembers which disk each image belongs to.

    Args:
        most_images: whose disks are remembered; up to twice as many, until the older half is forgotten.
    """

    def __init__(self, most_images: int = MOST_IMAGES) -> None:
        self._most_images = most_images
        self._votes: defaultdict[tuple[int, int], Counter[int]] = defaultdict(Counter)

    def match(
        self, requests: Columns, calls: TableLike, covered: NDArray[np.uint64], within_ns: int
    ) -> NDArray[np.int64]:
        """
        A parent for each call.

        Args:
            requests: dtype `REQUEST`, all that have ended.
            calls: dtype `CALL`, none of them joined yet.
            covered: bytes of each request that other calls have claimed, shape (n,).
            within_ns: how long after a call its request may have ended; who ends later is not looked at.

        Returns:
            Index into `requests` or -1, shape (n,).
        """
        parent = np.full(len(calls), -1, dtype="i8")
        if not len(requests) or not len(calls):
            return parent
        overlaps = (requests["complete_ns"] >= calls["complete_ns"].min()) & (
            requests["submit_ns"] <= calls["submit_ns"].max()
        )
        overlaps &= requests["submit_ns"] <= requests["complete_ns"]  # two CPUs' clocks, or a recording, may differ
        rows = np.flatnonzero(overlaps)
        sweep = _Sweep(requests.take(rows), covered[rows], within_ns)
        for index, call in _in_order_of_submits(calls):
            found = self._match_one(sweep, call)
            parent[index] = rows[found] if found >= 0 else -1
        self._forget()
        return parent

    def _forget(self) -> None:
        if len(self._votes) > 2 * self._most_images:
            newest = islice(self._votes.items(), len(self._votes) - self._most_images, None)
            self._votes = defaultdict(Counter, newest)

    @property
    def images(self) -> int:
        """The number of images whose disks are remembered."""
        return len(self._votes)

    def _match_one(self, sweep: "_Sweep", call: "_Call") -> int:
        sweep.move(call.submit_ns)
        votes = self._votes[call.pid, call.image]
        device = _convinced(votes)
        ranged = sweep.ranged(call)
        if device is None:
            devices = sweep.devices(call)
            device = devices.pop() if len(devices) == 1 else None
        fitting = [row for row in ranged if sweep.device[row] == device]
        if fitting:
            return sweep.take(fitting, call, votes)
        if ranged and device is not None:
            _vote(votes, sweep.device[ranged[0]])  # the image may have moved
        rangeless = [row for row in sweep.rangeless(call) if sweep.device[row] == device]
        return rangeless[0] if len(rangeless) == 1 else -1


def _convinced(votes: Counter[int]) -> int | None:
    """The disk that leads by enough."""
    leader, most, next_most = None, 0, 0
    for device, count in votes.items():
        if count > most:
            leader, most, next_most = device, count, most
        elif count > next_most:
            next_most = count
    return leader if most >= next_most + CONVINCING_VOTES else None


def _vote(votes: Counter[int], device: int) -> None:
    """One more for a disk; where it has all it can have, one less for the others."""
    if votes[device] < MOST_VOTES:
        votes[device] += 1
    else:
        for other in votes:
            votes[other] -= other != device and votes[other] > 0


class _Call(NamedTuple):
    pid: int
    image: int
    operation: int
    submit_ns: int
    complete_ns: int
    offset: int
    length: int


def _in_order_of_submits(calls: TableLike) -> Iterator[tuple[int, _Call]]:
    order = np.argsort(calls["submit_ns"], kind="stable")
    columns = (calls[name][order].tolist() for name in _Call._fields)
    return zip(order.tolist(), map(_Call, *columns), strict=True)


@dataclass
class _InFlight:
    """Requests in flight of one process and operation."""

    rows: dict[int, None] = field(default_factory=dict)
    starts: list[tuple[int, int]] = field(default_factory=list)
    """(first byte, row) of those with a range, sorted."""
    devices: Counter[int] = field(default_factory=Counter)


class _Sweep:
    """Requests, and which of them are in flight at a time that moves on; times in ns."""

    def __init__(self, table: TableLike, covered: NDArray[np.uint64], within_ns: int) -> None:
        starts, ends = byte_ranges(table)
        self.device: list[int] = table["device"].tolist()
        self._submit_ns, self._complete_ns = table["submit_ns"].tolist(), table["complete_ns"].tolist()
        self._start, self._end = starts.tolist(), ends.tolist()
        self._left = (ends - starts - np.minimum(covered, ends - starts)).tolist()
        self._longest = int((ends - starts).max(initial=0))
        self._keys = list(zip(table["pid"].tolist(), table["operation"].tolist(), strict=True))
        self._beginning = iter(np.argsort(table["submit_ns"], kind="stable").tolist())
        self._ending = iter(np.argsort(table["complete_ns"], kind="stable").tolist())
        self._next_begin, self._next_end = next(self._beginning, None), next(self._ending, None)
        self._in_flight: defaultdict[tuple[int, int], _InFlight] = defaultdict(_InFlight)
        self._within_ns = within_ns

    def move(self, now_ns: int) -> None:
        """Let begin what begins until now, and go what ended before."""
        while self._next_begin is not None and self._submit_ns[self._next_begin] <= now_ns:
            self._begin(self._next_begin)
            self._next_begin = next(self._beginning, None)
        while self._next_end is not None and self._complete_ns[self._next_end] < now_ns:
            self._finish(self._next_end)
            self._next_end = next(self._ending, None)

    def _begin(self, row: int) -> None:
        here = self._in_flight[self._keys[row]]
        here.rows[row] = None
        here.devices[self.device[row]] += 1
        if self._end[row]:
            insort(here.starts, (self._start[row], row))

    def _finish(self, row: int) -> None:
        here = self._in_flight[self._keys[row]]
        del here.rows[row]
        here.devices[self.device[row]] -= 1
        if not here.devices[self.device[row]]:
            del here.devices[self.device[row]]
        if self._end[row]:
            del here.starts[bisect_left(here.starts, (self._start[row], row))]

    def _in_time(self, row: int, call: _Call) -> bool:
        return call.complete_ns <= self._complete_ns[row] < call.complete_ns + self._within_ns

    def _of(self, call: _Call, ranged: bool) -> Iterator[_InFlight]:
        for operation in rules.direct_of(call.operation, ranged):
            if (call.pid, operation) in self._in_flight:
                yield self._in_flight[call.pid, operation]

    def ranged(self, call: _Call) -> list[int]:
        """Requests whose bytes that are left have the call's among them, on whatever disk."""
        found = []
        end = call.offset + call.length
        for here in self._of(call, ranged=True):
            first = bisect_left(here.starts, (end - self._longest, 0))
            last = bisect_right(here.starts, (call.offset, _NO_END))
            rows = (row for _, row in here.starts[first:last])
            found += [
                r for r in rows if self._end[r] >= end and self._left[r] >= call.length and self._in_time(r, call)
            ]
        return found

    def rangeless(self, call: _Call) -> list[int]:
        """Requests that may have made the call, and that tell no range to compare."""
        return [row for here in self._of(call, ranged=False) for row in here.rows if self._in_time(row, call)]

    def devices(self, call: _Call) -> set[int]:
        """The disks of all requests that may have made the call by time; of more than two, some."""
        found: set[int] = set()
        for ranged in (True, False):
            for here in self._of(call, ranged):
                if len(here.devices) == 1 and found == here.devices.keys():
                    continue
                for row in here.rows:
                    if self.device[row] not in found and self._in_time(row, call):
                        found.add(self.device[row])
                        if len(found) > 1:
                            return found
        return found

    def take(self, fitting: list[int], call: _Call, votes: Counter[int]) -> int:
        """The earliest request wins; its bytes are covered now, and the image's disk has one more witness."""
        row = fitting[0]
        if len(fitting) > 1:
            row = min(fitting, key=lambda row: (self._submit_ns[row], self._complete_ns[row], row))
        self._left[row] -= call.length
        _vote(votes, self.device[row])
        return row
