# SPDX-License-Identifier: Apache-2.0
"""Traces of the service's loop, or of a recording, into spans, and on their way out."""

import time
from collections.abc import Iterable, Iterator

from otel_qemu.events import Batch
from otel_qemu.export.delivery.batching import batches
from otel_qemu.export.delivery.client import TraceClient
from otel_qemu.export.delivery.fates import Fate, Stats
from otel_qemu.export.metrics.exemplars import Exemplars
from otel_qemu.export.resources import Resources
from otel_qemu.export.spans.encode import encode, orphaned_calls
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


class ExportSink:
    """
    Sends the traces that a sampler keeps to where the ``OTEL_*`` variables say.

    Args:
        client: that sends them; by default the one that the variables ask for.
        sampler: chooses them; by default all.
        exemplars: learns which traces are about to be sent; None: there are no exemplars.
        threshold: from when on a wait has a span of its own.
        slice_requests: encoded at once.

    Raises:
        BadInput: a variable has a value that it must not have.
    """

    def __init__(
        self,
        client: TraceClient | None = None,
        sampler: Sampler | None = None,
        exemplars: Exemplars | None = None,
        threshold: WaitThreshold | None = None,
        slice_requests: int = SLICE,
    ) -> None:
        self._resources = Resources()
        self._client = client or TraceClient.from_environment()
        self._sampler = sampler or Sampler()
        self._exemplars = exemplars
        self._threshold = threshold or WaitThreshold()
        self._slice_requests = slice_requests
        self._ids = Ids()
        self.orphaned_calls = 0
        """RBD calls that were not sent because their request was lost before it came here."""

    @property
    def stats(self) -> Stats:
        """What became of the spans so far."""
        return self._client.stats

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Send what can be sent in the time given, and stop."""
        self._client.close(timeout_s)

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
            patience_s: after this time without progress the rest is queued at once; what has no room there, or no
                time at the close, is lost.
        """
        is_patient = True
        for traces in everything:
            for encoded in self._encoded(self._sampler.sample(traces), names):
                for batch in batches(encoded, self._client.batch):
                    self._client.send(batch)
                    is_patient = is_patient and self._wait(patience_s)

    def summary(self) -> str:
        """What became of the spans so far, in a sentence."""
        stats = self.stats
        parts = [f"{stats[Fate.SENT].spans} spans sent to {self._client.target.name}, {stats.lost.spans} lost"]
        if over_rate := self._sampler.over_rate:
            parts.append(f"{over_rate} traces left out, above the rate of their guest")
        if self.orphaned_calls:
            parts.append(f"{self.orphaned_calls} RBD calls left out, for their request was lost")
        return "; ".join(parts)

    def _encoded(self, traces: Traces, names: Names) -> Iterator[list[EncodedTrace]]:
        self.orphaned_calls += orphaned_calls(traces)
        for some in slices(traces, self._slice_requests):
            yield encode(some, names, self._resources, self._ids, self._threshold)

    def _wait(self, patience_s: float) -> bool:
        """Until all is sent or lost; whether the endpoint made progress."""
        before, given_up_s = self._settled_spans, time.monotonic() + patience_s
        while not self._client.flush(min(_LOOK_S, patience_s)):
            if self._settled_spans != before:
                before, given_up_s = self._settled_spans, time.monotonic() + patience_s
            elif time.monotonic() >= given_up_s:
                return False
        return True

    @property
    def _settled_spans(self) -> int:
        stats = self.stats
        return stats[Fate.SENT].spans + stats.lost.spans


def slices(traces: Traces, most: int) -> Iterator[Traces]:
    """The same traces in the same order, at most `most` requests, or calls without one, at once."""
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
