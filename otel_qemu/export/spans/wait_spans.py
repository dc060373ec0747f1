# SPDX-License-Identifier: Apache-2.0
"""Where a request waited in QEMU's block layer: the gaps before and between its calls that are worth a span."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from otel_qemu.events import Ending
from otel_qemu.export.spans.wire import Times, later
from otel_qemu.policy import WaitThreshold
from otel_qemu.trace.arrays.columns import concatenate_rows, take_rows
from otel_qemu.trace.traces import Table

Rows = NDArray[np.intp]


WAIT = np.dtype([("request", "i8"), ("begin_ns", "u8"), ("end_ns", "u8")])
"""An interval in the records' time, and the index of its request."""


def find_waits(requests: Table, calls: Table, threshold: WaitThreshold) -> Table:
    """
    Find the waits that the threshold selects: dtype `WAIT`, those of a request side by side and in order.

    A request without calls is all wait, most of them commands that QEMU answers itself: there only `min_ns` counts.
    Where records of calls were lost, only the wait before the first call is known; where the end was, none.

    Args:
        requests: dtype `traces.REQUEST`.
        calls: dtype `traces.CALL`, those with a parent.
        threshold: which waits have a span of their own.
    """
    count = np.bincount(calls["parent"], minlength=len(requests))
    found = concatenate_rows(*_gaps(requests, calls, count), _whole(requests, count))
    begin_ns, end_ns, request = found["begin_ns"], found["end_ns"], found["request"]
    length_ns = np.where(end_ns > begin_ns, end_ns - begin_ns, np.uint64(0))
    is_seen = requests["ending"][request] != Ending.LOST
    found = take_rows(found, is_seen & (length_ns >= _least_ns(requests, count, threshold)[request]))
    return take_rows(found, np.argsort(found["request"], kind="stable"))


def _least_ns(requests: Table, count: NDArray[np.intp], threshold: WaitThreshold) -> Times:
    begin_ns, end_ns = requests["submit_ns"], requests["complete_ns"]
    duration_ns = np.where(end_ns > begin_ns, end_ns - begin_ns, np.uint64(0))
    share_ns = np.where(count > 0, np.ceil(threshold.min_share * duration_ns), np.inf)
    return np.maximum(np.minimum(share_ns, threshold.min_ns), 1).astype("u8")


def _gaps(requests: Table, calls: Table, count: NDArray[np.intp]) -> Iterator[Table]:
    """The times before the first call of each request, then between that and the second, ...; some may be empty."""
    order = np.lexsort((calls["submit_ns"], calls["parent"]))
    first = np.cumsum(count) - count
    last_ns = requests["complete_ns"]
    reached_ns = requests["submit_ns"].copy()
    for nth in range(count.max(initial=0)):
        rows = np.flatnonzero(count > nth)
        call = calls[order[first[rows] + nth]]
        gaps = _waits(rows, reached_ns[rows], np.minimum(call["submit_ns"], last_ns[rows]))
        yield gaps if nth == 0 else take_rows(gaps, requests["incomplete"][rows] == 0)
        ended_ns = np.where(call["complete_ns"] > 0, call["complete_ns"], last_ns[rows])
        reached_ns[rows] = np.maximum(reached_ns[rows], ended_ns)


def _waits(request: Rows, begin_ns: Times, end_ns: Times) -> Table:
    found = np.empty(len(request), WAIT)
    found["request"], found["begin_ns"], found["end_ns"] = request, begin_ns, end_ns
    return found


def _whole(requests: Table, count: NDArray[np.intp]) -> Table:
    """The wait of each request without calls."""
    rows = np.flatnonzero(count == 0)
    begin_ns = requests["submit_ns"][rows]
    wait_ns = np.maximum(requests["wait_ns"][rows], 0).astype("u8")
    return _waits(rows, begin_ns, later(begin_ns, wait_ns))
