# SPDX-License-Identifier: Apache-2.0
"""
Send a parent and its child through the OpenTelemetry SDK's exporters, and say what should be read back.

In: a service name.  Out: SDK spans, and the same two written down by hand as `Span`.
"""

import secrets
import time
from dataclasses import dataclass

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event as SdkEvent
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from .jaeger import Event, Jaeger, Span
from .otlp_json import Value

SCOPE = "tests.backends"


@dataclass(frozen=True)
class Family:
    """
    A parent and its child: as the SDK has them, and as they should come back.
    """

    sent: tuple[ReadableSpan, ReadableSpan]
    expected: tuple[Span, Span]

    @property
    def trace_id(self) -> str:
        return self.expected[0].trace_id


def family(service: str) -> Family:
    """
    Make one whose times have odd nanoseconds, with a value of every kind, and the false and empty ones.
    """
    trace_id, parent_id, child_id = secrets.token_hex(16), secrets.token_hex(8), secrets.token_hex(8)
    start_unix_ns = time.time_ns() // 1000 * 1000 + 137
    resource: dict[str, Value] = {"service.name": service, "process.pid": 4711, "host.name": "hypervisor"}
    parent = Span(
        trace_id, parent_id, "", "ot=th:fd", "WRITE", "SERVER", start_unix_ns, start_unix_ns + 54_000_001,
        {"lba": 1 << 40, "negative": -5, "ratio": 2.0, "yes": True, "no": False, "empty": "", "zero": 0},
        "UNSET", "", (Event("qemu.io.throttled", start_unix_ns + 11, {"qemu.throttle.group": "g1"}),),
        resource, SCOPE,
    )  # fmt: skip
    child = Span(
        trace_id, child_id, parent_id, "ot=th:fd", "rbd.aio_write", "CLIENT",
        start_unix_ns + 50_000_003, start_unix_ns + 53_999_999,
        {"ceph.rbd.image": "disk-ä", "ceph.rbd.return_value": -5, "error.type": "EIO"},
        "ERROR", "input/output error", (), resource, SCOPE,
    )  # fmt: skip
    return Family((_sdk_span(parent), _sdk_span(child)), (parent, child))


def send(jaeger: Jaeger, protocol: str, *spans: ReadableSpan) -> None:
    """
    Export by `http` or `grpc`, and fail unless it was accepted.
    """
    exporter: SpanExporter
    if protocol == "http":
        exporter = HttpExporter(endpoint=f"{jaeger.otlp_http}/v1/traces")
    else:
        exporter = GrpcExporter(endpoint=jaeger.otlp_grpc, insecure=True)
    try:
        assert exporter.export(spans) is SpanExportResult.SUCCESS
    finally:
        exporter.shutdown()


def _sdk_span(span: Span) -> ReadableSpan:
    return ReadableSpan(
        name=span.name,
        context=_context(span, span.span_id),
        parent=_context(span, span.parent_span_id) if span.parent_span_id else None,
        resource=Resource(span.resource),
        attributes=span.attributes,
        events=[SdkEvent(event.name, event.attributes, event.time_unix_ns) for event in span.events],
        kind=SpanKind[span.kind],
        instrumentation_scope=InstrumentationScope(span.scope),
        status=Status(StatusCode[span.status_code], span.status_message or None),
        start_time=span.start_unix_ns,
        end_time=span.end_unix_ns,
    )


def _context(span: Span, span_id: str) -> SpanContext:
    state = TraceState.from_header([span.trace_state])
    return SpanContext(int(span.trace_id, 16), int(span_id, 16), False, TraceFlags(TraceFlags.SAMPLED), state)
