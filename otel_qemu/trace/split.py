"""
Where each request's time went: ``duration = wait + rbd + completion``, exactly, in integer ns.

rbd is the union of its calls' intervals, completion what follows the last of them, wait all the rest: before the first
and between them.  A request without calls has waited for all of its duration: a flush with nothing to write, or one
that another flush served, or a command that QEMU answers itself.
"""

import numpy as np
from numpy.typing import NDArray

from otel_qemu.trace.rows import taken
from otel_qemu.trace.traces import Table


def split_time(requests: Table, calls: Table, kernel_rbd_ns: NDArray[np.uint64]) -> None:
    """
    Fill ``wait_ns``, ``rbd_ns`` and ``completion_ns`` of each request.

    Args:
        requests: dtype `REQUEST`; changed in place.
        calls: dtype `CALL`; calls of one request adjacent, in submit order; calls without parent are left out of it.
        kernel_rbd_ns: the kernel's own union, shape (n,): taken where records of calls were lost.
    """
    duration = requests["complete_ns"].astype("i8") - requests["submit_ns"].astype("i8")
    busy, last_end = _unions(taken(calls, calls["parent"] >= 0), requests)
    lost = requests["incomplete"] == 1
    busy = np.where(lost, np.maximum(busy, kernel_rbd_ns.astype("i8")), busy)
    requests["rbd_ns"] = np.minimum(busy, duration)
    after = np.where(requests["calls"] > 0, duration - last_end, 0)
    requests["completion_ns"] = np.minimum(after, duration - requests["rbd_ns"])
    requests["wait_ns"] = duration - requests["rbd_ns"] - requests["completion_ns"]


def _unions(calls: Table, requests: Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """
    Length of the union of each request's calls, and its last end relative to the submit; int64, shape (n,).

    A call adds what lies beyond the latest end before it.  One running maximum does for all requests at once, when
    each request's times are moved behind those of the request before.
    """
    parent = calls["parent"]
    submit, complete = requests["submit_ns"].astype("i8"), requests["complete_ns"].astype("i8")
    limit = (complete - submit)[parent]
    starts = np.clip(calls["submit_ns"].astype("i8") - submit[parent], 0, limit)
    open_still = calls["complete_ns"] == 0
    ends = np.where(open_still, limit, np.clip(calls["complete_ns"].astype("i8") - submit[parent], 0, limit))
    room = np.concatenate(([0], np.cumsum(complete - submit + 1)))[:-1][parent]
    before = np.concatenate(([0], np.maximum.accumulate(ends + room)))[:-1]
    added = np.maximum(ends + room - np.maximum(starts + room, before), 0)
    busy, last = np.zeros(len(requests), dtype="i8"), np.zeros(len(requests), dtype="i8")
    if len(parent):
        firsts = np.flatnonzero(np.concatenate(([True], parent[1:] != parent[:-1])))
        busy[parent[firsts]] = np.add.reduceat(added, firsts)
        last[parent[firsts]] = np.maximum.reduceat(ends, firsts)
    return busy, last
