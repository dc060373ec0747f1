# SPDX-License-Identifier: Apache-2.0
"""
OTLP requests of traces and metrics, built field by field and posted: what a test says is what is sent.
"""

import secrets
import time
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AggregationTemporality,
    Exemplar,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from otel_qemu.export.metrics.instruments import Instrument, InstrumentKind

SCOPE = InstrumentationScope(name="otel_qemu")
RANDOM_AND_SAMPLED = 0x03

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Sent:
    """
    A WRITE with its rbd.aio_write.

    Attributes:
        service: its service.name.
        trace_id: hex.
        trace_state: of both spans.
        duration_ms: of the WRITE.
        error: whether it failed.
    """

    service: str
    trace_id: str = field(default_factory=lambda: secrets.token_hex(16))
    trace_state: str = "ot=th:0"
    duration_ms: float = 1.0
    error: bool = False

    def spans(self) -> tuple[Span, Span]:
        """
        Return parent and child.
        """
        parent_id = secrets.token_bytes(8)
        status = Status(code=Status.STATUS_CODE_ERROR if self.error else Status.STATUS_CODE_UNSET)
        parent = self._span("WRITE", Span.SPAN_KIND_SERVER, parent_id)
        parent.status.CopyFrom(status)
        child = self._span("rbd.aio_write", Span.SPAN_KIND_CLIENT, secrets.token_bytes(8))
        child.parent_span_id = parent_id
        return parent, child

    def _span(self, name: str, kind: Span.SpanKind.ValueType, span_id: bytes) -> Span:
        now = time.time_ns()
        return Span(
            trace_id=bytes.fromhex(self.trace_id), span_id=span_id, trace_state=self.trace_state, name=name, kind=kind,
            start_time_unix_nano=now - int(self.duration_ms * 1e6), end_time_unix_nano=now, flags=RANDOM_AND_SAMPLED,
            attributes=attributes({"qemu.disk.alias": "scsi0-0-0-0"}),
        )  # fmt: skip


def attributes(values: Mapping[str, str]) -> list[KeyValue]:
    """
    Return texts as OTLP has them.
    """
    return [KeyValue(key=key, value=AnyValue(string_value=value)) for key, value in values.items()]


def guest(service: str, name: str) -> Resource:
    """
    Return the resource of a guest.
    """
    return Resource(
        attributes=attributes(
            {"service.name": service, "service.instance.id": f"uuid-{name}", "qemu.domain.name": name, "host.name": "h"}
        )
    )


def spans_request(service: str, spans: Iterable[Span]) -> bytes:
    """
    Return a request with these spans of one guest.
    """
    scoped = ScopeSpans(scope=SCOPE, spans=spans)
    resource = guest(service, "web1")
    return ExportTraceServiceRequest(
        resource_spans=[ResourceSpans(resource=resource, scope_spans=[scoped])]
    ).SerializeToString()


def histogram_request(service: str, name: str, counts: list[int], bounds_s: list[float], trace_id: str) -> bytes:
    """
    Return a request with the durations of one guest's writes, and an exemplar in the last bucket.
    """
    now = time.time_ns()
    exemplar = Exemplar(
        trace_id=bytes.fromhex(trace_id), span_id=secrets.token_bytes(8), time_unix_nano=now, as_double=bounds_s[-1] * 2
    )
    point = HistogramDataPoint(
        attributes=attributes({"scsi.operation.name": "WRITE", "qemu.disk.alias": "scsi0-0-0-0"}),
        start_time_unix_nano=now - 10**9, time_unix_nano=now, count=sum(counts), sum=1.5, bucket_counts=counts,
        explicit_bounds=bounds_s, exemplars=[exemplar],
    )  # fmt: skip
    cumulative = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
    metric = Metric(
        name="qemu.scsi.request.duration", unit="s",
        histogram=Histogram(data_points=[point], aggregation_temporality=cumulative),
    )  # fmt: skip
    scoped = ScopeMetrics(scope=SCOPE, metrics=[metric])
    return ExportMetricsServiceRequest(
        resource_metrics=[ResourceMetrics(resource=guest(service, name), scope_metrics=[scoped])]
    ).SerializeToString()


def instruments_request(instruments: Iterable[Instrument], resource: Mapping[str, object]) -> bytes:
    """
    Return a request with a data point of each metric, which has all attributes that it may have.
    """
    whose = Resource(attributes=attributes({key: str(value) for key, value in resource.items()}))
    scoped = ScopeMetrics(scope=SCOPE, metrics=[_metric(instrument) for instrument in instruments])
    return ExportMetricsServiceRequest(
        resource_metrics=[ResourceMetrics(resource=whose, scope_metrics=[scoped])]
    ).SerializeToString()


def _metric(instrument: Instrument) -> Metric:
    cumulative = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
    now = time.time_ns()
    values = attributes(dict.fromkeys(instrument.attributes, "x"))
    metric = Metric(name=instrument.name, unit=instrument.unit)
    if instrument.kind is InstrumentKind.HISTOGRAM:
        point = HistogramDataPoint(
            attributes=values, start_time_unix_nano=now - 10**9, time_unix_nano=now, count=1, sum=0.5,
            bucket_counts=[0, 1], explicit_bounds=[0.1],
        )  # fmt: skip
        metric.histogram.CopyFrom(Histogram(data_points=[point], aggregation_temporality=cumulative))
        return metric
    number = NumberDataPoint(attributes=values, start_time_unix_nano=now - 10**9, time_unix_nano=now, as_int=1)
    if instrument.kind is InstrumentKind.GAUGE:
        metric.gauge.CopyFrom(Gauge(data_points=[number]))
    else:
        monotonic = instrument.kind is InstrumentKind.COUNTER
        metric.sum.CopyFrom(Sum(data_points=[number], aggregation_temporality=cumulative, is_monotonic=monotonic))
    return metric


def post(endpoint: str, signal: str, body: bytes) -> None:
    """
    Send a request by HTTP, and fail unless all of it was accepted.
    """
    headers = {"Content-Type": "application/x-protobuf"}
    request = urllib.request.Request(f"{endpoint}/v1/{signal}", body, headers)
    with _opener.open(request, timeout=120) as answer:
        assert answer.status == 200
        assert answer.read() in (b"", b"\n\0")  # no partial_success, or an empty one
