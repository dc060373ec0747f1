"""Where the loop's results go: histograms, a recording, the network."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, Self

from otel_qemu.events import Batch
from otel_qemu.trace.names import Names
from otel_qemu.trace.recording import RecordingWriter
from otel_qemu.trace.traces import Traces


class Sink(Protocol):
    """Takes what the loop makes."""

    def take(self, batch: Batch, traces: Traces, names: Names) -> None:
        """One drained batch, and the traces that it made whole."""


class RecordSink:
    """Keeps the records in a file, and the names whenever they have changed."""

    def __init__(self, path: Path, details: dict[str, Any] | None = None) -> None:
        """
        Begin the file.

        Args:
            path: of the file.
            details: for its header, beside what `RecordingWriter` puts there itself.

        Raises:
            BadInput: it cannot be written.
        """
        self._writer = RecordingWriter(path, details or {})
        self._processes: dict[int, dict[str, Any]] = {}
        self.records = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def take(self, batch: Batch, _traces: Traces, names: Names) -> None:
        """Append a batch."""
        self._writer.write(batch)
        self.records += len(batch)
        self._writer.write_names(names)

    def describe(self, processes: Iterable[dict[str, Any]]) -> None:
        """Append what records of these processes depend on (`Inspection.provenance`), if that is new."""
        fresh = [process for process in processes if self._processes.get(process["pid"]) != process]
        self._processes |= {process["pid"]: process for process in fresh}
        if fresh:
            self._writer.write_processes(fresh)

    def finish(self, names: Names, counters: dict[str, int]) -> None:
        """Append what is known at the end."""
        self._writer.write_names(names)
        self._writer.write_counters(counters)
