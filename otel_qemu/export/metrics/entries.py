# SPDX-License-Identifier: Apache-2.0
"""
Series into the SDK's `MetricsData`, which any exporter of metrics takes.

Source: `opentelemetry.sdk.metrics.export`.  Of an exponential histogram it holds no zero threshold, of a gauge its OTLP
exporters send no start.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics import export as sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_qemu import __version__
from otel_qemu.export import semconv
from otel_qemu.export.metrics.exponential_buckets import SCALE, positive_buckets
from otel_qemu.export.metrics.instruments import GUEST_INSTRUMENTS, Instrument, InstrumentKind
from otel_qemu.export.metrics.series_names import SeriesName
from otel_qemu.export.metrics.series_totals import Point
from otel_qemu.export.resources import sdk_resource

DataPoint = sdk.NumberDataPoint | sdk.HistogramDataPoint | sdk.ExponentialHistogramDataPoint
_SCOPE = InstrumentationScope(semconv.SCOPE_NAME, __version__)


class Entry(NamedTuple):
    """
    One data point, and where it belongs.

    Attributes:
        resource: whose it is.
        metric: what it is of, whatever its data points; the same object for all of one metric.
        data_point: for the exporter.
        point: of a guest's series, for `Totals.deliver`; None: it is our health.
    """

    resource: Resource
    metric: sdk.Metric
    data_point: DataPoint
    point: Point | None = None


def metrics_data(entries: Iterable[Entry]) -> sdk.MetricsData:
    """Entries for an exporter: those of one resource, and in it of one metric, must stand together."""
    found = []
    for _, of_resource in groupby(entries, key=lambda entry: id(entry.resource)):
        its = [list(of_metric) for _, of_metric in groupby(of_resource, key=lambda entry: id(entry.metric))]
        metrics = [_with(some[0].metric, [entry.data_point for entry in some]) for some in its]
        found.append(sdk.ResourceMetrics(its[0][0].resource, [sdk.ScopeMetrics(_SCOPE, metrics, "")], ""))
    return sdk.MetricsData(found)


def _with(metric: sdk.Metric, data_points: Sequence[DataPoint]) -> sdk.Metric:
    return replace(metric, data=replace(metric.data, data_points=data_points))  # type: ignore[arg-type]


class GuestEntries:
    """
    Makes entries of guests' points.

    Args:
        bounds_s: that histograms are counted with.
        is_exponential: whether they leave as exponential ones; the bounds are `exponential_buckets.BOUNDS_S` then.
        delta: metrics of which points hold only what is new.
    """

    def __init__(self, bounds_s: Sequence[float], is_exponential: bool, delta: frozenset[str]) -> None:
        self._bounds_s = bounds_s
        self._is_exponential = is_exponential
        self._metrics = {each.name: _metric(each, is_exponential, each.name in delta) for each in GUEST_INSTRUMENTS}

    def of(self, points: Iterable[Point], exemplars: Mapping[SeriesName, Sequence[Exemplar]]) -> list[Entry]:
        """Points in the order of their names, with those exemplars that they count."""
        return [self._entry(each, exemplars.get(each.name, ())) for each in sorted(points, key=lambda each: each.name)]

    def _entry(self, point: Point, exemplars: Sequence[Exemplar]) -> Entry:
        metric = self._metrics[point.name.instrument]
        return Entry(sdk_resource(point.name.resource), metric, self._data_point(point, metric.unit, exemplars), point)

    def _data_point(self, point: Point, unit: str | None, exemplars: Sequence[Exemplar]) -> DataPoint:
        which = dict(point.name.attributes), point.start_unix_ns, point.time_unix_ns
        total, *counts = point.values.tolist()
        value = total / 1e9 if unit == "s" else total
        if not counts:
            return sdk.NumberDataPoint(*which, value)
        counts = counts[: len(self._bounds_s) + 1]  # the kernel has room for more
        # Of what a point counts: a trace that was sent late belongs to a delta that has left.
        shown = [each for each in exemplars if point.start_unix_ns < each.time_unix_nano <= point.time_unix_ns]
        if not self._is_exponential:
            return sdk.HistogramDataPoint(*which, sum(counts), value, counts, self._bounds_s, *_NO_RANGE, shown)
        positive = sdk.Buckets(*positive_buckets(counts))
        return sdk.ExponentialHistogramDataPoint(
            *which, sum(counts), value, SCALE, counts[0], positive, sdk.Buckets(0, ()), 0, *_NO_RANGE, shown
        )


_NO_RANGE: tuple[float, float] = (None, None)  # type: ignore[assignment]
"""Least and greatest value: the kernel does not keep them, and OTLP does not need them."""


def _metric(instrument: Instrument, is_exponential: bool, is_delta: bool) -> sdk.Metric:
    temporality = sdk.AggregationTemporality.DELTA if is_delta else sdk.AggregationTemporality.CUMULATIVE
    data: sdk.Sum | sdk.Gauge | sdk.Histogram | sdk.ExponentialHistogram
    if instrument.kind is InstrumentKind.HISTOGRAM:
        data = sdk.ExponentialHistogram([], temporality) if is_exponential else sdk.Histogram([], temporality)
    elif instrument.kind is InstrumentKind.GAUGE:
        data = sdk.Gauge([])
    else:
        data = sdk.Sum([], temporality, is_monotonic=instrument.kind is InstrumentKind.COUNTER)
    return sdk.Metric(instrument.name, instrument.description, instrument.unit, data)
