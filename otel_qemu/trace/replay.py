"""Run everything after the ring again, over a recording's batches."""

from collections.abc import Iterable, Iterator

import numpy as np

from otel_qemu.events import Batch
from otel_qemu.trace.audit import Audit
from otel_qemu.trace.correlate import Correlator
from otel_qemu.trace.traces import Traces, durations_ns


def replay_traces(batches: Iterable[Batch], correlator: Correlator, audit: Audit | None = None) -> Iterator[Traces]:
    """Whole traces, batch by batch, and at the end those that had waited for more; each is audited on its way."""
    audit = audit or Audit()
    for batch in batches:
        for part in batch.parts():
            traces = correlator.feed(audit.take(part))
            audit.compare(traces)
            yield traces
    traces = correlator.finish()
    audit.compare(traces)
    audit.finish()
    yield traces


def slowest_of(everything: Iterable[Traces], count: int) -> list[Traces]:
    """The slowest requests with their calls, slowest first, one `Traces` each."""
    found: list[Traces] = []
    for traces in everything:
        rows = np.argsort(durations_ns(traces.requests), kind="stable")[::-1][:count]
        found += [traces.only(rows[index : index + 1]) for index in range(len(rows))]
        found.sort(key=lambda one: -int(durations_ns(one.requests)[0]))
        del found[count:]
    return found
