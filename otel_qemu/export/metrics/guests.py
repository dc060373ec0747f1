# SPDX-License-Identifier: Apache-2.0
"""
Guests' part of a snapshot into series: the kernel's counts since the snapshot before, and the requests in flight.
"""

from collections.abc import Callable, Iterable

import numpy as np

from otel_qemu.export import semconv
from otel_qemu.export.metrics.series_names import Attributes, SeriesName, disk_attributes, kernel_series
from otel_qemu.export.metrics.series_totals import Counts, Totals
from otel_qemu.trace.kernel_histograms import LATENCY
from otel_qemu.trace.measurements import ProcessCounts, Snapshot
from otel_qemu.trace.names import Guest, Names

_WORDS = LATENCY.itemsize // 8


def _words(part: str) -> slice:
    """Where a field of `LATENCY` lies among its words: of a distribution, the sum and then the counts."""
    kind, offset = LATENCY.fields[part][:2]  # type: ignore[index]
    return slice(offset // 8, (offset + kind.itemsize) // 8)


_PARTS = {part: _words(part) for part in LATENCY.names or ()}


class GuestMetrics:
    """
    Adds what guests did to totals.

    Args:
        totals: of every series.
        resource_of: whose a guest's series are.
    """

    def __init__(self, totals: Totals, resource_of: Callable[[Guest], bytes]) -> None:
        self._totals = totals
        self._resource_of = resource_of
        self._seen: dict[tuple[int, int], dict[tuple[int, ...], Counts]] = {}

    def fold(self, snapshot: Snapshot) -> set[SeriesName]:
        """Add what is new; returns the series of processes that are still traced."""
        return set().union(*(self._fold_process(process, snapshot.names) for process in snapshot.processes))

    def depart(self, processes: Iterable[ProcessCounts], names: Names) -> None:
        """Add the last counts of processes that have ended; names are as they were then."""
        for process in processes:
            self._fold_process(process, names)
            self._seen.pop(process.identity, None)

    def _fold_process(self, process: ProcessCounts, names: Names) -> set[SeriesName]:
        seen, found = self._seen.setdefault(process.identity, {}), set()
        now = np.ascontiguousarray(process.latencies).view("<u8").reshape(-1, _WORDS)
        for key, words in zip(process.series.tolist(), now, strict=True):
            grown = words - seen[key] if key in seen else words
            for part, name in kernel_series(key[:5], names, self._resource_of).items():
                if name in self._totals or grown[_PARTS[part]].any():
                    self._totals.add(name, grown[_PARTS[part]])
                    found.add(name)
            seen[key] = words
        return found

    def in_flight(self, snapshot: Snapshot, living: Iterable[SeriesName]) -> dict[SeriesName, int]:
        """
        How many requests each disk has in flight, and since when the oldest, in ns; 0 for disks that have none.

        Args:
            snapshot: of now.
            living: what `fold` gave for it; says which disks there are.
        """
        disks = {(name.resource, _disk_of(name)) for name in living if name.instrument == semconv.SCSI_REQUEST_DURATION}
        found = {name: 0 for disk in disks for name in _gauges(*disk)}
        requests = snapshot.in_flight[["pid", "device", "submit_ns"]].tolist()
        for pid, device, submit_ns in requests:
            disk = disk_attributes(snapshot.names.devices.get((pid, device)), device)
            active, oldest = _gauges(self._resource_of(snapshot.names.guest(pid)), disk)
            found[active] = found.get(active, 0) + 1
            found[oldest] = max(found.get(oldest, 0), snapshot.monotonic_ns - submit_ns)
        return found


def _disk_of(name: SeriesName) -> Attributes:
    return tuple(each for each in name.attributes if each[0] in (semconv.DISK_ALIAS, semconv.DISK_TARGET))


def _gauges(resource: bytes, disk: Attributes) -> tuple[SeriesName, SeriesName]:
    active = SeriesName(resource, semconv.SCSI_REQUEST_ACTIVE, disk)
    return active, SeriesName(resource, semconv.SCSI_REQUEST_OLDEST_AGE, disk)
