"""Traces of the service's loop into spans, and off to the network."""

from typing import Self

from otel_qemu.events import Batch
from otel_qemu.export.client import TraceClient
from otel_qemu.export.ids import Ids
from otel_qemu.export.resources import Resources
from otel_qemu.export.spans import spans_of
from otel_qemu.trace.names import Names
from otel_qemu.trace.traces import Traces

CLOSE_TIMEOUT_S = 5.0


class ExportSink:
    """
    Sends every trace to where the ``OTEL_*`` variables say.

    Raises:
        BadInput: a variable is set to what it cannot be.
    """

    def __init__(self) -> None:
        self._client = TraceClient.from_environment()
        self._resources = Resources()
        self._ids = Ids()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close(CLOSE_TIMEOUT_S)

    def take(self, _batch: Batch, traces: Traces, names: Names) -> None:
        """Queue a batch's traces; never waits for the network."""
        self._client.send(spans_of(traces, names, self._resources, self._ids))

    def summary(self) -> str:
        """What became of the spans so far, in a sentence."""
        stats = self._client.stats
        return f"{stats.sent_spans} spans sent to {self._client.target.name}, {stats.lost_spans} lost"
