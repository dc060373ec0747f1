# SPDX-License-Identifier: Apache-2.0
"""
A bounded queue of whole traces, between one thread that makes them and one that sends them.

In: traces, at any rate.  Out: as many as one request holds.  Traces on their way still take room, and can come back.
"""

import threading
import time
from collections.abc import Sequence

from otel_qemu.export.delivery.batching import Capacity, TraceBuffer, count_leading, room_bytes
from otel_qemu.export.delivery.fates import Fate, Ledger, Tally, tally_of
from otel_qemu.export.spans.encoded import EncodedTrace


class TraceQueue:
    """
    Whole traces that wait, oldest first, and those on their way.

    Args:
        capacity: room for both; traces that do not fit are dropped.
        ledger: where every fate is entered.
        closed_as: the fate of traces that come while the queue is closed; `Fate.DISABLED` makes a queue that is
            closed from the beginning.
    """

    def __init__(self, capacity: Capacity, ledger: Ledger, closed_as: Fate | None = None) -> None:
        self._capacity = capacity
        self._ledger = ledger
        self._closed_as = closed_as
        self._waiting = TraceBuffer()
        self._taken = TraceBuffer()
        self._due_s = 0.0
        self._flushes = self._flushes_begun = 0
        self._changed = threading.Condition()

    @property
    def is_closed(self) -> bool:
        """Whether it takes no more traces."""
        return self._closed_as is not None

    def put(self, traces: Sequence[EncodedTrace], delay_s: float = 0.0) -> None:
        """
        Queue traces; those without room are dropped and counted.  Never waits for the other thread's work.

        Args:
            traces: in the order in which they are to be sent.
            delay_s: how long the first may wait for others to fill a request.
        """
        with self._changed:
            admitted, dropped = self._split(traces)
            if not self._waiting:
                self._due_s = time.monotonic() + delay_s
            self._waiting.extend(admitted)
            self._ledger.enter(tally_of(admitted), Fate.WAITING)
            self._ledger.enter(tally_of(dropped), self._closed_as or Fate.QUEUE_FULL)
            self._changed.notify_all()

    def take(self, request: Capacity, timeout_s: float) -> list[EncodedTrace] | None:
        """
        Take as many traces as one request holds, or a single larger one; they are on their way until they are settled.

        Returns:
            The traces; none at the timeout.  None: the queue is closed.
        """
        end_s = time.monotonic() + timeout_s
        with self._changed:
            while not self.is_closed and not self._is_due(request) and (now_s := time.monotonic()) < end_s:
                self._changed.wait(min(end_s, self._due_s if self._waiting else end_s) - now_s)
            if self.is_closed:
                return None
            taken = self._waiting.pop(count_leading(self._waiting, request) if self._is_due(request) else 0)
            self._taken.extend(taken)
            return taken

    def settle(self, count: int, fate: Fate, rejected_spans: int = 0) -> Sequence[EncodedTrace]:
        """
        Enter what became of the first traces on their way.

        Args:
            count: of traces.
            fate: theirs.
            rejected_spans: how many of their spans were rejected instead; the answer does not say which.

        Returns:
            Those that are settled by this; none if the queue has already been abandoned.
        """
        with self._changed:
            settled = self._release(count)
            of_all = tally_of(settled)
            spans = min(rejected_spans, of_all.spans)
            rejected = Tally(spans, len(settled) if 0 < spans == of_all.spans else min(spans, len(settled)))
            self._ledger.enter(rejected, Fate.REJECTED, Fate.WAITING)
            self._ledger.enter(of_all.plus(rejected, -1), fate, Fate.WAITING)
            return settled

    def put_back(self, count: int) -> None:
        """
        Let the first traces on their way wait again, behind all others.

        Behind: should the endpoint be unable to take just these, the others still get through.
        """
        with self._changed:
            self._waiting.extend(self._release(count))

    def recall(self) -> None:
        """Let all traces on their way wait again; a later `settle` of them changes nothing."""
        self.put_back(len(self._taken))

    def pause(self, delay_s: float) -> bool:
        """Wait, but not into a close or a new `flush`; whether one of them cut it short."""
        with self._changed:
            begun = self._flushes_begun
            return self._changed.wait_for(lambda: self.is_closed or self._flushes_begun != begun, delay_s)

    def flush(self, timeout_s: float) -> bool:
        """Have everything sent without delay, and wait for it; whether nothing is left."""
        with self._changed:
            self._flushes += 1
            self._flushes_begun += 1
            self._changed.notify_all()
            empty = self._changed.wait_for(lambda: not self._waiting and not self._taken, timeout_s)
            self._flushes -= 1
            return empty

    def close(self) -> None:
        """Take no more traces and give none to send; what waits stays until `abandon`."""
        with self._changed:
            self._closed_as = self._closed_as or Fate.AT_CLOSE
            self._changed.notify_all()

    def abandon(self) -> None:
        """Count all that is left, and all on its way, as lost at the close."""
        with self._changed:
            left = [*self._release(len(self._taken)), *self._waiting.pop(len(self._waiting))]
            self._ledger.enter(tally_of(left), Fate.AT_CLOSE, Fate.WAITING)

    def _is_due(self, request: Capacity) -> bool:
        """Whether a request is full, or its first trace has waited long enough."""
        return len(self._waiting) > 0 and (
            self._flushes > 0
            or self._waiting.spans >= request.spans
            or self._waiting.bytes >= request.bytes
            or time.monotonic() >= self._due_s
        )

    def _split(self, traces: Sequence[EncodedTrace]) -> tuple[list[EncodedTrace], list[EncodedTrace]]:
        """The traces that there is room for, and the others."""
        free_spans = self._capacity.spans - self._waiting.spans - self._taken.spans
        free_bytes = self._capacity.bytes - self._waiting.bytes - self._taken.bytes
        admitted: list[EncodedTrace] = []
        dropped: list[EncodedTrace] = []
        for trace in traces:
            needed_bytes = room_bytes(trace)
            if self.is_closed or trace.span_count > free_spans or needed_bytes > free_bytes:
                dropped.append(trace)
                continue
            free_spans -= trace.span_count
            free_bytes -= needed_bytes
            admitted.append(trace)
        return admitted, dropped

    def _release(self, count: int) -> list[EncodedTrace]:
        self._changed.notify_all()
        return self._taken.pop(count)
