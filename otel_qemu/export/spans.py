"""
Whole traces into OpenTelemetry spans: one a SCSI request, one a librbd call, one a wait that is worth seeing.

In: a batch of `Traces` and what people call things.  Out: `ReadableSpan`, the spans of a trace side by side, root
first.  Pure: the same input and ids give the same spans.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from otel_qemu import __version__
from otel_qemu.events import Ending
from otel_qemu.export import attributes, semconv
from otel_qemu.export.attributes import Values
from otel_qemu.export.ids import Ids
from otel_qemu.export.resources import Resources
from otel_qemu.export.text import unix_ns
from otel_qemu.export.waits import Row, WaitThreshold
from otel_qemu.trace.names import Names
from otel_qemu.trace.traces import Table, Traces

_SCOPE = InstrumentationScope(semconv.SCOPE_NAME, __version__)
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_SUCCESS = Status(StatusCode.UNSET)
_FAILURE = Status(StatusCode.ERROR)
_DEFAULT_THRESHOLD = WaitThreshold()


def spans_of(
    traces: Traces, names: Names, resources: Resources, ids: Ids, threshold: WaitThreshold = _DEFAULT_THRESHOLD
) -> list[ReadableSpan]:
    """
    The spans of every trace in a batch.

    Args:
        traces: whole traces; a request's ``submit_ns`` is not 0.
        names: of the guests, disks and images in them.
        resources: of the guests.
        ids: where trace and span ids come from.
        threshold: from when on a wait has a span of its own.
    """
    calls = _rows(traces.calls)
    builder = _Builder(names, resources, ids, threshold, traces.unix_offset_ns)
    for request in _rows(traces.requests):
        first = request["first_call"]
        builder.add_request(request, calls[first : first + request["calls"]])
    for call in calls:
        if call["parent"] < 0:
            builder.add_orphan(call)
    return builder.spans


def _rows(table: Table) -> list[Row]:
    columns = table.dtype.names or ()
    return [dict(zip(columns, row, strict=True)) for row in table.tolist()]


@dataclass
class _Builder:
    """The spans of one batch, as they are made."""

    names: Names
    resources: Resources
    ids: Ids
    threshold: WaitThreshold
    unix_offset_ns: int
    spans: list[ReadableSpan] = field(default_factory=list)

    def add_request(self, request: Row, calls: Sequence[Row]) -> None:
        """A request's span, and those of its waits and of its calls."""
        interval = request["submit_ns"], request["complete_ns"]
        disk = self.names.disk(request["pid"], request["device"])
        values = attributes.of_request(request, disk)
        parent = self._span(str(values[semconv.SCSI_OPERATION_NAME]), SpanKind.SERVER, request["pid"], interval, values)
        known = request["ending"] != Ending.LOST
        waits = self.threshold.waits(request, calls) if known else []
        for wait in waits:
            values = attributes.of_disk(disk)
            self._span(semconv.BLOCK_WAIT, SpanKind.INTERNAL, request["pid"], wait, values, parent)
        for call in calls:
            self._add_call(call, call["complete_ns"] or request["complete_ns"], parent)

    def add_orphan(self, call: Row) -> None:
        """A trace of one call; without an end, of no duration."""
        self._add_call(call, call["complete_ns"])

    def _add_call(self, call: Row, end_ns: int, parent: SpanContext | None = None) -> None:
        values = attributes.of_call(call, self.names.image(call["pid"], call["image"]))
        name = f"{semconv.RBD_SPAN_PREFIX}{values[semconv.RBD_OPERATION_NAME]}"
        self._span(name, SpanKind.CLIENT, call["pid"], (call["submit_ns"], end_ns), values, parent)

    def _span(
        self,
        name: str,
        kind: SpanKind,
        pid: int,
        interval: tuple[int, int],
        values: Values,
        parent: SpanContext | None = None,
    ) -> SpanContext:
        context = SpanContext(
            parent.trace_id if parent else self.ids.trace_id(),
            self.ids.span_id(),
            is_remote=False,
            trace_flags=_SAMPLED,
        )
        begin_ns, end_ns = interval
        self.spans.append(
            ReadableSpan(
                name,
                context,
                parent,
                self._resource(pid),
                values,
                kind=kind,
                status=_FAILURE if semconv.ERROR_TYPE in values else _SUCCESS,
                start_time=unix_ns(begin_ns + self.unix_offset_ns),
                end_time=unix_ns(max(begin_ns, end_ns) + self.unix_offset_ns),
                instrumentation_scope=_SCOPE,
            )
        )
        return context

    def _resource(self, pid: int) -> Resource:
        return self.resources.of(self.names.guest(pid))
