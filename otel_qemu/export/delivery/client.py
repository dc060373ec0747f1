"""
Send whole traces to wherever the ``OTEL_*`` variables say, from a thread of its own.

In: encoded traces.  Out: OTLP requests of whole traces, and a count of what became of every one.  Neither a slow, a
dead nor a lying endpoint delays the one who calls `TraceClient.send`, or ends the thread.
"""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from otel_qemu.export.delivery.limits import Limits
from otel_qemu.export.delivery.losses import LossReport
from otel_qemu.export.delivery.portions import Bounds
from otel_qemu.export.delivery.queue import TraceQueue
from otel_qemu.export.delivery.sender import Sender
from otel_qemu.export.delivery.spool import Spool
from otel_qemu.export.delivery.spooler import Spooler
from otel_qemu.export.delivery.stats import Ledger, Stats
from otel_qemu.export.spans.encoded import SCOPE, EncodedTrace
from otel_qemu.export.transport.answer import Transport, abandon
from otel_qemu.export.transport.backoff import Backoff
from otel_qemu.export.transport.destination import Destination, destination
from otel_qemu.export.transport.endpoint import Signal

SPOOL_BYTES = 256 << 20
_GRACE_S = 1.0

OnSent = Callable[[Sequence[EncodedTrace]], None]


class TraceClient:
    """
    Queues whole traces and sends them; `from_environment` makes the one that users configure.

    Args:
        target: where traces go.
        limits: of the queue and of the requests.
        on_sent: called, by the sending thread, with the traces of each request that the endpoint took as a whole.
        spool_directory: where traces are kept that memory has no room for or that are left at the close.
            None: nowhere.
        spool_bytes: the most that they may take there.
        scope: a serialised ``ScopeSpans`` without spans.
        warn_interval_s: the least time between two warnings about losses.

    Raises:
        BadInput: the spool's directory cannot be used.
    """

    def __init__(
        self,
        target: Destination,
        limits: Limits | None = None,
        on_sent: OnSent | None = None,
        spool_directory: Path | None = None,
        spool_bytes: int = SPOOL_BYTES,
        scope: bytes = SCOPE,
        warn_interval_s: float = 60.0,
    ) -> None:
        self.target = target
        self.on_sent = on_sent
        """May be set later."""
        self._limits = limits or Limits()
        self._ledger = Ledger()
        self._losses = LossReport(target.name, warn_interval_s)
        self._queue = TraceQueue(self._limits.queue, self._ledger, None if target.transport else "dropped_disabled")
        self._spooler: Spooler | None = None
        self._threads: list[threading.Thread] = []
        if target.transport:
            spool = Spool(spool_directory, spool_bytes, self._ledger) if spool_directory else None
            self._start(self._sender(target.transport, scope, spool), spool)

    @classmethod
    def from_environment(
        cls, limits: Limits | None = None, spool_directory: Path | None = None, spool_bytes: int = SPOOL_BYTES
    ) -> Self:
        """
        The client that the ``OTEL_*`` variables ask for; by default within the limits that they set.

        Raises:
            BadInput: a variable has a value that it must not have.
        """
        return cls(destination(Signal.TRACES), limits or Limits.from_environment(), None, spool_directory, spool_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def stats(self) -> Stats:
        """What became of the spans so far."""
        return self._ledger.stats

    @property
    def portion(self) -> Bounds:
        """As much as finds room when nothing else waits."""
        return self._limits.portion

    def send(self, traces: Sequence[EncodedTrace]) -> None:
        """Queue whole traces; never waits for the endpoint or a disk, and never raises for either."""
        self._queue.put(traces, self._limits.delay_s)

    def flush(self, timeout_s: float) -> bool:
        """Send all that is queued now; whether it was done in time, however it went."""
        return self._queue.drain(timeout_s)

    def close(self, timeout_s: float = 5.0) -> Stats:
        """
        Send what can be sent in the time given, spool or count the rest, and stop; more calls do nothing.

        Returns:
            The final counts; nothing is queued any more.
        """
        threads, self._threads = self._threads, []
        if not threads:
            return self.stats
        deadline_s = time.monotonic() + timeout_s
        grace_s = min(_GRACE_S, timeout_s / 4)
        self._queue.drain(timeout_s - grace_s)
        self._queue.close()
        if self.target.transport:
            abandon(self.target.transport)
        _join(threads, deadline_s - grace_s / 2)
        self._queue.recall()
        if self._spooler:
            _join([_start(self._spooler.finish, "export-rest")], deadline_s)
        self._queue.abandon()
        self._losses.report(self.stats)
        return self.stats

    def _sender(self, transport: Transport, scope: bytes, spool: Spool | None) -> Sender:
        limits = self._limits
        return Sender(
            transport, scope, limits.request, self._queue, spool, self._ledger, self._losses,
            Backoff(limits.first_pause_s, limits.longest_pause_s), self._tell,
        )  # fmt: skip

    def _start(self, sender: Sender, spool: Spool | None) -> None:
        self._threads.append(_start(sender.run, "export"))
        if spool:
            self._spooler = Spooler(self._queue, spool, self._losses)
            self._threads.append(_start(self._spooler.run, "export-spool"))

    def _tell(self, traces: Sequence[EncodedTrace]) -> None:
        if self.on_sent:
            self.on_sent(traces)


def _start(work: Callable[[], None], name: str) -> threading.Thread:
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread


def _join(threads: Sequence[threading.Thread], deadline_s: float) -> None:
    for thread in threads:
        thread.join(max(0.0, deadline_s - time.monotonic()))
