"""
A bounded queue of whole traces, between one thread that makes them and those that send or keep them.

In: traces, at any rate.  Out: portions for a request.  What is on its way still takes room, and can come back.
"""

import threading
import time
from collections.abc import Callable, Sequence

from otel_qemu.export.delivery.pile import Pile, room_bytes
from otel_qemu.export.delivery.portions import Bounds, count_leading
from otel_qemu.export.delivery.stats import Ledger
from otel_qemu.export.spans.encoded import EncodedTrace


class TraceQueue:
    """
    Whole traces that wait, oldest first, and those on their way.

    Args:
        most: room, counting what is on its way; traces that do not fit are dropped.
        ledger: where every fate is entered.
        closed_as: the fate of traces that come while the queue is closed; ``dropped_disabled`` makes one that is
            closed from the beginning.
    """

    def __init__(self, most: Bounds, ledger: Ledger, closed_as: str | None = None) -> None:
        self._most = most
        self._ledger = ledger
        self._closed_as = closed_as
        self._waiting = Pile()
        self._taken = Pile()
        self._due_s = 0.0
        self._hurries = self._drains = 0
        self._woken = False
        self._changed = threading.Condition()

    @property
    def is_closed(self) -> bool:
        """Whether it takes no more traces."""
        return self._closed_as is not None

    def put(self, traces: Sequence[EncodedTrace], delay_s: float = 0.0) -> None:
        """
        Queue traces; those for which there is no room are dropped and counted.  Never waits for the other threads.

        Args:
            traces: in the order in which they are to be sent.
            delay_s: how long the first may wait for others to fill a request.
        """
        with self._changed:
            admitted, refused = self._split(traces)
            if admitted and not self._waiting:
                self._due_s = time.monotonic() + delay_s
            self._waiting.extend(admitted)
            self._ledger.move(admitted, "queued")
            self._ledger.move(refused, self._closed_as or "dropped_queue_full")
            self._changed.notify_all()

    def is_due(self, request: Bounds) -> bool:
        """Whether a request is full, or its first trace has waited long enough."""
        return len(self._waiting) > 0 and (
            self._hurries > 0
            or self._waiting.spans >= request.spans
            or self._waiting.bytes >= request.bytes
            or time.monotonic() >= self._due_s
        )

    def take(self, request: Bounds, scope_bytes: int, timeout_s: float) -> list[EncodedTrace] | None:
        """
        Take a request's worth of traces, or a single larger one; they are on their way until they are settled.

        Returns:
            The traces; none at the timeout, or after `wake`.  None: the queue is closed.
        """
        with self._changed:
            self._wait(lambda: self.is_closed or self._woken or self.is_due(request), time.monotonic() + timeout_s)
            self._woken = False
            if self.is_closed:
                return None
            if not self.is_due(request):
                return []
            taken = self._waiting.pop(count_leading(self._waiting, request, scope_bytes))
            self._taken.extend(taken)
            return taken

    def wake(self) -> None:
        """Let `take` end, the one that waits or the next, and `shed` ask again: something has changed elsewhere."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def settle(self, count: int, fate: str, rejected_spans: int = 0) -> Sequence[EncodedTrace]:
        """
        Say what became of the first of the traces on their way.

        Args:
            count: of traces.
            fate: theirs.
            rejected_spans: so many of them were rejected instead.

        Returns:
            Those that are settled by this; none if the queue has already been abandoned.
        """
        with self._changed:
            settled = self._release(count)
            settle(self._ledger, settled, fate, "queued", rejected_spans)
            return settled

    def put_back(self, count: int) -> None:
        """
        Let the first of the traces on their way wait again, behind all others.

        Behind: should the endpoint be unable to take just these, the others still get through.
        """
        with self._changed:
            self._waiting.extend(self._release(count))

    def shed(
        self, portion: Bounds, timeout_s: float, wanted: Callable[[], bool] = lambda: False
    ) -> list[EncodedTrace] | None:
        """
        Take the oldest out for the spool, once more than half of the room is taken by traces that wait.

        Args:
            portion: how much at a time.
            timeout_s: how long to wait for it.
            wanted: whether not to wait; asked again after each `wake`.

        Returns:
            The traces, entered as ``spooled``; none if there is no need.  None: the queue is closed.
        """
        with self._changed:
            self._wait(lambda: self.is_closed or self._is_half_full() or wanted(), time.monotonic() + timeout_s)
            if self.is_closed:
                return None
            return self._spooled(portion) if self._is_half_full() else []

    def rest(self, portion: Bounds) -> list[EncodedTrace]:
        """Take the oldest out for the spool, whatever room they take, entered as ``spooled``."""
        with self._changed:
            return self._spooled(portion)

    def pause(self, delay_s: float) -> bool:
        """Wait, but not into a close or a new `drain`; whether that cut it short."""
        with self._changed:
            drains = self._drains
            return self._changed.wait_for(lambda: self.is_closed or self._drains != drains, delay_s)

    def drain(self, timeout_s: float) -> bool:
        """Have everything sent without delay, and wait for it; whether nothing is left."""
        with self._changed:
            self._hurries += 1
            self._drains += 1
            self._changed.notify_all()
            empty = self._changed.wait_for(lambda: not self._waiting and not self._taken, timeout_s)
            self._hurries -= 1
            return empty

    def close(self) -> None:
        """Take no more traces and give none to send; what waits stays until `rest` or `abandon`."""
        with self._changed:
            self._closed_as = self._closed_as or "dropped_at_close"
            self._changed.notify_all()

    def recall(self) -> None:
        """Let everything on its way wait again; whatever becomes of it counts no more."""
        self.put_back(len(self._taken))

    def abandon(self) -> None:
        """Count all that is left as lost at the close."""
        with self._changed:
            self._ledger.move([*self._release(len(self._taken)), *self._waiting.pop(len(self._waiting))],
                              "dropped_at_close", "queued")  # fmt: skip

    def _wait(self, condition: Callable[[], bool], deadline_s: float) -> None:
        """Until it is so; time itself may make it so when the first trace becomes due."""
        while not condition() and (left_s := deadline_s - time.monotonic()) > 0:
            due_s = self._due_s - time.monotonic()
            self._changed.wait(min(left_s, due_s) if self._waiting and due_s > 0 else left_s)

    def _is_half_full(self) -> bool:
        return self._waiting.spans * 2 > self._most.spans or self._waiting.bytes * 2 > self._most.bytes

    def _split(self, traces: Sequence[EncodedTrace]) -> tuple[list[EncodedTrace], list[EncodedTrace]]:
        """The traces that there is room for, and the others."""
        spans = self._most.spans - self._waiting.spans - self._taken.spans
        free_bytes = self._most.bytes - self._waiting.bytes - self._taken.bytes
        admitted: list[EncodedTrace] = []
        refused: list[EncodedTrace] = []
        for trace in traces:
            needed_bytes = room_bytes(trace)
            if self.is_closed or trace.span_count > spans or needed_bytes > free_bytes:
                refused.append(trace)
                continue
            spans -= trace.span_count
            free_bytes -= needed_bytes
            admitted.append(trace)
        return admitted, refused

    def _spooled(self, portion: Bounds) -> list[EncodedTrace]:
        popped = self._waiting.pop(count_leading(self._waiting, portion))
        self._ledger.move(popped, "spooled", "queued")
        self._changed.notify_all()
        return popped

    def _release(self, count: int) -> list[EncodedTrace]:
        self._changed.notify_all()
        return self._taken.pop(count)


def settle(ledger: Ledger, traces: Sequence[EncodedTrace], fate: str, out_of: str, rejected_spans: int = 0) -> None:
    """Enter what became of traces that were tried, some of their spans rejected: an answer does not say which."""
    spans = sum(trace.span_count for trace in traces)
    rejected = min(rejected_spans, spans)
    hurt = len(traces) if 0 < rejected == spans else min(rejected, len(traces))
    ledger.move_counts(rejected, hurt, "rejected", out_of)
    ledger.move_counts(spans - rejected, len(traces) - hurt, fate, out_of)
