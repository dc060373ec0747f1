# SPDX-License-Identifier: Apache-2.0
"""
Requests of a sidecar: traces as the product's export makes them of a recording, metrics as its instruments say.

A sidecar's requests are made once, and sent again and again with new trace ids: what is measured is who takes them.
"""

import http.server
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AGGREGATION_TEMPORALITY_CUMULATIVE,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    ResourceMetrics,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_qemu.events import NO_RECORDS, Batch
from otel_qemu.export import semconv
from otel_qemu.export.metrics.instruments import INSTRUMENTS, Instrument, InstrumentKind
from otel_qemu.export.sink import ExportSink
from otel_qemu.trace.histograms import DEFAULT_BOUNDS_S
from otel_qemu.trace.pipeline import Pipeline
from otel_qemu.trace.recording import Recording

RECORDING = Path(__file__).parents[1] / "tests/replay/recordings/throttled.otq"
OPERATIONS = ("READ", "WRITE", "SYNCHRONIZE_CACHE")
"""Of a disk, as a file system makes them."""
_WAIT_S = 60


class TraceTemplate:
    """
    A request with a given number of traces; `fresh` gives them new ids.

    Args:
        captured: requests of the export.
        traces: how many traces it has.
        host: the hypervisor that they are of.
    """

    def __init__(self, captured: list[bytes], traces: int, host: str) -> None:
        request = _cut(captured, traces)
        for group in request.resource_spans:
            _rename(group.resource, host)
        body = request.SerializeToString()
        ids = [span.trace_id for span in _spans(request)]
        self.spans = len(ids)
        known = list(dict.fromkeys(ids))
        self._bytes = np.frombuffer(body, dtype="u1").copy()
        places = [(at, number) for number, trace_id in enumerate(known) for at in _places(body, trace_id)]
        self._at: NDArray[np.int64] = np.array([at for at, _ in places])[:, None] + np.arange(16)
        self._of = np.array([number for _, number in places])
        self._traces = len(known)

    def fresh(self) -> bytes:
        """The same request of other traces."""
        ids = np.frombuffer(secrets.token_bytes(16 * self._traces), dtype="u1").reshape(-1, 16)
        self._bytes[self._at] = ids[self._of]
        return self._bytes.tobytes()


def captured_requests() -> list[bytes]:
    """
    What the export sends of the recording, request by request.

    Raises:
        TimeoutError: it sent nothing.
    """
    recording = Recording.open(RECORDING)
    with _endpoint() as (url, bodies):
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
        with patch.dict("os.environ", environment), closing(ExportSink()) as sink:
            for traces in Pipeline().traces_of(recording.batches()):
                sink.take(Batch(NO_RECORDS, traces.unix_offset_ns), traces, recording.names)
        deadline = time.monotonic() + _WAIT_S
        while not bodies:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the export sent nothing of {RECORDING}")
            time.sleep(0.05)
        return list(bodies)


@contextmanager
def _endpoint() -> Iterator[tuple[str, list[bytes]]]:
    """An OTLP endpoint that keeps what it gets."""
    bodies: list[bytes] = []

    class Keeper(http.server.BaseHTTPRequestHandler):
        """Keeps the body of each request for traces."""

        def do_POST(self) -> None:
            """Keep and accept."""
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/traces":
                bodies.append(body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Keeper) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", bodies
        finally:
            server.shutdown()


def _spans(request: ExportTraceServiceRequest) -> list[Span]:
    return [span for group in request.resource_spans for scoped in group.scope_spans for span in scoped.spans]


def _cut(captured: list[bytes], traces: int) -> ExportTraceServiceRequest:
    """So many of the captured traces, all of one guest; such as made librbd calls, for nearly all do."""
    parsed = [ExportTraceServiceRequest.FromString(body) for body in captured]
    by_id: dict[bytes, list[Span]] = {}
    for span in (span for request in parsed for span in _spans(request)):
        by_id.setdefault(span.trace_id, []).append(span)
    wanted = [spans for spans in by_id.values() if len(spans) > 1][:traces]
    if len(wanted) < traces:
        raise ValueError(f"the recording has {len(wanted)} traces with calls, not {traces}")
    whole = parsed[0]
    del whole.resource_spans[1:]
    del whole.resource_spans[0].scope_spans[1:]
    scoped = whole.resource_spans[0].scope_spans[0]
    del scoped.spans[:]
    scoped.spans.extend(span for spans in wanted for span in spans)
    return whole


def _places(body: bytes, trace_id: bytes) -> Iterator[int]:
    at = body.find(trace_id)
    while at >= 0:
        yield at
        at = body.find(trace_id, at + 16)


def _rename(resource: Resource, host: str, guest: str = "web1") -> None:
    of = {semconv.HOST_NAME: host, semconv.DOMAIN_NAME: guest, semconv.SERVICE_INSTANCE_ID: f"{host}-{guest}"}
    kept = [pair for pair in resource.attributes if pair.key not in of]
    del resource.attributes[:]
    resource.attributes.extend([*kept, *_pairs(of)])


def _pairs(texts: dict[str, str]) -> list[KeyValue]:
    return [KeyValue(key=key, value=AnyValue(string_value=text)) for key, text in texts.items()]


def metrics_request(captured: list[bytes], guests: int, host: str) -> tuple[bytes, int]:
    """
    A request with the metrics of guests that have one disk each, and its number of data points.

    Args:
        captured: requests of the export, for their resource.
        guests: how many.
        host: the hypervisor.
    """
    request = ExportMetricsServiceRequest()
    points = 0
    whose = ExportTraceServiceRequest.FromString(captured[0]).resource_spans[0].resource
    for number in range(guests):
        group = ResourceMetrics(resource=whose)
        _rename(group.resource, host, f"web{number}")
        scoped = group.scope_metrics.add()
        for instrument in INSTRUMENTS.values():
            if instrument.name.startswith(("qemu.", "ceph.")):
                scoped.metrics.append(_metric(instrument))
        points += sum(_points(metric) for metric in scoped.metrics)
        request.resource_metrics.append(group)
    return request.SerializeToString(), points


def _metric(instrument: Instrument) -> Metric:
    metric = Metric(name=instrument.name, unit=instrument.unit, description=instrument.description)
    if instrument.kind is InstrumentKind.HISTOGRAM:
        metric.histogram.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
        metric.histogram.data_points.extend(map(_distribution, _attributes(instrument)))
    elif instrument.kind is InstrumentKind.GAUGE:
        metric.gauge.data_points.extend(map(_number, _attributes(instrument)))
    else:
        metric.sum.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
        metric.sum.is_monotonic = instrument.kind is InstrumentKind.COUNTER
        metric.sum.data_points.extend(map(_number, _attributes(instrument)))
    return metric


def _distribution(values: dict[str, str]) -> HistogramDataPoint:
    counts = np.random.default_rng().integers(0, 1 << 20, len(DEFAULT_BOUNDS_S) + 1).tolist()
    now = time.time_ns()
    return HistogramDataPoint(
        attributes=_pairs(values), start_time_unix_nano=now - 10**12, time_unix_nano=now, count=sum(counts),
        sum=sum(counts) * 0.00123, bucket_counts=counts, explicit_bounds=DEFAULT_BOUNDS_S,
    )  # fmt: skip


def _number(values: dict[str, str]) -> NumberDataPoint:
    now = time.time_ns()
    number = secrets.randbelow(1 << 40)
    return NumberDataPoint(
        attributes=_pairs(values), start_time_unix_nano=now - 10**12, time_unix_nano=now, as_int=number
    )


def _attributes(instrument: Instrument) -> Iterator[dict[str, str]]:
    """Of each series that a disk has of a metric, without errors."""
    disk = {key: "scsi0-0-0-0" for key in instrument.attributes if key.startswith("qemu.disk")}
    disk |= {key: "rbd" for key in instrument.attributes if key == semconv.RBD_POOL}
    operation = [key for key in instrument.attributes if key.endswith("operation.name")]
    if operation:
        yield from ({**disk, operation[0]: name} for name in OPERATIONS)
    elif semconv.DISK_IO_DIRECTION in instrument.attributes:
        yield from ({**disk, semconv.DISK_IO_DIRECTION: direction} for direction in ("read", "write"))
    else:
        yield disk


def _points(metric: Metric) -> int:
    return len(metric.histogram.data_points) + len(metric.sum.data_points) + len(metric.gauge.data_points)
