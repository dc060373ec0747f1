# SPDX-License-Identifier: Apache-2.0
"""Spans in one form, whoever has encoded them."""

from collections.abc import Iterator

from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status


def ids_of(spans: list[Span]) -> Iterator[tuple[int, int]]:
    return ((int.from_bytes(span.trace_id), int.from_bytes(span.span_id)) for span in spans)


def normal(span: Span) -> Span:
    """The span with its attributes sorted, no status where it says nothing, and the flags that the SDK leaves out."""
    found = Span()
    found.CopyFrom(span)
    del found.attributes[:]
    found.attributes.extend(sorted(span.attributes, key=lambda item: str(item.key)))
    if found.status == Status():
        found.ClearField("status")
    found.flags |= 0x03
    return found
