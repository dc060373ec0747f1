"""Requests to an exporter of spans that is installed, as if it were an endpoint."""

import threading
from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from otel_qemu.errors import BadInput
from otel_qemu.export.text import printable
from otel_qemu.export.transport import environment
from otel_qemu.export.transport.answer import Answer, Outcome
from otel_qemu.export.transport.endpoint import Signal
from otel_qemu.export.transport.installed import load
from otel_qemu.export.transport.readable import readable_spans
from otel_qemu.export.transport.sdk_log import logged

_DEFAULT_TIMEOUT_MS = 30_000


class SpanExporterTransport:
    """
    Gives an exporter the spans of each request, guest by guest: an exporter may take all it gets for one resource's.

    A guest's spans are sent or refused by the exporter's result.  An exporter that gives none in time is away: the
    request is tried again once it is back, and may then arrive twice, as with any endpoint that does not answer.

    Args:
        exporter: is never called twice at once.
        timeout_s: for each request.
    """

    def __init__(self, exporter: SpanExporter, timeout_s: float) -> None:
        self._exporter = exporter
        self._timeout_s = timeout_s
        self._export: _Export | None = None

    def send(self, body: bytes) -> Answer:
        """Export the spans of a serialised request, and wait for the results no longer than the timeout."""
        if self._export and self._export.is_alive():
            return Answer(Outcome.RETRY, "the exporter has not come back from an earlier request")
        self._export = _Export(self._exporter, list(readable_spans(body)))
        self._export.start()
        self._export.ended.wait(self._timeout_s)
        late = Answer(Outcome.RETRY, f"the exporter has given no result in {self._timeout_s:g} s")
        return self._export.answer or late

    def close(self) -> None:
        """Shut the exporter down; a `send` that waits for it waits no longer."""
        if self._export:
            self._export.ended.set()
        self._exporter.shutdown()


class _Export(threading.Thread):
    """
    One request, in a thread of its own: an exporter that hangs holds up nothing else, not even the end of the process.

    Attributes:
        answer: by the exporter's results; None: it has not given all of them.
        ended: set when there is an answer, or nobody waits for it any more.
    """

    def __init__(self, exporter: SpanExporter, guests: Sequence[Sequence[ReadableSpan]]) -> None:
        super().__init__(name="export-spans", daemon=True)
        self.answer: Answer | None = None
        self.ended = threading.Event()
        self._exporter = exporter
        self._guests = guests

    def run(self) -> None:
        """Export the spans of one guest after the other."""
        refused, reason = 0, ""
        for spans in self._guests:
            if failure := self._failure(spans):
                refused, reason = refused + len(spans), failure
        all_refused = refused == sum(map(len, self._guests))
        self.answer = Answer(Outcome.REFUSED, reason) if all_refused else Answer(Outcome.SENT, reason, refused)
        self.ended.set()

    def _failure(self, spans: Sequence[ReadableSpan]) -> str:
        with logged() as reasons:
            try:
                if self._exporter.export(spans) is SpanExportResult.SUCCESS:
                    return ""
            except Exception as error:  # the exporter's, whatever it is
                return printable(f"{type(error).__name__}: {error}")
        return reasons[-1] if reasons else "the exporter has failed, and gives no reason"


def open_span_exporter(name: str) -> SpanExporterTransport:
    """
    A transport to the installed exporter of this name.

    Raises:
        BadInput: there is none, or it exports no spans; or a variable has a value that it must not have.
    """
    timeout_s = environment.number(_DEFAULT_TIMEOUT_MS, 1, environment.EXPORT_TIMEOUT_MS, int) / 1000
    exporter = load(Signal.TRACES, name)
    if not isinstance(exporter, SpanExporter):
        raise BadInput(f"OTEL_TRACES_EXPORTER is {name!r}: what its package makes exports no spans, choose another one")
    return SpanExporterTransport(exporter, timeout_s)
