"""
Series into OTLP: data points, and requests of them.

Source: opentelemetry-proto, metrics/v1/metrics.proto.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2 as otlp

from otel_qemu import __version__
from otel_qemu.export import semconv
from otel_qemu.export.metrics import exponential
from otel_qemu.export.metrics.exemplars import Exemplar
from otel_qemu.export.metrics.guest_metrics import bucket_counts
from otel_qemu.export.metrics.instruments import INSTRUMENTS, Instrument, Kind
from otel_qemu.export.metrics.metric_names import Attributes, SeriesName
from otel_qemu.export.metrics.series_totals import Point

_SCOPE = InstrumentationScope(name=semconv.SCOPE_NAME, version=__version__)
_CUMULATIVE = otlp.AGGREGATION_TEMPORALITY_CUMULATIVE
_DELTA = otlp.AGGREGATION_TEMPORALITY_DELTA

Exemplars = Mapping[SeriesName, Sequence[Exemplar]]


class Encoder:
    """
    Makes requests.

    Args:
        bounds_s: that histograms are counted with.
        is_exponential: whether they leave as exponential ones; the bounds are `exponential.BOUNDS_S` then.
        delta: instruments of which points hold only what is new.
    """

    def __init__(self, bounds_s: Sequence[float], is_exponential: bool, delta: frozenset[str]) -> None:
        self._bounds_s = bounds_s
        self._is_exponential = is_exponential
        self._delta = delta

    def request(self, points: Iterable[Point], exemplars: Exemplars) -> bytes:
        """A serialised ``ExportMetricsServiceRequest``: a ``ResourceMetrics`` a guest, a ``Metric`` an instrument."""
        request = ExportMetricsServiceRequest()
        ordered = sorted(points, key=lambda point: point.name)
        for resource, of_resource in groupby(ordered, key=lambda point: point.name.resource):
            message = request.resource_metrics.add()
            message.ParseFromString(resource)
            scope = message.scope_metrics.add(scope=_SCOPE)
            for instrument, its in groupby(of_resource, key=lambda point: point.name.instrument):
                scope.metrics.append(self._metric(INSTRUMENTS[instrument], its, exemplars))
        body: bytes = request.SerializeToString()
        return body

    def _metric(self, instrument: Instrument, points: Iterable[Point], exemplars: Exemplars) -> otlp.Metric:
        metric = otlp.Metric(name=instrument.name, unit=instrument.unit, description=instrument.description)
        temporality = _DELTA if instrument.name in self._delta else _CUMULATIVE
        if instrument.kind is Kind.HISTOGRAM:
            data = metric.exponential_histogram if self._is_exponential else metric.histogram
            data.aggregation_temporality = temporality
            encode = self._exponential if self._is_exponential else self._explicit
            data.data_points.extend(encode(point, exemplars.get(point.name, ())) for point in points)
            return metric
        if instrument.kind is Kind.GAUGE:
            metric.gauge.data_points.extend(_number(point, instrument.unit) for point in points)
            return metric
        metric.sum.aggregation_temporality = temporality
        metric.sum.is_monotonic = instrument.kind is Kind.COUNTER
        metric.sum.data_points.extend(_number(point, instrument.unit) for point in points)
        return metric

    def _explicit(self, point: Point, exemplars: Sequence[Exemplar]) -> otlp.HistogramDataPoint:
        counts = bucket_counts(point.values, len(self._bounds_s))
        return otlp.HistogramDataPoint(
            **_usual(point),
            count=sum(counts),
            sum=int(point.values[0]) / 1e9,
            bucket_counts=counts,
            explicit_bounds=self._bounds_s,
            exemplars=_exemplars(point, exemplars),
        )

    def _exponential(self, point: Point, exemplars: Sequence[Exemplar]) -> otlp.ExponentialHistogramDataPoint:
        counts = bucket_counts(point.values, len(self._bounds_s))
        buckets = exponential.buckets_of(counts)
        return otlp.ExponentialHistogramDataPoint(
            **_usual(point),
            count=sum(counts),
            sum=int(point.values[0]) / 1e9,
            scale=exponential.SCALE,
            zero_count=buckets.zero_count,
            zero_threshold=exponential.ZERO_THRESHOLD_S,
            positive=otlp.ExponentialHistogramDataPoint.Buckets(offset=buckets.offset, bucket_counts=buckets.counts),
            exemplars=_exemplars(point, exemplars),
        )


def _usual(point: Point) -> dict[str, Any]:
    return {
        "attributes": key_values(point.name.attributes),
        "start_time_unix_nano": point.start_unix_ns,
        "time_unix_nano": point.time_unix_ns,
    }


def key_values(attributes: Attributes) -> list[KeyValue]:
    """Attributes as OTLP has them."""
    return [KeyValue(key=key, value=AnyValue(string_value=value)) for key, value in attributes]


def _number(point: Point, unit: str) -> otlp.NumberDataPoint:
    value = int(point.values[0])
    return otlp.NumberDataPoint(**_usual(point), **({"as_double": value / 1e9} if unit == "s" else {"as_int": value}))


def _exemplars(point: Point, exemplars: Sequence[Exemplar]) -> list[otlp.Exemplar]:
    """Of what a point counts: a trace that was sent late belongs to a delta that has left."""
    return [
        otlp.Exemplar(
            time_unix_nano=exemplar.time_unix_ns,
            as_double=exemplar.value_ns / 1e9,
            trace_id=exemplar.trace_id,
            span_id=exemplar.span_id,
        )
        for exemplar in exemplars
        if point.start_unix_ns < exemplar.time_unix_ns <= point.time_unix_ns
    ]
