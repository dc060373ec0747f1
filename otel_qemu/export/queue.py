"""
A bounded queue of whole traces, and what became of every one.

Invariant, at every moment: produced = sent + dropped for each reason + queued, in spans and in traces.
"""

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from opentelemetry.sdk.trace import ReadableSpan

Trace = Sequence[ReadableSpan]
"""All spans of one trace."""


@dataclass(frozen=True)
class Stats:
    """
    What became of the spans and traces that were produced.

    Attributes:
        produced: given to `TraceClient.send`.
        sent: the endpoint has answered that it has them.
        dropped_queue_full: there was no room for them.
        dropped_failed: the endpoint could not be reached, or refused them.
        dropped_at_close: there was no time left to send them, or they came later still.
        dropped_disabled: export is off.
        queued: waiting, or on their way.
    """

    produced_spans: int = 0
    produced_traces: int = 0
    sent_spans: int = 0
    sent_traces: int = 0
    dropped_queue_full_spans: int = 0
    dropped_queue_full_traces: int = 0
    dropped_failed_spans: int = 0
    dropped_failed_traces: int = 0
    dropped_at_close_spans: int = 0
    dropped_at_close_traces: int = 0
    dropped_disabled_spans: int = 0
    dropped_disabled_traces: int = 0
    queued_spans: int = 0
    queued_traces: int = 0

    @property
    def lost_spans(self) -> int:
        """Spans that were to be sent and never will be."""
        return self.dropped_queue_full_spans + self.dropped_failed_spans + self.dropped_at_close_spans

    @property
    def lost_traces(self) -> int:
        """Traces that were to be sent and never will be."""
        return self.dropped_queue_full_traces + self.dropped_failed_traces + self.dropped_at_close_traces

    def moved(self, traces: Iterable[Trace], *, to: str, out_of: str | None = None) -> "Stats":
        """These counts after traces came to the fate `to`, out of another or, by default, new."""
        sizes = [len(trace) for trace in traces]
        changes = [(to, 1), (out_of or "produced", -1 if out_of else 1)]
        units = [("spans", sum(sizes)), ("traces", len(sizes))]
        fields = {f"{fate}_{unit}": sign * count for fate, sign in changes for unit, count in units}
        return replace(self, **{name: getattr(self, name) + change for name, change in fields.items()})


class TraceQueue:
    """
    Whole traces between one thread that makes them and one that sends them.

    Args:
        most_spans: room, counting what is on its way.
        closed_as: the fate of traces that come while the queue is closed; ``dropped_disabled`` makes one that is
            closed from the beginning.
    """

    def __init__(self, most_spans: int, closed_as: str | None = None) -> None:
        self._most_spans = most_spans
        self._closed_as = closed_as
        self._waiting: deque[Trace] = deque()
        self._taken: list[Trace] = []
        self._hurry = False
        self._stats = Stats()
        self._changed = threading.Condition()

    @property
    def stats(self) -> Stats:
        """The counts now."""
        with self._changed:
            return self._stats

    def put(self, traces: Iterable[Trace]) -> None:
        """Queue traces; those for which there is no room are dropped and counted.  Never waits for the other thread."""
        with self._changed:
            admitted, refused = self._split(traces)
            self._waiting.extend(admitted)
            self._stats = self._stats.moved(admitted, to="queued")
            self._stats = self._stats.moved(refused, to=self._closed_as or "dropped_queue_full")
            self._changed.notify_all()

    def take(self, most_spans: int, delay_s: float, timeout_s: float) -> list[Trace] | None:
        """
        Take whole traces of together at most so many spans, or a single larger one, out of the queue.

        Args:
            most_spans: when so many are waiting, they are given at once.
            delay_s: how long the first may wait for more.
            timeout_s: how long to wait for the first.

        Returns:
            The traces, none at the timeout; they are on their way until `settle` is called.  None: the queue is closed
            and empty.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed_as, timeout_s)
            if self._waiting:
                self._changed.wait_for(lambda: self._is_due(most_spans), delay_s)
            elif self._closed_as:
                return None
            self._taken = self._first(most_spans)
            return self._taken

    def settle(self, fate: str) -> None:
        """Say what became of the traces on their way: ``sent`` or ``dropped_failed``."""
        with self._changed:
            self._stats = self._stats.moved(self._taken, to=fate, out_of="queued")
            self._taken = []
            self._changed.notify_all()

    def drain(self, timeout_s: float) -> bool:
        """Have everything sent without delay, and wait for it; whether nothing is left."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            empty = self._changed.wait_for(self._is_empty, timeout_s)
            self._hurry = False
            return empty

    def close(self) -> None:
        """Take no more traces, and drop those that wait."""
        with self._changed:
            self._closed_as = self._closed_as or "dropped_at_close"
            self._stats = self._stats.moved(self._waiting, to="dropped_at_close", out_of="queued")
            self._waiting.clear()
            self._changed.notify_all()

    def abandon(self) -> None:
        """Count what is on its way as lost, whatever becomes of it."""
        self.settle("dropped_at_close")

    def _is_due(self, most_spans: int) -> bool:
        return self._hurry or bool(self._closed_as) or self._stats.queued_spans >= most_spans

    def _is_empty(self) -> bool:
        return not self._waiting and not self._taken

    def _split(self, traces: Iterable[Trace]) -> tuple[list[Trace], list[Trace]]:
        """The traces that there is room for, and the others."""
        room = 0 if self._closed_as else self._most_spans - self._stats.queued_spans
        admitted: list[Trace] = []
        refused: list[Trace] = []
        for trace in traces:
            fits = len(trace) <= room
            room -= len(trace) if fits else 0
            (admitted if fits else refused).append(trace)
        return admitted, refused

    def _first(self, most_spans: int) -> list[Trace]:
        chosen: list[Trace] = []
        spans = 0
        while self._waiting and (not chosen or spans + len(self._waiting[0]) <= most_spans):
            chosen.append(self._waiting.popleft())
            spans += len(chosen[-1])
        return chosen
