# SPDX-License-Identifier: Apache-2.0
"""The receivers of the loop's traces: histograms, and a recording.  `export` has the one for OTLP."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, Self

from otel_qemu.events import Batch
from otel_qemu.trace.names import Names
from otel_qemu.trace.recording import RecordingWriter
from otel_qemu.trace.traces import Traces


class Sink(Protocol):
    """A receiver of the loop's batches and traces."""

    def take(self, batch: Batch, traces: Traces, names: Names) -> None:
        """Take one batch of records, and the traces that it has completed."""


class RecordSink:
    """Writes records to a file, and names whenever they have changed."""

    def __init__(self, path: Path, details: dict[str, Any] | None = None) -> None:
        """
        Begin the file.

        Args:
            path: of the file.
            details: for its header, in addition to the entries of `RecordingWriter`.

        Raises:
            BadInput: the file cannot be written.
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
        """Append the builds and layouts of these processes (`Inspection.provenance`), where they are new."""
        fresh = [process for process in processes if self._processes.get(process["pid"]) != process]
        self._processes |= {process["pid"]: process for process in fresh}
        if fresh:
            self._writer.write_processes(fresh)

    def finish(self, names: Names, counters: dict[str, int]) -> None:
        """Append the last names and the kernel's counters."""
        self._writer.write_names(names)
        self._writer.write_counters(counters)
