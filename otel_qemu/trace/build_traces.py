# SPDX-License-Identifier: Apache-2.0
"""Requests and their calls put together: the rows of `Traces`, in order, with the time split."""

import numpy as np
from numpy.typing import NDArray

from otel_qemu.events import Records
from otel_qemu.trace.arrays.columns import Columns
from otel_qemu.trace.decode import call_rows, request_rows
from otel_qemu.trace.split import split_time
from otel_qemu.trace.traces import Join


class TraceBuilder:
    """Requests, the calls that their records hold, and further ones; records first, tables when all are there."""

    def __init__(self, *requests: Records) -> None:
        """Begin with request records, which are whole but for further calls."""
        self._parts = [*requests]
        self._count = sum(map(len, requests))
        self._parents: list[NDArray[np.int64]] = []
        self._joins: list[NDArray[np.uint8]] = []

    def add(self, calls: Records, parent: NDArray[np.int64], join: NDArray[np.uint8]) -> None:
        """Calls with their parents' indices, and how these were found."""
        self._parts.append(calls)
        self._parents.append(parent)
        self._joins.append(join)

    def leave(self, calls: Records, reason: Join) -> None:
        """Calls without a parent, and why."""
        self.add(calls, np.full(len(calls), -1), np.full(len(calls), reason, dtype="u1"))

    def tables(self) -> tuple[Columns, Columns]:
        """Requests, and calls in order under them; those without a request come last."""
        records = Columns.of(*self._parts)
        requests = request_rows(records.between(0, self._count))
        calls = self._calls(records)
        count = np.bincount(calls["parent"][calls["parent"] >= 0], minlength=self._count)
        requests["calls"] = count
        requests["first_call"] = np.cumsum(count) - count
        requests["incomplete"] = count < records["calls"][: self._count]
        split_time(requests, calls, records["rbd_ns"][: self._count])
        return requests, calls

    def _calls(self, records: Columns) -> Columns:
        first = np.flatnonzero(records["call_submit_ns"][: self._count])
        further = np.arange(self._count, len(records))
        rows = np.concatenate((first, further))
        parents = np.concatenate((first, *self._parents))
        joins = np.concatenate((np.full(len(first), Join.WALK, dtype="u1"), *self._joins))
        if len(further):
            order = _order(np.where(parents < 0, self._count, parents), records["call_submit_ns"][rows])
            rows, parents, joins = rows[order], parents[order], joins[order]
        calls = call_rows(records, rows)
        calls["parent"], calls["join"] = parents, joins
        calls["device"] = records["device"][np.where(parents < 0, rows, parents)]
        return calls


def _order(parents: NDArray[np.int64], submits: NDArray[np.uint64]) -> NDArray[np.intp]:
    """By parent and submit; both are sorted already but for a few, which a stable sort makes good use of."""
    order = np.argsort(parents, kind="stable")
    ordered, times = parents[order], submits[order]
    if ((ordered[1:] == ordered[:-1]) & (times[1:] < times[:-1])).any():
        return np.lexsort((submits, parents))
    return order
