"""
What the sending thread does: requests out of the queue, or out of the spool when the queue is idle, until it is closed.

Every trace that it takes has a fate afterwards, or waits again; nothing that the endpoint or a hook does ends it.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from otel_qemu.export.delivery.losses import LossReport
from otel_qemu.export.delivery.portions import Bounds
from otel_qemu.export.delivery.queue import TraceQueue
from otel_qemu.export.delivery.spool import Spool
from otel_qemu.export.delivery.stats import Ledger
from otel_qemu.export.spans.encoded import EncodedTrace, request_of
from otel_qemu.export.text import printable
from otel_qemu.export.transport.answer import Answer, Outcome, Transport
from otel_qemu.export.transport.backoff import Backoff

LEAST_REQUEST_BYTES = 1 << 16
"""Requests are not made smaller than this because one was too large."""
_FATES = {Outcome.SENT: "sent", Outcome.REFUSED: "dropped_refused", Outcome.TOO_LARGE: "dropped_refused"}
_logger = logging.getLogger(__name__)


class Source(Protocol):
    """Where traces come from: the queue or the spool; the first of those that it gave out are spoken of."""

    def settle(self, count: int, fate: str, rejected_spans: int = 0) -> Sequence[EncodedTrace]:
        """Say what became of them."""

    def put_back(self, count: int) -> None:
        """Let them wait again, behind others."""


class Sender:
    """
    Takes, tries, settles.

    Args:
        transport: to the endpoint.
        scope: a serialised ``ScopeSpans`` without spans.
        request: bounds of a request.
        queue, spool: where traces come from.
        ledger: where their fates are entered.
        losses: told how it goes.
        backoff: between tries.
        on_sent: called with traces that the endpoint has taken, all of a request's or none.
    """

    def __init__(
        self,
        transport: Transport,
        scope: bytes,
        request: Bounds,
        queue: TraceQueue,
        spool: Spool | None,
        ledger: Ledger,
        losses: LossReport,
        backoff: Backoff,
        on_sent: Callable[[Sequence[EncodedTrace]], None],
    ) -> None:
        self._transport = transport
        self._scope = scope
        self._request = request
        self._queue = queue
        self._spool = spool
        self._ledger = ledger
        self._losses = losses
        self._backoff = backoff
        self._on_sent = on_sent

    def run(self) -> None:
        """Send until the queue is closed."""
        while not self._queue.is_closed:
            try:
                self._turn()
            except Exception:  # a defect, but no reason to send nothing any more
                _logger.exception("sending traces has failed")
                self._queue.recall()
                self._pause(None)

    def _turn(self) -> None:
        backlog = self._backlog()
        traces = backlog or self._queue.take(self._request, len(self._scope), self._losses.interval_s)
        if backlog and self._spool:
            self._deliver(self._spool, backlog)
            self._queue.wake()  # the disk's thread may have a file to read
        elif traces:
            self._deliver(self._queue, traces)
        self._losses.report(self._ledger.stats)

    def _backlog(self) -> list[EncodedTrace]:
        """A request out of the spool, if the queue has none that is due."""
        if self._spool is None or self._queue.is_due(self._request):
            return []
        return self._spool.peek(self._request, len(self._scope))

    def _deliver(self, source: Source, traces: Sequence[EncodedTrace]) -> None:
        answer, fate = self._try(traces)
        if answer.outcome is Outcome.TOO_LARGE and len(traces) > 1:
            middle = len(traces) // 2
            self._deliver(source, traces[:middle])
            self._deliver(source, traces[middle:])
        elif answer.outcome is Outcome.RETRY:
            source.put_back(len(traces))
            self._losses.failing(answer.reason)
            self._pause(answer.retry_after_s)
        else:
            self._note(answer)
            settled = source.settle(len(traces), fate, answer.rejected)
            if answer.outcome is Outcome.SENT and not answer.rejected and settled:
                self._tell(settled)

    def _try(self, traces: Sequence[EncodedTrace]) -> tuple[Answer, str]:
        """What the endpoint says to a request of these traces, and the fate that this means for them."""
        if self._queue.is_closed:
            return Answer(Outcome.RETRY, "it is being closed"), ""
        try:
            body = request_of(traces, self._scope)
            answer = self._transport.send(body)
        except Exception as error:  # of ours, or of a library that was not to raise
            return Answer(Outcome.REFUSED, printable(f"{type(error).__name__}: {error}")), "dropped_failed"
        if answer.outcome is Outcome.TOO_LARGE:
            self._request = self._request._replace(bytes=max(len(body) // 2, LEAST_REQUEST_BYTES))
        return answer, _FATES.get(answer.outcome, "")

    def _note(self, answer: Answer) -> None:
        if answer.outcome is Outcome.SENT:
            self._backoff.reset()
            self._losses.working(f"rejected: {answer.reason}" if answer.rejected else "")
        else:
            self._losses.failing(answer.reason)

    def _pause(self, asked_s: float | None) -> None:
        """Leave the endpoint alone; a `flush` or the close tries once more at once, unless it asked for the pause."""
        end_s = time.monotonic() + self._backoff.next_s(asked_s)
        while not self._queue.is_closed and (left_s := end_s - time.monotonic()) > 0:
            self._losses.report(self._ledger.stats)
            if self._queue.pause(min(left_s, self._losses.interval_s)) and asked_s is None:
                self._backoff.reset()
                return

    def _tell(self, traces: Sequence[EncodedTrace]) -> None:
        try:
            self._on_sent(traces)
        except Exception:
            _logger.exception("what was to be done with traces that were sent has failed")
