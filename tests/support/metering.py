# SPDX-License-Identifier: Apache-2.0
"""A kernel that counts, a meter on it, and a store that adds up what arrives: for tests of metrics."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData

from otel_qemu.events import NO_RECORDS, Layer, Records
from otel_qemu.export.metrics.entries import Entry, metrics_data
from otel_qemu.export.metrics.export_settings import MetricSettings
from otel_qemu.export.metrics.readings import Readings
from otel_qemu.export.resources import Resources
from otel_qemu.trace.histograms import in_ns
from otel_qemu.trace.kernel_histograms import LATENCY, SERIES
from otel_qemu.trace.measurements import ProcessCounts, Snapshot
from otel_qemu.trace.names import Names
from tests.support.builders import DEVICE, PID, names

START_UNIX_NS = 1_700_000_000_000_000_000
SECOND_NS = 10**9
IDENTITY = (PID, 1)
READ, WRITE, UNMAP, INQUIRY = 0x28, 0x2A, 0x42, 0x12
CUMULATIVE, DELTA = 2, 1
RESOURCES = Resources()
"""Made once: the SDK's detectors have a thread each."""


class Kernel:
    """The tables of one process: one entry a series, one addition a value."""

    def __init__(self, bounds_s: tuple[float, ...], identity: tuple[int, int] = IDENTITY) -> None:
        self.identity = identity
        self._bounds_ns = in_ns(bounds_s).tolist()
        self._entries: dict[tuple[int, ...], Any] = {}

    def request(
        self, opcode: int, duration_ns: int, *, device: int = DEVICE, failed: bool = False, size: int = 4096,
        wait_ns: int | None = None, completion_ns: int | None = None,
    ) -> None:  # fmt: skip
        """Count a SCSI request; wait and completion if it made calls."""
        entry = self._entry(Layer.SCSI, opcode, device, failed, size)
        parts = {"duration": duration_ns, "wait": wait_ns, "completion": completion_ns}
        for part, value_ns in parts.items():
            if value_ns is not None:
                self._add(entry, part, value_ns)

    def call(self, operation: int, duration_ns: int, *, device: int = DEVICE, failed: bool = False,
             size: int = 4096) -> None:  # fmt: skip
        """Count a librbd call."""
        self._add(self._entry(Layer.RBD, operation, device, failed, size), "duration", duration_ns)

    def counts(self) -> ProcessCounts:
        """What is read out of the kernel."""
        series = np.zeros(len(self._entries), SERIES)
        latencies = np.zeros(len(self._entries), LATENCY)
        for index, (key, entry) in enumerate(self._entries.items()):
            series[index], latencies[index] = (*key, 0), entry[0]
        return ProcessCounts(self.identity, series, latencies)

    def _entry(self, layer: Layer, operation: int, device: int, failed: bool, size: int) -> Any:
        key = (device, self.identity[0], layer, operation, int(failed))
        entry = self._entries.setdefault(key, np.zeros(1, LATENCY))
        entry["bytes"] += size
        return entry

    def _add(self, entry: Any, part: str, value_ns: int) -> None:
        entry[part]["sum_ns"] += value_ns
        entry[part]["counts"][0, sum(bound < value_ns for bound in self._bounds_ns)] += 1


@dataclass
class Meter:
    """`Readings`, and a clock that ticks with each snapshot."""

    settings: MetricSettings = field(default_factory=MetricSettings)
    now_s: int = 0
    set_by_ns: int = 0
    """How much the clock was set since the start, but for the records' own."""
    most_ended: int = 10_000

    def __post_init__(self) -> None:
        self.readings = Readings(self.settings, RESOURCES, START_UNIX_NS, 0, most_ended=self.most_ended)

    def measure(
        self, *kernels: Kernel, known: Names | None = None, in_flight: Records = NO_RECORDS, **others: Any
    ) -> list[Entry]:
        """A minute later: what there is to send."""
        self.now_s += 60
        processes = tuple(kernel.counts() for kernel in kernels)
        moment = (START_UNIX_NS + self.set_by_ns + self.now_s * SECOND_NS, self.now_s * SECOND_NS)
        self.readings.fold(Snapshot(*moment, known or names(), processes, in_flight=in_flight, **others))
        return self.readings.entries(self.readings.points(), {})

    def end(self, kernel: Kernel, known: Names | None = None) -> None:
        """A process ends."""
        self.readings.depart((kernel.counts(),), known or names())

    def send(self, entries: list[Entry]) -> dict[tuple[str, str], Any]:
        """Deliver these; the data points, by metric and attributes."""
        self.readings.deliver(entries)
        return by_series(otlp(entries))


def otlp(entries: Iterable[Entry]) -> ExportMetricsServiceRequest:
    """As it arrives."""
    return ExportMetricsServiceRequest.FromString(encode_metrics(metrics_data(entries)).SerializeToString())


class ImitatedExporter(MetricExporter):
    """Imitates an exporter of the SDK's: what would leave is given to `take`, which says what becomes of it."""

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: Any) -> MetricExportResult:
        """Encode a request, as OTLP's exporters do."""
        return self.take(ExportMetricsServiceRequest.FromString(encode_metrics(metrics_data).SerializeToString()))

    def take(self, request: ExportMetricsServiceRequest) -> MetricExportResult:
        """A request has arrived."""
        raise NotImplementedError

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Nothing is kept."""
        return True

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        """Let go."""


def by_series(request: ExportMetricsServiceRequest) -> dict[tuple[str, str], Any]:
    """Every data point of guests by its metric, and its attributes as in ``READ read sda``; ours have no part in it."""
    found = {}
    for pid, metric, point in data_points(request):
        values = " ".join(value for _, value in sorted(attributes_of(point).items()))
        if pid != "otel-qemu":
            key = (metric.name, values)
            assert key not in found
            found[key] = point
    return found


def data_points(request: ExportMetricsServiceRequest) -> Iterator[tuple[str, Any, Any]]:
    """Service name, metric and data point."""
    for resource in request.resource_metrics:
        service = next(each.value.string_value for each in resource.resource.attributes if each.key == "service.name")
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in getattr(metric, metric.WhichOneof("data")).data_points:
                    yield service, metric, point


def attributes_of(point: Any) -> dict[str, str]:
    """As plain text."""
    return {each.key: each.value.string_value for each in point.attributes}


def temporality(metric: Any) -> int | None:
    """`CUMULATIVE` or `DELTA`; a gauge has none."""
    kind = metric.WhichOneof("data")
    return None if kind == "gauge" else int(getattr(metric, kind).aggregation_temporality)
