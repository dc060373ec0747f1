# SPDX-License-Identifier: Apache-2.0
"""Serialised requests as OpenTelemetry's SDK has spans, for exporters that are made for it."""

from collections.abc import Iterator

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from otel_qemu.export.attributes import plain_values

_W3C_FLAGS = 0xFF  # the lowest byte of OTLP's Span.flags


def readable_spans(body: bytes) -> Iterator[list[ReadableSpan]]:
    """
    The spans of each resource.

    Args:
        body: a serialised ``ExportTraceServiceRequest`` of ours: no events, no links, plain attribute values.
    """
    for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = Resource(plain_values(of_resource.resource.attributes))
        yield [
            _readable(span, resource, InstrumentationScope(of_scope.scope.name, of_scope.scope.version))
            for of_scope in of_resource.scope_spans
            for span in of_scope.spans
        ]


def _readable(span: Span, resource: Resource, scope: InstrumentationScope) -> ReadableSpan:
    return ReadableSpan(
        span.name,
        _context(span, span.span_id),
        _context(span, span.parent_span_id) if span.parent_span_id else None,
        resource,
        plain_values(span.attributes),
        kind=SpanKind(max(span.kind - 1, 0)),  # OTLP's 0 is a kind that nobody has said
        status=Status(StatusCode(span.status.code)),
        start_time=span.start_time_unix_nano,
        end_time=span.end_time_unix_nano,
        instrumentation_scope=scope,
    )


def _context(span: Span, span_id: bytes) -> SpanContext:
    ids = int.from_bytes(span.trace_id, "big"), int.from_bytes(span_id, "big")
    return SpanContext(*ids, False, TraceFlags(span.flags & _W3C_FLAGS), TraceState.from_header([span.trace_state]))
