# SPDX-License-Identifier: Apache-2.0
"""
Decode OTLP-JSON into spans and traces.

In: the `resourceSpans` of an answer.  Out: traces, each with its spans by start.
Nothing is guessed: what these classes cannot hold raises ValueError.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Value = str | int | float | bool
Json = Mapping[str, Any]

KINDS = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
STATUS_CODES = ("UNSET", "OK", "ERROR")


@dataclass(frozen=True)
class Event:
    """
    Something that happened within a span.
    """

    name: str
    time_unix_ns: int
    attributes: dict[str, Value]


@dataclass(frozen=True)
class Span:
    """
    One span as it was received. Ids are hex; the parent's is empty in a root.
    """

    trace_id: str
    span_id: str
    parent_span_id: str
    trace_state: str
    name: str
    kind: str
    start_unix_ns: int
    end_unix_ns: int
    attributes: dict[str, Value]
    status_code: str
    status_message: str
    events: tuple[Event, ...]
    resource: dict[str, Value]
    scope: str

    @property
    def duration_ns(self) -> int:
        return self.end_unix_ns - self.start_unix_ns


@dataclass(frozen=True)
class Trace:
    """
    All spans of one trace, in order of their start. A span received twice is here twice.
    """

    trace_id: str
    spans: tuple[Span, ...]

    @property
    def roots(self) -> tuple[Span, ...]:
        """
        Those whose parent is not in this trace.
        """
        known = {span.span_id for span in self.spans}
        return tuple(span for span in self.spans if span.parent_span_id not in known)

    def children(self, parent: Span) -> tuple[Span, ...]:
        return tuple(span for span in self.spans if span.parent_span_id == parent.span_id)


def decode_traces(resource_spans: Iterable[Json]) -> list[Trace]:
    """
    Gather spans into traces, the earliest trace first.
    """
    traces: defaultdict[str, list[Span]] = defaultdict(list)
    for span in decode_spans(resource_spans):
        traces[span.trace_id].append(span)
    # A tie in time goes to the parent: a child cannot come before it.
    for spans in traces.values():
        spans.sort(key=lambda span: (span.start_unix_ns, -span.end_unix_ns, span.span_id))
    by_start = sorted(traces.values(), key=lambda spans: spans[0].start_unix_ns)
    return [Trace(spans[0].trace_id, tuple(spans)) for spans in by_start]


def decode_spans(resource_spans: Iterable[Json]) -> Iterator[Span]:
    for group in resource_spans:
        resource = _attributes(group.get("resource", {}))
        for scoped in group.get("scopeSpans", ()):
            scope = scoped.get("scope", {}).get("name", "")
            for span in scoped.get("spans", ()):
                yield _span(span, resource, scope)


def _span(span: Json, resource: dict[str, Value], scope: str) -> Span:
    status = span.get("status", {})
    return Span(
        trace_id=span["traceId"],
        span_id=span["spanId"],
        parent_span_id=span.get("parentSpanId", ""),
        trace_state=span.get("traceState", ""),
        name=span.get("name", ""),
        kind=KINDS[span.get("kind", 0)],
        start_unix_ns=int(span["startTimeUnixNano"]),
        end_unix_ns=int(span["endTimeUnixNano"]),
        attributes=_attributes(span),
        status_code=STATUS_CODES[status.get("code", 0)],
        status_message=status.get("message", ""),
        events=tuple(map(_event, span.get("events", ()))),
        resource=resource,
        scope=scope,
    )


def _event(event: Json) -> Event:
    return Event(event.get("name", ""), int(event["timeUnixNano"]), _attributes(event))


def _attributes(holder: Json) -> dict[str, Value]:
    return {pair["key"]: _value(pair) for pair in holder.get("attributes", ())}


def _value(pair: Json) -> Value:
    match pair["value"]:
        case {"stringValue": str(text)}:
            return text
        case {"boolValue": bool(flag)}:
            return flag
        case {"intValue": number}:  # a string, as in all JSON of protobuf
            return int(number)
        case {"doubleValue": number}:
            return float(number)
    raise ValueError(f"attribute {pair['key']!r} is no string, number or bool: {pair['value']!r}")
