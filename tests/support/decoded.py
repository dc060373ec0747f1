# SPDX-License-Identifier: Apache-2.0
"""Encoded traces read back by protobuf, for tests: spans, and their attributes as plain values."""

from collections.abc import Iterable
from typing import Any

from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from otel_qemu.export.spans.encoded import EncodedTrace


def spans_in(traces: Iterable[EncodedTrace]) -> list[Span]:
    """Their spans, in order; each trace's parts hold to each other."""
    found: list[Span] = []
    for trace in traces:
        scope_spans = ScopeSpans.FromString(trace.spans)
        spans = list(scope_spans.spans)
        assert scope_spans == ScopeSpans(spans=spans)
        assert len(spans) == trace.span_count
        assert {span.trace_id for span in spans} == {trace.trace_id}
        assert spans[0].span_id == trace.root_id
        assert not spans[0].parent_span_id
        assert all(span.parent_span_id == trace.root_id for span in spans[1:])
        found += spans
    return found


def values_of(attributes: Iterable[KeyValue]) -> dict[str, Any]:
    """Attributes by key; none is there twice."""
    listed = [(item.key, getattr(item.value, item.value.WhichOneof("value") or "")) for item in attributes]
    assert len(dict(listed)) == len(listed)
    return dict(listed)


def resource_of(resource: bytes) -> dict[str, Any]:
    """Attributes of an encoded resource."""
    message = ResourceSpans.FromString(resource)
    assert message == ResourceSpans(resource=message.resource)
    return values_of(message.resource.attributes)
