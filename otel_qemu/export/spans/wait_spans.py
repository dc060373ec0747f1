"""Where a request waited in QEMU's block layer: the gaps before and between its calls that are worth a span."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from otel_qemu.events import Ending
from otel_qemu.export.spans.wire import Times, later
from otel_qemu.policy import WaitThreshold
from otel_qemu.trace.traces import Table

Rows = NDArray[np.intp]


class Waits(NamedTuple):
    """
    Intervals in the records' time, those of a request side by side and in order.

    Attributes:
        request: index of each one's request, shape (n,).
        begin_ns, end_ns: shape (n,).
    """

    request: Rows
    begin_ns: Times
    end_ns: Times

    def at(self, chosen: Rows | NDArray[np.bool_]) -> "Waits":
        """Those that a mask of shape (n,) or indices choose."""
        return Waits(self.request[chosen], self.begin_ns[chosen], self.end_ns[chosen])


def find_waits(requests: Table, calls: Table, threshold: WaitThreshold) -> Waits:
    """
    Find the waits that the threshold selects.

    A request without calls is all wait, most of them commands that QEMU answers itself: there only `min_ns` counts.
    Where records of calls were lost, only the wait before the first call is known; where the end was, none.

    Args:
        requests: dtype `traces.REQUEST`.
        calls: dtype `traces.CALL`, those with a parent.
        threshold: which waits have a span of their own.
    """
    count = np.bincount(calls["parent"], minlength=len(requests))
    found = _concatenated([*_gaps(requests, calls, count), _whole(requests, count)])
    length_ns = np.where(found.end_ns > found.begin_ns, found.end_ns - found.begin_ns, np.uint64(0))
    found = found.at(length_ns >= _least_ns(requests, count, threshold)[found.request])
    found = found.at(requests["ending"][found.request] != Ending.LOST)
    return found.at(np.argsort(found.request, kind="stable"))


def _least_ns(requests: Table, count: NDArray[np.intp], threshold: WaitThreshold) -> Times:
    begin_ns, end_ns = requests["submit_ns"], requests["complete_ns"]
    duration_ns = np.where(end_ns > begin_ns, end_ns - begin_ns, np.uint64(0))
    share_ns = np.where(count > 0, np.ceil(threshold.min_share * duration_ns), np.inf)
    return np.maximum(np.minimum(share_ns, threshold.min_ns), 1).astype("u8")


def _gaps(requests: Table, calls: Table, count: NDArray[np.intp]) -> Iterator[Waits]:
    """The times before the first call of each request, then between that and the second, ...; some may be empty."""
    order = np.lexsort((calls["submit_ns"], calls["parent"]))
    first = np.cumsum(count) - count
    last_ns = requests["complete_ns"]
    reached_ns = requests["submit_ns"].copy()
    for nth in range(count.max(initial=0)):
        rows = np.flatnonzero(count > nth)
        call = calls[order[first[rows] + nth]]
        gaps = Waits(rows, reached_ns[rows], np.minimum(call["submit_ns"], last_ns[rows]))
        yield gaps if nth == 0 else gaps.at(requests["incomplete"][rows] == 0)
        ended_ns = np.where(call["complete_ns"] > 0, call["complete_ns"], last_ns[rows])
        reached_ns[rows] = np.maximum(reached_ns[rows], ended_ns)


def _concatenated(parts: Sequence[Waits]) -> Waits:
    requests, begins_ns, ends_ns = zip(*parts, strict=True)
    return Waits(np.concatenate(requests), np.concatenate(begins_ns), np.concatenate(ends_ns))


def _whole(requests: Table, count: NDArray[np.intp]) -> Waits:
    """The wait of each request without calls."""
    rows = np.flatnonzero(count == 0)
    begin_ns = requests["submit_ns"][rows]
    wait_ns = np.maximum(requests["wait_ns"][rows], 0).astype("u8")
    return Waits(rows, begin_ns, later(begin_ns, wait_ns))
