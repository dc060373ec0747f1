"""
Send whole traces to wherever the ``OTEL_*`` variables say, from a thread of its own.

In: the spans of whole traces.  Out: OTLP requests of whole traces, and a count of what became of every span.  Neither a
slow, a dead nor a lying endpoint delays the one who calls `TraceClient.send`, or ends the thread.
"""

import itertools
import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from otel_qemu.export import environment
from otel_qemu.export.exporters import Destination, destination
from otel_qemu.export.losses import LossReport
from otel_qemu.export.queue import Stats, Trace, TraceQueue

_GRACE_S = 0.5
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """
    Bounds of the queue and of the requests that leave it.

    Attributes:
        queue_spans: room for spans that wait or are on their way; about 2 KB of memory each.
        request_spans: spans a request, unless one trace has more.
        delay_s: how long traces may wait for others to fill a request.
    """

    queue_spans: int = 16_384
    request_spans: int = 512
    delay_s: float = 1.0

    @classmethod
    def from_environment(cls) -> Self:
        """
        Limits that the standard ``OTEL_BSP_*`` variables set; our defaults where they do not.

        Raises:
            BadInput: one is not a number, or out of range.
        """
        return cls(
            environment.number(cls.queue_spans, 1, environment.QUEUE_SPANS, int),
            environment.number(cls.request_spans, 1, environment.REQUEST_SPANS, int),
            environment.number(cls.delay_s * 1000, 0.0, environment.DELAY_MS, float) / 1000,
        )


class TraceClient:
    """
    Queues whole traces and sends them; `from_environment` makes the one that users configure.

    Args:
        target: where traces go.
        limits: of the queue and of the requests.
        warn_interval_s: the least time between two warnings about losses.
    """

    def __init__(self, target: Destination, limits: Limits | None = None, warn_interval_s: float = 60.0) -> None:
        self.target = target
        self._limits = limits or Limits()
        self._losses = LossReport(target.name, warn_interval_s)
        self._queue = TraceQueue(self._limits.queue_spans, None if target.exporter else "dropped_disabled")
        self._worker: threading.Thread | None = None
        if target.exporter:
            self._losses.start()
            self._worker = threading.Thread(target=self._work, args=(target.exporter,), name="export", daemon=True)
            self._worker.start()

    @classmethod
    def from_environment(cls) -> Self:
        """
        The client that the ``OTEL_*`` variables ask for.

        Raises:
            BadInput: a variable has a value that it must not have.
        """
        return cls(destination(), Limits.from_environment())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def stats(self) -> Stats:
        """What became of the spans so far."""
        return self._queue.stats

    def send(self, spans: Iterable[ReadableSpan]) -> None:
        """Queue the spans of whole traces, those of a trace side by side; never waits for the endpoint."""
        self._queue.put([list(trace) for _, trace in itertools.groupby(spans, _trace_id)])

    def flush(self, timeout_s: float) -> bool:
        """Send all that is queued now; whether it was done in time, however it went."""
        return self._queue.drain(timeout_s)

    def close(self, timeout_s: float = 5.0) -> Stats:
        """
        Send what can be sent in the time given, count the rest as lost, and stop; more calls do nothing.

        Returns:
            The final counts; nothing is queued any more.
        """
        worker, self._worker = self._worker, None
        if worker is None:
            return self.stats
        deadline_s = time.monotonic() + timeout_s
        grace_s = min(_GRACE_S, timeout_s / 4)
        self._queue.drain(timeout_s - grace_s)
        self._queue.close()
        # Aborts retries and gRPC calls; an HTTP request that waits for its answer is left to its own timeout.
        threading.Thread(target=self._shut_down, name="export-shutdown", daemon=True).start()
        worker.join(max(0.0, deadline_s - time.monotonic()))
        self._queue.abandon()
        self._losses.report(self.stats)
        return self.stats

    def _work(self, exporter: SpanExporter) -> None:
        limits = self._limits
        while (traces := self._queue.take(limits.request_spans, limits.delay_s, self._losses.interval_s)) is not None:
            if traces:
                self._queue.settle("sent" if _export(exporter, traces) else "dropped_failed")
            self._losses.report(self.stats)
        # Not in `close`: an export that it had to leave behind would still have its say in everybody's log.
        self._losses.stop()

    def _shut_down(self) -> None:
        try:
            if self.target.exporter:
                self.target.exporter.shutdown()
        except Exception as error:
            _logger.debug("closing the exporter: %s", error)


def _trace_id(span: ReadableSpan) -> int:
    return span.context.trace_id if span.context else 0


def _export(exporter: SpanExporter, traces: Iterable[Trace]) -> bool:
    """Whether the endpoint took them; an exporter that raises has not sent them."""
    try:
        result = exporter.export(list(itertools.chain.from_iterable(traces)))
    except Exception as error:
        logging.getLogger("opentelemetry.exporter").warning("%s: %s", type(error).__name__, error)
        return False
    return result is SpanExportResult.SUCCESS
