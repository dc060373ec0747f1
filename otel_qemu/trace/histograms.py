# SPDX-License-Identifier: Apache-2.0
"""
Exact latency histograms of every request and call, by guest, disk, layer and operation.

In: `Traces`.  Out: rows of counts and sums.  Every duration is counted once, in integer ns, but those that are not
known: of requests and calls whose beginning or end was not seen.

Layers:
    scsi  duration of each SCSI request
    wait  of each SCSI request that made RBD calls, the time before and between them.  A request without a call (TEST
          UNIT READY, a flush of nothing) never waited for Ceph: it is not counted.  Of one with calls of which there
          is no record, the wait is what the kernel took it for: all but the union of the calls that it could hold.
    rbd   duration of each RBD call, under its request's disk; a call that never had a request has no disk (device 0)
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from otel_qemu.events import Ending, RbdOperation
from otel_qemu.trace.arrays.bins import Bins
from otel_qemu.trace.arrays.columns import Columns
from otel_qemu.trace.arrays.groups import Groups, grouped
from otel_qemu.trace.names import Names
from otel_qemu.trace.scsi import OPERATIONS
from otel_qemu.trace.traces import Traces, durations_ns

DEFAULT_BOUNDS_S = (
    *(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
"""Upper bounds of the buckets, s: fine enough for NVMe behind RBD, wide enough for a cluster that recovers."""

LAYERS = ("scsi", "wait", "rbd")
"""Every layer, from the guest inwards; the index is its code in a `Series`."""


def in_ns(bounds_s: Iterable[float]) -> NDArray[np.int64]:
    """
    Bounds as whole ns, so that comparing a duration with them is exact.

    Raises:
        ValueError: there is none, one is not a number of ns that can be counted, or they do not ascend.
    """
    listed = list(bounds_s)
    # Written so that it catches NaN; 9e18 ns is what 64 bits hold.
    if not listed or not all(0.5e-9 < bound_s < 9e9 for bound_s in listed):
        raise ValueError(f"bounds: {listed} are not durations from 1 ns to 9e9 s")
    bounds_ns = np.array([round(bound_s * 1e9) for bound_s in listed], dtype="i8")
    if (np.diff(bounds_ns) <= 0).any():
        raise ValueError(f"bounds: {listed} do not ascend")
    return bounds_ns


def rbd_operation(code: int) -> str:
    """``read``, ``write_zeroes``, ...: an `RbdOperation` as histograms and JSON lines name it; ``other`` if unknown."""
    return RbdOperation(code).name.lower() if code in list(RbdOperation) else "other"


class Series(NamedTuple):
    """What one histogram is of; `device` is a SCSIDevice *, or 0 for calls without parent."""

    pid: int
    device: int
    operation: int
    layer: int

    @property
    def operation_name(self) -> str:
        """``WRITE`` of a request, ``write`` of a call."""
        return rbd_operation(self.operation) if LAYERS[self.layer] == "rbd" else OPERATIONS[self.operation]


@dataclass(frozen=True)
class HistogramRow:
    """
    One histogram, with the names people know.

    Attributes:
        domain: the guest's name, or ``pid N``.
        disk: its alias, or its pointer when not known; None for calls without parent.
        target: its name in the guest; None when not known.
        device: SCSIDevice *; with pid, its key.
        layer: of `LAYERS`.
        operation: ``WRITE`` in layers scsi and wait, ``write`` in layer rbd.
        bounds_s: upper bounds, s; a duration equal to a bound is in that bound's bucket.
        counts: of each bucket; one more than bounds, the last counts durations above them all.
    """

    domain: str
    pid: int
    disk: str | None
    target: str | None
    device: int
    layer: str
    operation: str
    count: int
    sum_s: float
    bounds_s: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def mean_s(self) -> float:
        """Exact mean; NaN of nothing."""
        return self.sum_s / self.count if self.count else math.nan

    def quantile(self, q: float) -> float:
        """
        Estimate the `q` quantile, 0 to 1, in s, as if durations were spread evenly within their bucket.

        Above the last bound nothing is known but that bound, which is then the answer: the true one is greater.  NaN
        of nothing.
        """
        edges_s = (0.0, *self.bounds_s)
        below, wanted = 0, q * self.count
        for bucket, count in enumerate(self.counts[:-1]):
            if count and below + count >= wanted:
                share = max(0.0, wanted - below) / count
                return edges_s[bucket] + share * (edges_s[bucket + 1] - edges_s[bucket])
            below += count
        return self.bounds_s[-1] if self.count else math.nan

    @property
    def highest_bucket(self) -> int:
        """Index of the last bucket that counts anything; -1 of nothing."""
        return max((bucket for bucket, count in enumerate(self.counts) if count), default=-1)


class Histograms:
    """
    Counts and sums of all that was added.

    Attributes:
        bounds_s: upper bounds of the buckets.
    """

    def __init__(self, bounds_s: Iterable[float] = DEFAULT_BOUNDS_S) -> None:
        self.bounds_s = tuple(bounds_s)
        self._bins = Bins(in_ns(self.bounds_s))
        self._width = len(self.bounds_s) + 1
        self._counts: defaultdict[Series, NDArray[np.int64]] = defaultdict(lambda: np.zeros(self._width, dtype="i8"))
        self._sums_ns: Counter[Series] = Counter()

    def add(self, traces: Traces) -> None:
        """Count every request and call of `traces`."""
        requests, calls = traces.by_request, traces.by_call
        ending = requests["ending"]
        measured = (requests["submit_ns"] > 0) & (ending != Ending.LOST) & (ending != Ending.HUNG)
        waited = measured & (requests["calls"] > 0)
        ended = calls["complete_ns"] > 0
        by_request = _keyed(requests, traces.disks.refined(requests["operation"]))
        self._fold("scsi", by_request, measured, durations_ns(requests))
        self._fold("wait", by_request, waited, requests["wait_ns"])
        self._fold("rbd", _keyed(calls, _by_operation(traces)), ended, durations_ns(calls))

    def _fold(self, layer: str, groups: "_Keyed", counted: Any, values_ns: Any) -> None:
        everything = bool(counted.all())  # as it is nearly always: nothing is copied then
        codes, values_ns = (groups.codes, values_ns) if everything else (groups.codes[counted], values_ns[counted])
        buckets = self._bins.of(values_ns)
        counts = np.bincount(codes * self._width + buckets, minlength=len(groups.keys) * self._width)
        counts = counts.reshape(-1, self._width)
        sums_ns = _sums(codes, values_ns, len(groups.keys))
        for code in np.flatnonzero(counts.any(axis=1)).tolist():
            self.add_counted(Series(*groups.keys[code], LAYERS.index(layer)), counts[code], sums_ns[code])

    def add_counted(self, series: Series, counts: NDArray[np.int64], sum_ns: int) -> None:
        """Add counts made elsewhere with the same bounds: ``counts`` of shape (bounds + 1,)."""
        self._counts[series] += counts
        self._sums_ns[series] += sum_ns

    def add_all(self, other: "Histograms") -> None:
        """Add everything that another one with the same bounds has counted."""
        for series, counts in other._counts.items():
            self.add_counted(series, counts, other._sums_ns[series])

    def rows(self, names: Names) -> list[HistogramRow]:
        """Every histogram, by guest, disk, layer and operation in this order."""
        by_name = sorted(self._counts, key=lambda series: (series.layer, series.operation))
        rows = [self._row(series, names) for series in by_name]
        rows.sort(key=lambda row: (row.domain, row.pid, row.disk is None, row.disk or "", row.device))
        return rows

    def _row(self, series: Series, names: Names) -> HistogramRow:
        disk = names.disk(series.pid, series.device) if series.device else None
        counts = tuple(self._counts[series].tolist())
        return HistogramRow(
            domain=names.guest(series.pid).label,
            pid=series.pid,
            disk=disk.alias if disk else None,
            target=disk.target if disk else None,
            device=series.device,
            layer=LAYERS[series.layer],
            operation=series.operation_name,
            count=sum(counts),
            sum_s=self._sums_ns[series] / 1e9,
            bounds_s=self.bounds_s,
            counts=counts,
        )


class _Keyed(NamedTuple):
    """Rows by who and what: `codes`, shape (n,), are indices into `keys`, the distinct (pid, device, operation)."""

    codes: NDArray[np.int64]
    keys: list[tuple[int, int, int]]


def _keyed(table: Columns, groups: Groups) -> _Keyed:
    columns = (table[name][groups.firsts].tolist() for name in ("pid", "device", "operation"))
    return _Keyed(groups.codes, list(zip(*columns, strict=True)))


def _by_operation(traces: Traces) -> Groups:
    """Calls by process, disk and operation: those with a request have its process and disk."""
    calls = traces.by_call
    others = grouped(traces.by_orphan["pid"], traces.by_orphan["device"])
    codes = np.concatenate((traces.disks.codes[calls["parent"][: traces.joined]], others.codes + len(traces.disks)))
    return Groups(codes, np.zeros(len(traces.disks) + len(others), dtype="i8")).refined(calls["operation"])


def _sums(codes: Any, values_ns: Any, groups: int) -> list[int]:
    """
    Exact sums by group.

    bincount adds up floats, which are exact below 2^53: so are sums of that, and of halves of 32 bits of 2 million.
    """
    largest = max(int(values_ns.max(initial=0)), -int(values_ns.min(initial=0)))
    if largest < (1 << 53) // max(len(codes), 1):
        return [int(total) for total in np.bincount(codes, values_ns, groups).tolist()]
    sums = [0] * groups
    for at in range(0, len(codes), _EXACT):
        some, values = codes[at : at + _EXACT], values_ns[at : at + _EXACT]
        high, low = (np.bincount(some, half, groups).tolist() for half in (values >> 32, values & 0xFFFFFFFF))
        sums = [total + (int(above) << 32) + int(below) for total, above, below in zip(sums, high, low, strict=True)]
    return sums


_EXACT = 1 << 20
