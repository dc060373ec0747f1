# SPDX-License-Identifier: Apache-2.0
"""
Send whole traces to wherever the ``OTEL_*`` variables say, from a thread of its own.

In: encoded traces.  Out: OTLP requests of whole traces, and a count of what became of every one.  An endpoint that is
slow, dead or wrong neither delays the caller of `TraceClient.send` nor ends the thread.
"""

import threading
import time
from collections.abc import Sequence
from typing import Self

from otel_qemu.export.delivery.batching import Capacity
from otel_qemu.export.delivery.fates import Fate, Ledger, Stats
from otel_qemu.export.delivery.limits import Limits
from otel_qemu.export.delivery.losses import LossReport
from otel_qemu.export.delivery.queue import TraceQueue
from otel_qemu.export.delivery.sender import OnSent, Sender
from otel_qemu.export.spans.encoded import EncodedTrace
from otel_qemu.export.transport.answer import abandon
from otel_qemu.export.transport.destination import Destination, destination

_GRACE_S = 1.0


class TraceClient:
    """
    Queues whole traces and sends them; `from_environment` makes the one that users configure.

    Args:
        target: where traces go.
        limits: of the queue and of the requests.
        ledger: where every fate is entered; by default one of its own.
        on_sent: called, by the sending thread, with the traces of each request that the endpoint took as a whole.
        warn_interval_s: the least time between two warnings about losses.
    """

    def __init__(
        self,
        target: Destination,
        limits: Limits | None = None,
        ledger: Ledger | None = None,
        on_sent: OnSent | None = None,
        warn_interval_s: float = 60.0,
    ) -> None:
        self.target = target
        self._limits = limits or Limits()
        self._ledger = ledger or Ledger()
        self._losses = LossReport(target.name, self._ledger, warn_interval_s)
        self._queue = TraceQueue(self._limits.queue, self._ledger, None if target.transport else Fate.DISABLED)
        self._thread: threading.Thread | None = None
        if target.transport:
            sender = Sender(target.transport, self._limits, self._queue, self._losses, on_sent)
            self._thread = threading.Thread(target=sender.run, name="export", daemon=True)
            self._thread.start()

    @classmethod
    def from_environment(cls, limits: Limits | None = None) -> Self:
        """
        The client that the ``OTEL_*`` variables ask for; by default within the limits that they set.

        Raises:
            BadInput: a variable has a value that it must not have.
        """
        return cls(destination(), limits or Limits.from_environment())

    @property
    def stats(self) -> Stats:
        """What became of the spans so far."""
        return self._ledger.stats

    @property
    def batch(self) -> Capacity:
        """As much as an empty queue has room for."""
        return self._limits.batch

    def send(self, traces: Sequence[EncodedTrace]) -> None:
        """Queue whole traces; never waits for the endpoint, and never raises for it."""
        self._queue.put(traces, self._limits.delay_s)

    def flush(self, timeout_s: float) -> bool:
        """Send all that is queued now; whether it was done in time, whatever became of it."""
        return self._queue.flush(timeout_s)

    def close(self, timeout_s: float = 5.0) -> Stats:
        """
        Send what can be sent in the time given, count the rest as lost, and stop; more calls do nothing.

        Returns:
            The final counts; nothing waits any more.
        """
        thread, self._thread = self._thread, None
        if thread is None or self.target.transport is None:
            return self.stats
        deadline_s = time.monotonic() + timeout_s
        self._queue.flush(timeout_s - min(_GRACE_S, timeout_s / 4))
        self._queue.close()
        for ending in (abandon(self.target.transport.close), thread):
            ending.join(max(0.0, deadline_s - time.monotonic()))
        self._queue.abandon()
        self._losses.report()
        return self.stats
