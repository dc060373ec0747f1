# SPDX-License-Identifier: Apache-2.0
"""
Everything between the ring and the sinks: batches of records in, whole traces out.

The joins come from the correlator; with an audit, each is compared with the exact chain on the way.
"""

from collections.abc import Iterable, Iterator

from otel_qemu.events import Batch
from otel_qemu.trace.audit import Audit
from otel_qemu.trace.correlate import Correlator
from otel_qemu.trace.traces import Traces


class Pipeline:
    """
    The stages; feed it batches in the order of the ring.

    Args:
        audit: whether to compare the joins with the chain's verdicts, where the records have any.

    Attributes:
        audit: what the comparison found; None if it was not asked for.
        stats: what became of the records so far.
    """

    def __init__(self, audit: bool = False) -> None:
        self.audit = Audit() if audit else None
        self._correlator = Correlator()
        self.stats = self._correlator.stats

    @property
    def held(self) -> int:
        """Records that wait for others."""
        return self._correlator.held

    @property
    def images(self) -> dict[tuple[int, int], int]:
        """The image handle of each (pid, SCSIDevice *), learnt from joined calls."""
        return self._correlator.images

    def feed(self, batch: Batch) -> Iterator[tuple[Batch, Traces]]:
        """Each part of a batch, and the traces that became whole with it; an empty batch lets old ones leave."""
        for part in batch.parts():
            yield part, self._audited(self._correlator.feed(self.audit.take(part) if self.audit else part))

    def finish(self) -> Traces:
        """The traces that are not whole, as they are: there will be no more records."""
        traces = self._audited(self._correlator.finish())
        if self.audit:
            self.audit.finish()
        return traces

    def traces_of(self, batches: Iterable[Batch]) -> Iterator[Traces]:
        """All traces of a whole recording, batch by batch."""
        for batch in batches:
            for _, traces in self.feed(batch):
                yield traces
        yield self.finish()

    def _audited(self, traces: Traces) -> Traces:
        if self.audit:
            self.audit.compare(traces)
        return traces
