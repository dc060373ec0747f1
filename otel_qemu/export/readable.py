"""Temporary, until the client takes encoded traces: they are parsed back for the SDK's exporter to encode again."""

from collections.abc import Iterable, Iterator

from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.span import TraceState

from otel_qemu import __version__
from otel_qemu.export import semconv
from otel_qemu.export.attributes import Values
from otel_qemu.export.encoded import EncodedTrace

_SCOPE = InstrumentationScope(semconv.SCOPE_NAME, __version__)


def readable(traces: Iterable[EncodedTrace]) -> Iterator[ReadableSpan]:
    """The spans of traces, side by side."""
    for trace in traces:
        resource = Resource(_values(ResourceSpans.FromString(trace.resource).resource.attributes))
        for span in ScopeSpans.FromString(trace.spans).spans:
            yield _span(span, resource)


def _span(span: Span, resource: Resource) -> ReadableSpan:
    return ReadableSpan(
        span.name,
        _context(span, span.span_id),
        _context(span, span.parent_span_id) if span.parent_span_id else None,
        resource,
        _values(span.attributes),
        kind=SpanKind(span.kind - 1),
        status=Status(StatusCode(span.status.code)),
        start_time=span.start_time_unix_nano,
        end_time=span.end_time_unix_nano,
        instrumentation_scope=_SCOPE,
    )


def _context(span: Span, span_id: bytes) -> SpanContext:
    state = TraceState.from_header([span.trace_state] if span.trace_state else [])
    return SpanContext(int.from_bytes(span.trace_id), int.from_bytes(span_id), False, TraceFlags(0x03), state)


def _values(attributes: Iterable[KeyValue]) -> Values:
    return {item.key: getattr(item.value, item.value.WhichOneof("value") or "") for item in attributes}
