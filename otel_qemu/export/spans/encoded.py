# SPDX-License-Identifier: Apache-2.0
"""
Traces as bytes: encoded once, they wait, are sent, tried again and split without being decoded.

Concatenating two serialised messages of one type merges them: repeated fields are appended (Protocol Buffers,
"Encoding", section "Last One Wins").  So requests are put together from encoded parts by concatenation.
"""

from collections.abc import Iterable
from typing import NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans

from otel_qemu import __version__
from otel_qemu.export import semconv
from otel_qemu.export.spans.wire import Field

SCOPE = ScopeSpans(scope=InstrumentationScope(name=semconv.SCOPE_NAME, version=__version__)).SerializeToString()
"""A serialised ``ScopeSpans`` with everything but ``spans``."""

_RESOURCE_SPANS = Field(ExportTraceServiceRequest(resource_spans=[ResourceSpans()]))
_SCOPE_SPANS = Field(ResourceSpans(scope_spans=[ScopeSpans()]))


class EncodedTrace(NamedTuple):
    """
    All spans of one trace.

    Attributes:
        trace_id: 16 bytes.
        root_id: 8 bytes, the span id of its root.
        resource: a serialised ``ResourceSpans`` without ``scope_spans``; the same object for all of a guest.
        spans: a serialised ``ScopeSpans`` with nothing but ``spans``.
        span_count: how many spans these are.
    """

    trace_id: bytes
    root_id: bytes
    resource: bytes
    spans: bytes
    span_count: int


def request_of(traces: Iterable[EncodedTrace]) -> bytes:
    """
    A serialised ``ExportTraceServiceRequest`` of whole traces, one ``ResourceSpans`` a guest.

    Args:
        traces: in the order in which they are sent, within a guest.
    """
    by_resource: dict[bytes, list[bytes]] = {}
    for trace in traces:
        by_resource.setdefault(trace.resource, [SCOPE]).append(trace.spans)
    return b"".join(
        _RESOURCE_SPANS.of(resource + _SCOPE_SPANS.of(b"".join(parts))) for resource, parts in by_resource.items()
    )
