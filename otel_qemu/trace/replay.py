"""Run everything after the ring again, over a recording's batches."""

from collections.abc import Iterable, Iterator

from otel_qemu.events import Batch
from otel_qemu.trace.correlate import Correlator
from otel_qemu.trace.traces import Traces


def replay_traces(batches: Iterable[Batch], correlator: Correlator) -> Iterator[Traces]:
    """Whole traces, batch by batch, and at the end those that had waited for more."""
    for batch in batches:
        yield correlator.feed(batch)
    yield correlator.finish()
