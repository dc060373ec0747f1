# SPDX-License-Identifier: Apache-2.0
"""What became of every span and every trace: each has one fate at any moment."""

import threading
from collections.abc import Iterable, Mapping, Sequence
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
        by_fate: what became of all traces; every fate has an entry.
    """

    by_fate: Mapping[Fate, Tally] = field(default_factory=lambda: dict.fromkeys(Fate, Tally()))

    def __getitem__(self, fate: Fate) -> Tally:
        return self.by_fate[fate]

    @property
    def produced(self) -> Tally:
        """What was given to `TraceClient.send`."""
        return self._sum(Fate)

    @property
    def lost(self) -> Tally:
        """What was to be sent and never will be."""
        return self._sum(LOSSES)

    def _sum(self, chosen: Iterable[Fate]) -> Tally:
        tallies = [self[fate] for fate in chosen]
        return Tally(sum(each.spans for each in tallies), sum(each.traces for each in tallies))


class Ledger:
    """The counts of one client, for all its threads."""

    def __init__(self) -> None:
        self.stats = Stats()
        """The counts now."""
        self._lock = threading.Lock()

    def enter(self, tally: Tally, fate: Fate, out_of: Fate | None = None) -> None:
        """Enter the fate of traces: of new ones, or of some that had another fate until now."""
        with self._lock:
            counts = dict(self.stats.by_fate)
            if out_of:
                counts[out_of] = counts[out_of].plus(tally, -1)
            counts[fate] = counts[fate].plus(tally)
            self.stats = Stats(counts)
