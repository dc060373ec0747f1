"""
Measurements into OTLP metrics: exact histograms, bytes, requests in flight, and what we say about ourselves.

In: `Measurements`.  Out: `Point`s, and requests of them.  No clock, no network: whoever sends them says what has
arrived, and what has not is part of the next export.
"""

from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

import numpy as np

from otel_qemu.export.metrics import own_metrics
from otel_qemu.export.metrics.data_points import Encoder, Exemplars
from otel_qemu.export.metrics.guest_metrics import GuestMetrics
from otel_qemu.export.metrics.instruments import INSTRUMENTS, Kind
from otel_qemu.export.metrics.metric_names import SeriesName
from otel_qemu.export.metrics.metric_resources import own_resource
from otel_qemu.export.metrics.metric_settings import MetricSettings, Temporality
from otel_qemu.export.metrics.series_totals import Point, Totals
from otel_qemu.export.resources import Resources
from otel_qemu.trace.measurements import Measurements


class Metrics:
    """
    All series of all guests, and our own.

    Args:
        settings: kind of histograms, and temporality.
        resources: of this hypervisor's guests.
        start_unix_ns, start_ns: nothing was counted before; the same moment on the records' clock.
        others: further numbers of our own, asked for at each export.
    """

    def __init__(
        self,
        settings: MetricSettings,
        resources: Resources,
        start_unix_ns: int,
        start_ns: int,
        others: Callable[[], own_metrics.Numbers] = dict,
    ) -> None:
        self._delta = _delta_instruments(settings.temporality)
        self.encoder = Encoder(settings.bounds_s, settings.exponential, self._delta)
        self.resource_of = resources.of
        self._own = own_resource(resources)
        self._others = others
        self._totals = Totals(start_unix_ns)
        self._guests = GuestMetrics(self._totals, self.resource_of)
        self._own_seen: dict[SeriesName, int] = {}
        self._levels: dict[SeriesName, int] = {}
        self._start_unix_ns = start_unix_ns
        self._time_unix_ns, self._time_ns = start_unix_ns, start_ns

    @property
    def moment(self) -> tuple[int, int]:
        """Of the last measurement that said what lives: on the records' clock, and what makes that Unix time, in ns."""
        return self._time_ns, self._time_unix_ns - self._time_ns

    def fold(self, measured: Measurements) -> None:
        """Take a measurement; one of ended guests adds their counts, any other also says what lives."""
        if measured.ended:
            self._guests.fold(measured)
            return
        self._follow_clock(measured)
        living = self._guests.fold(measured)
        own = {**own_metrics.of_measurements(measured), **self._others(), **own_metrics.of_process()}
        numbers = {SeriesName(self._own, *key): number for key, number in own.items()}
        levels = self._guests.in_flight(measured, living)
        levels |= {name: number for name, number in numbers.items() if not _only_grows(name)}
        living |= self._count_own({name: number for name, number in numbers.items() if _only_grows(name)})
        # A disk that is gone has nothing in flight any more: that is said once.
        self._levels = {**{name: 0 for name, level in self._levels.items() if level}, **levels}
        self._totals.settle(living, measured.time_unix_ns)

    def _follow_clock(self, measured: Measurements) -> None:
        """If the clock was set back, all that was noted would lie in the future: it goes back by as much."""
        passed_unix_ns, passed_ns = measured.time_unix_ns - self._time_unix_ns, measured.monotonic_ns - self._time_ns
        if passed_unix_ns < 0:
            self._start_unix_ns += passed_unix_ns - passed_ns
            self._totals.move(passed_unix_ns - passed_ns)
        self._time_unix_ns, self._time_ns = measured.time_unix_ns, measured.monotonic_ns

    def points(self) -> list[Point]:
        """What there is to send of all that was folded."""
        points = self._totals.points(self._time_unix_ns, self._delta)
        for name, level in self._levels.items():
            value = np.array([level], "u8")
            points.append(Point(name, self._start_unix_ns, self._time_unix_ns, value, value, last=False))
        return points

    def request(self, points: Iterable[Point], exemplars: Exemplars) -> bytes:
        """A serialised ``ExportMetricsServiceRequest`` of points."""
        return self.encoder.request(points, exemplars)

    def deliver(self, points: Iterable[Point]) -> None:
        """These have arrived."""
        self._totals.deliver(points)

    def _count_own(self, numbers: Mapping[SeriesName, int]) -> Set[SeriesName]:
        for name, number in numbers.items():
            if number > self._own_seen.get(name, -1):
                self._totals.add(name, np.array([number - self._own_seen.get(name, 0)], "u8"))
                self._own_seen[name] = number
        return numbers.keys()

    @property
    def lost_series(self) -> int:
        """Series whose last counts could not be kept until they were sent."""
        return self._totals.lost


def _only_grows(name: SeriesName) -> bool:
    return INSTRUMENTS[name.instrument].kind is Kind.COUNTER


def _delta_instruments(temporality: Temporality) -> frozenset[str]:
    kinds: dict[Temporality, tuple[Any, ...]] = {
        Temporality.CUMULATIVE: (),
        Temporality.DELTA: (Kind.HISTOGRAM, Kind.COUNTER),
        Temporality.LOWMEMORY: (Kind.HISTOGRAM,),
    }
    return frozenset(name for name, each in INSTRUMENTS.items() if each.kind in kinds[temporality])
