"""
What became of every span and every trace.

Invariant, at every moment, in spans and in traces: produced + restored = sent + rejected + each dropped + spooled +
queued.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

from otel_qemu.export.spans.encoded import EncodedTrace

LOSSES = ("rejected", "dropped_queue_full", "dropped_refused", "dropped_failed", "dropped_at_close", "dropped_spool")
"""Fates of what was to be sent and never will be."""
FATES = ("sent", *LOSSES, "dropped_disabled", "spooled", "queued")
"""Everything that can become of a trace; it has one of these at any time."""


@dataclass(frozen=True)
class Stats:
    """
    What became of the spans and traces that were produced, and of those that an earlier run had left on disk.

    Attributes:
        produced: given to `TraceClient.send`.
        restored: found in the spool of an earlier run.
        sent: the endpoint has answered that it has them.
        rejected: not wanted, by an answer that took the rest of the request.  Which ones it does not say: so many
            spans, and as many traces as that can have hurt.
        dropped_queue_full: there was no room for them.
        dropped_refused: the endpoint said that it will never take them; too large, not authorised, not OTLP.
        dropped_failed: they could not be made into a request: a defect of ours.
        dropped_at_close: there was no time left to send them, or they came later still.
        dropped_spool: the spool's bound, or what is wrong with its disk, has cost them.
        dropped_disabled: export is off.
        spooled: on disk, for later, or for the next run.
        queued: waiting in memory, or on their way.
    """

    produced_spans: int = 0
    produced_traces: int = 0
    restored_spans: int = 0
    restored_traces: int = 0
    sent_spans: int = 0
    sent_traces: int = 0
    rejected_spans: int = 0
    rejected_traces: int = 0
    dropped_queue_full_spans: int = 0
    dropped_queue_full_traces: int = 0
    dropped_refused_spans: int = 0
    dropped_refused_traces: int = 0
    dropped_failed_spans: int = 0
    dropped_failed_traces: int = 0
    dropped_at_close_spans: int = 0
    dropped_at_close_traces: int = 0
    dropped_spool_spans: int = 0
    dropped_spool_traces: int = 0
    dropped_disabled_spans: int = 0
    dropped_disabled_traces: int = 0
    spooled_spans: int = 0
    spooled_traces: int = 0
    queued_spans: int = 0
    queued_traces: int = 0

    @property
    def lost_spans(self) -> int:
        """Spans that were to be sent and never will be."""
        return sum(self.of(fate)[0] for fate in LOSSES)

    @property
    def lost_traces(self) -> int:
        """Traces that were to be sent and never will be."""
        return sum(self.of(fate)[1] for fate in LOSSES)

    def of(self, fate: str) -> tuple[int, int]:
        """Spans and traces of one fate, such as ``sent``."""
        return getattr(self, f"{fate}_spans"), getattr(self, f"{fate}_traces")

    def moved(self, spans: int, traces: int, to: str, out_of: str) -> "Stats":
        """These counts after so many came from one fate to another; they begin as ``produced`` or ``restored``."""
        sign = 1 if out_of in ("produced", "restored") else -1
        changes = {
            f"{to}_spans": spans,
            f"{to}_traces": traces,
            f"{out_of}_spans": sign * spans,
            f"{out_of}_traces": sign * traces,
        }
        return replace(self, **{name: getattr(self, name) + change for name, change in changes.items()})


class Ledger:
    """The counts of one client, for all its threads: each entry keeps the invariant."""

    def __init__(self) -> None:
        self._stats = Stats()
        self._lock = threading.Lock()

    @property
    def stats(self) -> Stats:
        """The counts now."""
        return self._stats

    def move(self, traces: Sequence[EncodedTrace], to: str, out_of: str = "produced") -> None:
        """Enter that traces came to a fate out of another; by default they are new."""
        if traces:
            self.move_counts(sum(trace.span_count for trace in traces), len(traces), to, out_of)

    def move_counts(self, spans: int, traces: int, to: str, out_of: str) -> None:
        """The same, by numbers."""
        if not spans and not traces:
            return
        with self._lock:
            self._stats = self._stats.moved(spans, traces, to, out_of)
