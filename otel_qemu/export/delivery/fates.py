"""
What became of every span and every trace.

Invariant, at every moment, in spans and in traces: what was produced is the sum of all fates.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from otel_qemu.export.spans.encoded import EncodedTrace


class Fate(StrEnum):
    """What can become of a trace; it has one of these at any time.  The text is the reason in our metrics."""

    SENT = "sent"
    """The endpoint has answered that it has them."""
    REJECTED = "rejected"
    """An answer took the request but for these.  It does not say which they are, so the number of traces is the
    largest that the rejected spans can belong to."""
    QUEUE_FULL = "queue_full"
    """The queue had no room."""
    REFUSED = "refused"
    """The endpoint will never take them: too large, not authorised, not OTLP."""
    FAILED = "failed"
    """No request could be made of them, which is a defect of ours."""
    AT_CLOSE = "at_close"
    """They were not sent by the end of the close, or came after it."""
    DISABLED = "disabled"
    """Export is off."""
    WAITING = "waiting"
    """In memory: in the queue, or on their way."""


LOSSES = (Fate.REJECTED, Fate.QUEUE_FULL, Fate.REFUSED, Fate.FAILED, Fate.AT_CLOSE)
"""Fates of what was to be sent and never will be."""


class Tally(NamedTuple):
    """A number of spans, and of the traces that they make."""

    spans: int = 0
    traces: int = 0

    def plus(self, other: "Tally", sign: int = 1) -> "Tally":
        """The sum; the difference with a sign of -1."""
        return Tally(self.spans + sign * other.spans, self.traces + sign * other.traces)


def tally_of(traces: Sequence[EncodedTrace]) -> Tally:
    """How many spans and traces these are."""
    return Tally(sum(trace.span_count for trace in traces), len(traces))


@dataclass(frozen=True)
class Stats:
    """
    The counts at one moment.

    Attributes:
        produced: given to `TraceClient.send`.
        by_fate: what became of them; every fate has an entry.
    """

    produced: Tally = field(default_factory=Tally)
    by_fate: Mapping[Fate, Tally] = field(default_factory=lambda: dict.fromkeys(Fate, Tally()))

    def __getitem__(self, fate: Fate) -> Tally:
        return self.by_fate[fate]

    @property
    def lost(self) -> Tally:
        """What was to be sent and never will be."""
        return Tally(sum(self[fate].spans for fate in LOSSES), sum(self[fate].traces for fate in LOSSES))


class Ledger:
    """The counts of one client, for all its threads: each entry keeps the invariant."""

    def __init__(self) -> None:
        self._stats = Stats()
        self._lock = threading.Lock()

    @property
    def stats(self) -> Stats:
        """The counts now."""
        return self._stats

    def enter(self, new: Tally, fate: Fate) -> None:
        """Enter traces that were produced just now."""
        if not new.traces:
            return
        with self._lock:
            stats = self._stats
            self._stats = Stats(stats.produced.plus(new), {**stats.by_fate, fate: stats[fate].plus(new)})

    def move(self, moved: Tally, out_of: Fate, to: Fate) -> None:
        """Enter that traces came from one fate to another."""
        if not moved.spans and not moved.traces:
            return
        with self._lock:
            stats = self._stats
            changed = {out_of: stats[out_of].plus(moved, -1), to: stats[to].plus(moved)}
            self._stats = Stats(stats.produced, {**stats.by_fate, **changed})
