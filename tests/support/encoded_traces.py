# SPDX-License-Identifier: Apache-2.0
"""Encoded traces made by hand, of which a server can tell whether they arrived whole, and with their own guest."""

import itertools
import secrets
from collections import Counter
from collections.abc import Iterable

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from otel_qemu.export.spans.encoded import EncodedTrace


def encoded(spans: int = 2, guest: str = "web1", padding_bytes: int = 0) -> EncodedTrace:
    """A trace whose spans say which of how many they are, and whose."""
    trace_id = secrets.token_bytes(16)
    ids = [secrets.token_bytes(8) for _ in range(spans)]
    made = [
        Span(
            trace_id=trace_id,
            span_id=span_id,
            parent_span_id=b"" if span_id == ids[0] else ids[0],
            name=f"{index}/{spans}",
            attributes=[text("guest", guest), text("padding", "x" * padding_bytes)],
            start_time_unix_nano=1_000_000_000 + index,
            end_time_unix_nano=2_000_000_000,
        )
        for index, span_id in enumerate(ids)
    ]
    resource = ResourceSpans(resource=Resource(attributes=[text("service.name", guest)]))
    body = ScopeSpans(spans=made).SerializeToString()
    return EncodedTrace(trace_id, ids[0], resource.SerializeToString(), body, spans)


def many(count: int, spans: int = 2) -> list[EncodedTrace]:
    """Traces of two guests, in turn."""
    return [encoded(spans, f"web{index % 2}") for index in range(count)]


def text(key: str, value: str) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(string_value=value))


def arrived(requests: Iterable[ExportTraceServiceRequest]) -> Counter[bytes]:
    """How often each trace arrived; each time it was whole, in one request, and under its own guest."""
    return Counter(itertools.chain.from_iterable(map(_traces, requests)))


def ids(traces: Iterable[EncodedTrace]) -> Counter[bytes]:
    """The traces, once each."""
    return Counter(trace.trace_id for trace in traces)


def span_count(request: ExportTraceServiceRequest) -> int:
    return sum(len(scope.spans) for resource in request.resource_spans for scope in resource.scope_spans)


def _traces(request: ExportTraceServiceRequest) -> list[bytes]:
    names: dict[bytes, list[str]] = {}
    guests = [of_resource.resource.attributes[0].value.string_value for of_resource in request.resource_spans]
    assert len(guests) == len(set(guests))
    for of_resource, guest in zip(request.resource_spans, guests, strict=True):
        (of_scope,) = of_resource.scope_spans
        assert of_scope.scope.name == "otel_qemu"
        for span in of_scope.spans:
            assert span.attributes[0].value.string_value == guest
            names.setdefault(span.trace_id, []).append(span.name)
    for found in names.values():
        assert found == [f"{index}/{len(found)}" for index in range(len(found))]
    return list(names)
