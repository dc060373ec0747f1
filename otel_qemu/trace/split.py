# SPDX-License-Identifier: Apache-2.0
"""
Where each request's time went: ``duration = wait + rbd + completion``, exactly, in integer ns.

rbd is the union of its calls' intervals, completion what follows the last of them, wait all the rest: before the first
and between them.  A request without calls has waited for all of its duration: a flush with nothing to write, or one
that another flush served, or a command that QEMU answers itself.
"""

import numpy as np
from numpy.typing import NDArray

from otel_qemu.trace.arrays.columns import Columns, Table, TableLike

Times = NDArray[np.int64]


def split_time(requests: Table | Columns, calls: TableLike, kernel_rbd_ns: NDArray[np.uint64]) -> None:
    """
    Fill ``wait_ns``, ``rbd_ns`` and ``completion_ns`` of each request.

    Args:
        requests: dtype `REQUEST`; changed in place.
        calls: dtype `CALL`; calls of one request adjacent, in submit order; calls without parent are left out of it.
        kernel_rbd_ns: the kernel's own union, shape (n,): taken where records of calls were lost.
    """
    duration = _signed(requests["complete_ns"]) - _signed(requests["submit_ns"])
    parent = calls["parent"][: int(np.count_nonzero(calls["parent"] >= 0))]
    busy, last_end = _unions(_within(requests, calls, parent, duration), parent, duration)
    lost = requests["incomplete"] == 1
    if lost.any():
        busy = np.where(lost, np.maximum(busy, _signed(kernel_rbd_ns)), busy)
    busy = np.minimum(busy, duration)
    after = (duration - last_end) * (requests["calls"] > 0)
    after = np.minimum(after, duration - busy)
    requests["rbd_ns"], requests["completion_ns"], requests["wait_ns"] = busy, after, duration - busy - after


def _signed(times_ns: NDArray[np.uint64]) -> Times:
    """The same numbers as signed ones: CLOCK_MONOTONIC has no use for the last bit."""
    return times_ns.view("i8")


def _within(requests: TableLike, calls: TableLike, parent: NDArray[np.int64], duration: Times) -> tuple[Times, Times]:
    """Begin and end of the calls with a parent, relative to its submit and not outside of it."""
    submit, limit = _signed(requests["submit_ns"]).take(parent), duration.take(parent)
    begins, ends = (_signed(calls[name][: len(parent)]) for name in ("submit_ns", "complete_ns"))
    open_still = ends == 0
    begins, ends = (np.minimum(np.maximum(times - submit, 0), limit) for times in (begins, ends))
    return begins, np.where(open_still, limit, ends)


def _unions(within: tuple[Times, Times], parent: NDArray[np.int64], duration: Times) -> tuple[Times, Times]:
    """
    Length of the union of each request's calls, and its last end; shape (requests,), 0 without calls.

    Args:
        within: begin and end of each call, relative to its request's submit.
        parent: of each call, ascending.
        duration: of each request.
    """
    begins, ends = within
    busy, last = np.zeros_like(duration), np.zeros_like(duration)
    busy[parent], last[parent] = np.maximum(ends - begins, 0), ends
    again = parent[1:] == parent[:-1]
    if again.any():  # requests with several calls, which are few
        several = np.concatenate((again, [False])) | np.concatenate(([False], again))
        _unite(begins[several], ends[several], parent[several], duration, busy, last)
    return busy, last


def _unite(begins: Times, ends: Times, parent: NDArray[np.int64], duration: Times, busy: Times, last: Times) -> None:
    """
    The union of several calls.

    A call adds what lies beyond the latest end before it.  One running maximum does for all requests at once, when
    each request's times are moved behind those of the request before.
    """
    firsts = np.flatnonzero(np.concatenate(([True], parent[1:] != parent[:-1])))
    own = parent[firsts]
    room = np.cumsum(duration[own] + 1) - duration[own]
    room = np.repeat(room, np.diff(firsts, append=len(parent)))
    before = np.concatenate(([0], np.maximum.accumulate(ends + room)))[:-1]
    added = np.maximum(ends + room - np.maximum(begins + room, before), 0)
    busy[own] = np.add.reduceat(added, firsts)
    last[own] = np.maximum.reduceat(ends, firsts)
