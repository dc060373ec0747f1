# SPDX-License-Identifier: Apache-2.0
"""
Traces into `ReadableSpan`, span by span, for the SDK's own encoder: the reference for `export.spans`.

It is what a user of the SDK would write, and what `bench.export` compares the encoder with.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.span import TraceState

from otel_qemu import __version__
from otel_qemu.policy import WaitThreshold
from otel_qemu.trace.names import Names
from otel_qemu.trace.traces import Table, Traces
from tests.support import readable_attributes as attributes
from tests.support.readable_attributes import Row, Values

_SCOPE = InstrumentationScope("otel_qemu", __version__)
_FLAGS = TraceFlags(0x03)


def spans_of(
    traces: Traces,
    names: Names,
    resources: dict[int, Resource],
    ids: Iterator[tuple[int, int]],
    threshold: WaitThreshold | None = None,
) -> list[ReadableSpan]:
    """
    The spans of every trace in a batch, those of a trace side by side, root first.

    Args:
        traces: whole traces.
        names: of the guests, disks and images in them.
        resources: by process id.
        ids: a trace id and a span id for each span; of spans with a parent, only the span id is taken.
        threshold: from when on a wait has a span of its own.
    """
    calls = _rows(traces.calls)
    builder = _Builder(names, resources, ids, threshold or WaitThreshold(), traces.unix_offset_ns)
    for request in _rows(traces.requests):
        first = request["first_call"]
        builder.add_request(request, calls[first : first + request["calls"]])
    for call in calls:
        if call["parent"] < 0 and call["join"] != attributes.PARENT_LOST:
            builder.add_orphan(call)
    return builder.spans


def _rows(table: Table) -> list[Row]:
    columns = table.dtype.names or ()
    return [dict(zip(columns, row, strict=True)) for row in table.tolist()]


@dataclass
class _Builder:
    names: Names
    resources: dict[int, Resource]
    ids: Iterator[tuple[int, int]]
    threshold: WaitThreshold
    unix_offset_ns: int
    spans: list[ReadableSpan] = field(default_factory=list)

    def add_request(self, request: Row, calls: Sequence[Row]) -> None:
        """A request's span, and those of its waits and of its calls."""
        interval = request["submit_ns"], request["complete_ns"]
        disk = self.names.disk(request["pid"], request["device"])
        values = attributes.of_request(request, disk)
        state = _state(request)
        name = str(values["scsi.operation.name"])
        parent = self._span(name, SpanKind.SERVER, request["pid"], interval, values, state)
        for wait in waits_of(self.threshold, request, calls):
            values = attributes.of_disk(disk)
            self._span("block.wait", SpanKind.INTERNAL, request["pid"], wait, values, state, parent)
        for call in calls:
            self._add_call(call, call["complete_ns"] or request["complete_ns"], state, parent)

    def add_orphan(self, call: Row) -> None:
        """A trace of one call; without an end, of no duration."""
        self._add_call(call, call["complete_ns"], _state(call), None)

    def _add_call(self, call: Row, end_ns: int, state: TraceState, parent: SpanContext | None) -> None:
        values = attributes.of_call(call, self.names.image(call["pid"], call["image"]))
        values |= {} if parent else attributes.sampled(call)
        name = f"rbd.{values['ceph.rbd.operation.name']}"
        self._span(name, SpanKind.CLIENT, call["pid"], (call["submit_ns"], end_ns), values, state, parent)

    def _span(
        self,
        name: str,
        kind: SpanKind,
        pid: int,
        interval: tuple[int, int],
        values: Values,
        state: TraceState,
        parent: SpanContext | None = None,
    ) -> SpanContext:
        trace_id, span_id = next(self.ids)
        context = SpanContext(parent.trace_id if parent else trace_id, span_id, False, _FLAGS, state)
        begin_ns, end_ns = interval
        self.spans.append(
            ReadableSpan(
                name,
                context,
                parent,
                self.resources[pid],
                values,
                kind=kind,
                status=Status(StatusCode.ERROR if "error.type" in values else StatusCode.UNSET),
                start_time=_clamped(begin_ns + self.unix_offset_ns),
                end_time=_clamped(max(begin_ns, end_ns) + self.unix_offset_ns),
                instrumentation_scope=_SCOPE,
            )
        )
        return context


def waits_of(threshold: WaitThreshold, request: Row, calls: Sequence[Row]) -> list[tuple[int, int]]:
    """The waits of a request that have a span of their own, as (begin, end) in the records' time."""
    if request["ending"] == attributes.LOST:
        return []
    if not calls:
        begin_ns = request["submit_ns"]
        return [(begin_ns, begin_ns + request["wait_ns"])] if request["wait_ns"] >= max(threshold.min_ns, 1) else []
    gaps = list(_gaps(request, calls))
    known = gaps[:1] if request["incomplete"] else gaps
    least_ns = min(threshold.min_ns, threshold.min_share * (request["complete_ns"] - request["submit_ns"]))
    return [(begin_ns, end_ns) for begin_ns, end_ns in known if end_ns - begin_ns >= max(least_ns, 1)]


def _gaps(request: Row, calls: Sequence[Row]) -> Iterator[tuple[int, int]]:
    last_ns = request["complete_ns"]
    reached_ns = request["submit_ns"]
    for call in sorted(calls, key=lambda call: call["submit_ns"]):
        yield reached_ns, min(call["submit_ns"], last_ns)
        reached_ns = max(reached_ns, call["complete_ns"] or last_ns)


def _state(row: Row) -> TraceState:
    """``ot=th:``, then the threshold as a fraction of 16**14 in hexadecimal digits; nothing where it is not known."""
    if row.get("ending") == attributes.HUNG or row["threshold"] >= 2**56:
        return TraceState()
    digits, rest = "", row["threshold"]
    while rest:
        digit, rest = divmod(rest, 16**13)
        digits, rest = f"{digits}{digit:x}", rest * 16
    return TraceState([("ot", f"th:{digits or 0}")])


def _clamped(time_ns: int) -> int:
    return min(max(time_ns, 0), 2**64 - 1)
