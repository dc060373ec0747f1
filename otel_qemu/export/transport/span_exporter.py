# SPDX-License-Identifier: Apache-2.0
"""Requests to an exporter of spans that is installed, as if it were an endpoint."""

import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from otel_qemu.export.text import printable, without_queries
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
        self._answer: Future[Answer] | None = None

    def send(self, body: bytes) -> Answer:
        """Export the spans of a serialised request, and wait for the results no longer than the timeout."""
        if self._answer and not self._answer.done():
            return Answer(Outcome.RETRY, "the exporter has not come back from an earlier request")
        guests = list(readable_spans(body))
        self._answer = Future()
        # In a thread of its own: an exporter that hangs holds up nothing else, not even the end of the process.
        threading.Thread(target=self._export, args=(self._answer, guests), name="export-spans", daemon=True).start()
        try:
            return self._answer.result(self._timeout_s)
        except (TimeoutError, CancelledError):
            return Answer(Outcome.RETRY, f"the exporter has given no result in {self._timeout_s:g} s")

    def close(self) -> None:
        """Shut the exporter down; a `send` that waits for it waits no longer."""
        if self._answer:
            self._answer.cancel()
        self._exporter.shutdown()

    def _export(self, answer: Future[Answer], guests: Sequence[Sequence[ReadableSpan]]) -> None:
        """Export the spans of one guest after the other."""
        refused, reason = 0, ""
        for spans in guests:
            if failure := self._failure(spans):
                refused, reason = refused + len(spans), failure
        if answer.set_running_or_notify_cancel():  # only now: until there is an answer, `close` may cancel it
            all_refused = refused == sum(map(len, guests))
            answer.set_result(Answer(Outcome.REFUSED, reason) if all_refused else Answer(Outcome.SENT, reason, refused))

    def _failure(self, spans: Sequence[ReadableSpan]) -> str:
        with logged() as reasons:
            try:
                if self._exporter.export(spans) is SpanExportResult.SUCCESS:
                    return ""
            except (Exception, SystemExit) as error:  # the exporter's, whatever it is
                return printable(without_queries(f"{type(error).__name__}: {error}"))
        return reasons[-1] if reasons else "the exporter has failed, and gives no reason"


def open_span_exporter(name: str) -> SpanExporterTransport:
    """
    A transport to the installed exporter of this name.

    Raises:
        BadInput: there is none, or it exports no spans; or a variable has a value that it must not have.
    """
    timeout_s = environment.number(_DEFAULT_TIMEOUT_MS, 1, environment.EXPORT_TIMEOUT_MS, int) / 1000
    return SpanExporterTransport(load(Signal.TRACES, name, SpanExporter), timeout_s)
