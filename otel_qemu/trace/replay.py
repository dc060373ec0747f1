"""Run everything after the ring again, over a recording's batches."""

from collections.abc import Iterable, Iterator

import numpy as np

from otel_qemu.events import Batch
from otel_qemu.trace.correlate import Correlator
from otel_qemu.trace.traces import Traces, durations_ns


def replay_traces(batches: Iterable[Batch], correlator: Correlator) -> Iterator[Traces]:
    """Whole traces, batch by batch, and at the end those that had waited for more."""
    for batch in batches:
        for part in batch.parts():
            yield correlator.feed(part)
    yield correlator.finish()


def slowest_of(everything: Iterable[Traces], count: int) -> list[Traces]:
    """The slowest requests with their calls, slowest first, one `Traces` each."""
    found: list[Traces] = []
    for traces in everything:
        rows = np.argsort(durations_ns(traces.requests), kind="stable")[::-1][:count]
        found += [traces.only(rows[index : index + 1]) for index in range(len(rows))]
        found.sort(key=lambda one: -int(durations_ns(one.requests)[0]))
        del found[count:]
    return found
