# SPDX-License-Identifier: Apache-2.0
"""
Snapshots into everything there is to export: guests' exact counts and requests in flight, and our own health.

No clock, no network: whoever sends the entries says which have arrived, and what has not is part of the next export.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from opentelemetry.sdk.metrics import Exemplar

from otel_qemu.export.metrics import health
from otel_qemu.export.metrics.entries import Entry, GuestEntries
from otel_qemu.export.metrics.export_settings import MetricSettings
from otel_qemu.export.metrics.in_flight import in_flight
from otel_qemu.export.metrics.series_names import SeriesName, kernel_series
from otel_qemu.export.metrics.series_totals import Counts, Point, Totals
from otel_qemu.export.resources import Resources
from otel_qemu.trace.kernel_histograms import LATENCY
from otel_qemu.trace.measurements import ProcessCounts, Snapshot
from otel_qemu.trace.names import Names

_WORDS = LATENCY.itemsize // 8


def _words(part: str) -> slice:
    """Where a field of `LATENCY` lies among its words: of a distribution, the sum and then the counts."""
    kind, offset = LATENCY.fields[part][:2]  # type: ignore[index]
    return slice(offset // 8, (offset + kind.itemsize) // 8)


_PARTS = {part: _words(part) for part in LATENCY.names or ()}


class Readings:
    """
    All series of all guests, and our health.

    Args:
        settings: kind of histograms, and temporality.
        resources: of this hypervisor's guests.
        start_unix_ns, start_ns: nothing was counted before; the same moment on the records' clock.
        others: further numbers of our own, asked for at each snapshot.
        most_ended: `Totals` has it.

    Attributes:
        totals: of guests' series.
    """

    def __init__(
        self,
        settings: MetricSettings,
        resources: Resources,
        start_unix_ns: int,
        start_ns: int,
        others: Callable[[], health.Numbers] = dict,
        most_ended: int = 10_000,
    ) -> None:
        self.resource_of = resources.of
        self._delta = settings.delta
        self._guest_entries = GuestEntries(settings.bounds_s, settings.exponential, self._delta)
        self._health = health.Health(resources.sidecar(), self._delta)
        self._others = others
        self.totals = Totals(start_unix_ns, most_ended)
        self._seen: dict[tuple[int, int], dict[tuple[int, ...], Counts]] = {}
        self._levels: dict[SeriesName, int] = {}
        self._start_unix_ns = start_unix_ns
        self._time_unix_ns, self._time_ns = start_unix_ns, start_ns

    @property
    def moment(self) -> tuple[int, int]:
        """Of the last snapshot: on the records' clock, and what makes that Unix time, in ns."""
        return self._time_ns, self._time_unix_ns - self._time_ns

    def fold(self, snapshot: Snapshot) -> None:
        """Take a snapshot: it adds counts, and says what lives."""
        self._follow_clock(snapshot)
        living = set().union(*(self._fold_process(process, snapshot.names) for process in snapshot.processes))
        # A disk that is gone has nothing in flight any more: that is said once.
        gone = {name: 0 for name, level in self._levels.items() if level}
        self._levels = gone | in_flight(snapshot, living, self.resource_of)
        self.totals.settle(living, snapshot.time_unix_ns)
        self._health.observe(health.of_snapshot(snapshot) | self._others())

    def depart(self, processes: Iterable[ProcessCounts], names: Names) -> None:
        """Add the last counts of processes that have ended; names are as they were then."""
        for process in processes:
            self._fold_process(process, names)
            self._seen.pop(process.identity, None)

    def _fold_process(self, process: ProcessCounts, names: Names) -> set[SeriesName]:
        """Add what the kernel has counted since it was seen last; returns the series of it."""
        seen, found = self._seen.setdefault(process.identity, {}), set()
        now = np.ascontiguousarray(process.latencies).view("<u8").reshape(-1, _WORDS)
        for key, words in zip(process.series.tolist(), now, strict=True):
            grown = words - seen[key] if key in seen else words
            for part, name in kernel_series(key[:5], names, self.resource_of).items():
                if name in self.totals or grown[_PARTS[part]].any():
                    self.totals.add(name, grown[_PARTS[part]])
                    found.add(name)
            seen[key] = words
        return found

    def _follow_clock(self, snapshot: Snapshot) -> None:
        """If the clock was set back, all that was noted would lie in the future: it goes back by as much."""
        passed_unix_ns, passed_ns = snapshot.time_unix_ns - self._time_unix_ns, snapshot.monotonic_ns - self._time_ns
        if passed_unix_ns < 0:
            self._start_unix_ns += passed_unix_ns - passed_ns
            self.totals.move(passed_unix_ns - passed_ns)
        self._time_unix_ns, self._time_ns = snapshot.time_unix_ns, snapshot.monotonic_ns

    def points(self) -> list[Point]:
        """All that there is to send of guests."""
        points = self.totals.points(self._time_unix_ns, self._delta)
        for name, level in self._levels.items():
            value = np.array([level], "u8")
            points.append(Point(name, self._start_unix_ns, self._time_unix_ns, value, value, last=False))
        return points

    def entries(self, points: Sequence[Point], exemplars: Mapping[SeriesName, Sequence[Exemplar]]) -> list[Entry]:
        """These points of guests, and our health; another thread may fold snapshots meanwhile."""
        return self._guest_entries.of(points, exemplars) + self._health.entries()

    def deliver(self, entries: Sequence[Entry]) -> None:
        """These have arrived."""
        self.totals.deliver(each.point for each in entries if each.point)
        self._health.deliver(each for each in entries if not each.point)
