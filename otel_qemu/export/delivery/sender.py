# SPDX-License-Identifier: Apache-2.0
"""
What the sending thread does: it makes requests of the queue's traces and sends them, until the queue is closed.

Every trace that it takes has a fate afterwards, or waits again; nothing that the endpoint or a hook does ends it.
"""

import logging
import time
from collections.abc import Callable, Sequence

from otel_qemu.export.delivery.fates import Fate
from otel_qemu.export.delivery.limits import Limits
from otel_qemu.export.delivery.losses import LossReport
from otel_qemu.export.delivery.queue import TraceQueue
from otel_qemu.export.spans.encoded import EncodedTrace, request_of
from otel_qemu.export.text import printable
from otel_qemu.export.transport.answer import Answer, Outcome, Transport
from otel_qemu.export.transport.backoff import Backoff

OnSent = Callable[[Sequence[EncodedTrace]], None]

LEAST_REQUEST_BYTES = 1 << 16
"""Requests are not made smaller than this because one was too large."""
_FATES = {Outcome.SENT: Fate.SENT, Outcome.REFUSED: Fate.REFUSED, Outcome.TOO_LARGE: Fate.REFUSED}
log = logging.getLogger(__name__)


class Sender:
    """
    Takes traces, tries to send them, settles them.

    Args:
        transport: to the endpoint.
        limits: of requests, and of the pauses between tries.
        queue: where traces come from, and where their fates are entered.
        losses: learns whether requests are taken.
        on_sent: called with the traces of each request that the endpoint took as a whole.
    """

    def __init__(
        self, transport: Transport, limits: Limits, queue: TraceQueue, losses: LossReport, on_sent: OnSent | None
    ) -> None:
        self._transport = transport
        self._request = limits.request
        self._backoff = Backoff(limits.first_pause_s, limits.longest_pause_s)
        self._queue = queue
        self._losses = losses
        self._on_sent = on_sent

    def run(self) -> None:
        """Send until the queue is closed."""
        while not self._queue.is_closed:
            try:
                self._turn()
            except Exception:  # a defect, but no reason to stop sending
                log.exception("sending traces has failed")
                self._queue.recall()
                self._pause(None)

    def _turn(self) -> None:
        if traces := self._queue.take(self._request, self._losses.interval_s):
            self._deliver(traces)
        self._losses.report()

    def _deliver(self, traces: Sequence[EncodedTrace]) -> None:
        answer, fate = self._try(traces)
        if answer.outcome is Outcome.TOO_LARGE and len(traces) > 1:
            middle = len(traces) // 2
            self._deliver(traces[:middle])
            self._deliver(traces[middle:])
            return
        self._losses.note(answer)
        if fate is None:
            self._queue.put_back(len(traces))
            self._pause(answer.retry_after_s)
            return
        settled = self._queue.settle(len(traces), fate, answer.rejected)
        if answer.outcome is Outcome.SENT:
            self._backoff.reset()
            if settled and not answer.rejected:
                self._announce(settled)

    def _try(self, traces: Sequence[EncodedTrace]) -> tuple[Answer, Fate | None]:
        """The endpoint's answer to a request of these traces, and their fate by it; None: they wait again."""
        if self._queue.is_closed:
            return Answer(Outcome.RETRY, "it is being closed"), None
        try:
            body = request_of(traces)
            answer = self._transport.send(body)
        except Exception as error:  # of ours, or of a library that was not to raise
            return Answer(Outcome.REFUSED, printable(f"{type(error).__name__}: {error}")), Fate.FAILED
        if answer.outcome is Outcome.TOO_LARGE:
            self._request = self._request._replace(bytes=max(len(body) // 2, LEAST_REQUEST_BYTES))
        return answer, _FATES.get(answer.outcome)

    def _pause(self, asked_s: float | None) -> None:
        """Leave the endpoint alone; a `flush` or the close tries once more at once, unless it asked for the pause."""
        end_s = time.monotonic() + self._backoff.next_s(asked_s)
        while not self._queue.is_closed and (left_s := end_s - time.monotonic()) > 0:
            self._losses.report()
            if self._queue.pause(min(left_s, self._losses.interval_s)) and asked_s is None:
                self._backoff.reset()
                return

    def _announce(self, traces: Sequence[EncodedTrace]) -> None:
        try:
            if self._on_sent:
                self._on_sent(traces)
        except Exception:
            log.exception("the hook for traces that were sent has failed")
