"""Traces of the service's loop, or of a recording, into spans, and off to the network."""

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, Self

from otel_qemu.events import Batch
from otel_qemu.export.delivery.client import TraceClient
from otel_qemu.export.delivery.portions import Bounds, portions
from otel_qemu.export.delivery.stats import Stats
from otel_qemu.export.metrics.exemplars import Exemplars
from otel_qemu.export.resources import Resources
from otel_qemu.export.spans.encode import encode, halves
from otel_qemu.export.spans.encoded import EncodedTrace
from otel_qemu.export.spans.ids import Ids
from otel_qemu.policy import WaitThreshold
from otel_qemu.trace.names import Names
from otel_qemu.trace.sample import Sampler
from otel_qemu.trace.traces import Traces

CLOSE_TIMEOUT_S = 5.0
PATIENCE_S = 60.0
"""How long a recording's traces wait for an endpoint that takes none."""
SLICE = 4096
"""Requests encoded at once, which bounds what stands in memory beside the queue: about 5 MB."""
_LOOK_S = 1.0


class Target(Protocol):
    """Where spans go."""

    @property
    def name(self) -> str:
        """As a person knows it."""


class Client(Protocol):
    """What is needed of `client.TraceClient`."""

    @property
    def stats(self) -> Stats:
        """The counts now."""

    @property
    def target(self) -> Target:
        """Where they go."""

    @property
    def portion(self) -> Bounds:
        """As much as finds room when nothing else waits."""

    def send(self, traces: Sequence[EncodedTrace]) -> None:
        """Queue whole traces; never waits for the network."""

    def flush(self, timeout_s: float) -> bool:
        """Send all that is queued now; whether it was done in time, however it went."""

    def close(self, timeout_s: float) -> object:
        """Send what can be sent in the time given, and stop."""


class ExportSink:
    """
    Sends the traces that a sampler keeps to where the ``OTEL_*`` variables say.

    Args:
        client: that sends them; by default the one that the variables ask for.
        sampler: chooses them; by default all.
        exemplars: told of what is about to be sent; None: nobody wants to know.
        threshold: from when on a wait has a span of its own.

    Raises:
        BadInput: a variable is set to what it cannot be.
    """

    def __init__(
        self,
        client: Client | None = None,
        sampler: Sampler | None = None,
        exemplars: Exemplars | None = None,
        threshold: WaitThreshold | None = None,
    ) -> None:
        self._client = client or TraceClient.from_environment()
        self._sampler = sampler or Sampler()
        self._exemplars = exemplars
        self._threshold = threshold or WaitThreshold()
        self._resources = Resources()
        self._ids = Ids()
        self._halves = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close(CLOSE_TIMEOUT_S)

    @property
    def lost_spans(self) -> int:
        """Spans that were to be sent and never will be."""
        return self._client.stats.lost_spans

    @property
    def halves(self) -> int:
        """RBD calls that were not sent because their request was lost before it came here."""
        return self._halves

    def take(self, _batch: Batch, traces: Traces, names: Names) -> None:
        """Queue a batch's traces; never waits for the network."""
        traces = self._sampler.sample(traces)
        if self._exemplars:
            self._exemplars.consider(traces, names)
        for encoded in self._encoded(traces, names):
            self._client.send(encoded)

    def resend(self, everything: Iterable[Traces], names: Names, patience_s: float = PATIENCE_S) -> None:
        """
        Send a recording's traces no faster than the endpoint takes them.

        Args:
            everything: batches of whole traces.
            names: of what is in them.
            patience_s: when it has taken none for so long, the rest is queued without waiting, and what has no room
                there or no time at the close is lost.
        """
        is_patient = True
        for traces in everything:
            for encoded in self._encoded(self._sampler.sample(traces), names):
                for portion in portions(encoded, self._client.portion):
                    self._client.send(portion)
                    is_patient = is_patient and self._wait(patience_s)

    def stats(self) -> Stats:
        """What became of the spans so far."""
        return self._client.stats

    def shed(self) -> int:
        """Traces that were worth sending, and above the rate of their guest."""
        return sum(shares.shed for shares in self._sampler.stats.values())

    def summary(self) -> str:
        """What became of the spans so far, in a sentence."""
        stats = self._client.stats
        parts = [f"{stats.sent_spans} spans sent to {self._client.target.name}, {stats.lost_spans} lost"]
        if stats.spooled_spans:
            parts.append(f"{stats.spooled_spans} on disk for the next run")
        if shed := self.shed():
            parts.append(f"{shed} traces left out, above the rate of their guest")
        if self._halves:
            parts.append(f"{self._halves} RBD calls left out, for their request was lost")
        return "; ".join(parts)

    def _encoded(self, traces: Traces, names: Names) -> Iterator[list[EncodedTrace]]:
        self._halves += halves(traces)
        for some in slices(traces, SLICE):
            yield encode(some, names, self._resources, self._ids, self._threshold)

    def _wait(self, patience_s: float) -> bool:
        """Until all is sent or lost; whether the endpoint got on."""
        before, given_up_s = self._settled, time.monotonic() + patience_s
        while not self._client.flush(min(_LOOK_S, patience_s)):
            if self._settled != before:
                before, given_up_s = self._settled, time.monotonic() + patience_s
            elif time.monotonic() >= given_up_s:
                return False
        return True

    @property
    def _settled(self) -> int:
        stats = self._client.stats
        return stats.sent_spans + stats.lost_spans


def slices(traces: Traces, most: int) -> Iterator[Traces]:
    """The same traces in the same order, at most so many requests, or calls without one, at once."""
    if len(traces.requests) <= most and len(traces.orphans) <= most:
        yield traces
        return
    for first in range(0, len(traces.requests), most):
        requests = traces.requests[first : first + most].copy()
        begin, count = int(requests["first_call"][0]), int(requests["calls"].sum())
        calls = traces.calls[begin : begin + count].copy()
        requests["first_call"] -= begin
        calls["parent"] -= first
        yield Traces(requests, calls, traces.unix_offset_ns)
    for first in range(0, len(traces.orphans), most):
        yield Traces(traces.requests[:0], traces.orphans[first : first + most], traces.unix_offset_ns)
