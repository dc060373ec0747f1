"""The client against real OTLP endpoints on loopback: good, dead, refusing, and silent ones."""

import gzip
import http.server
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from otel_qemu.export.client import Limits, TraceClient
from otel_qemu.export.exporters import Destination, destination
from otel_qemu.export.ids import Ids
from otel_qemu.export.queue import Stats
from otel_qemu.export.readable import readable
from otel_qemu.export.resources import Resources
from otel_qemu.export.spans import encode
from otel_qemu.trace.names import Guest

from . import builders
from .builders import Call, Request, traces, write
from .test_export_queue import is_conserved

PROTOCOLS = ("grpc", "http/protobuf")
AT_ONCE = Limits(delay_s=0.0)
WAIT_S = 15.0


@dataclass
class Endpoint:
    """An OTLP endpoint: what it was sent, and how it answers."""

    url: str
    requests: list[ExportTraceServiceRequest] = field(default_factory=list)
    refuses: int = 0
    """So many requests are answered with 503, or UNAVAILABLE."""
    silent: threading.Event = field(default_factory=threading.Event)
    """While set, no request is answered."""
    headers: list[dict[str, str]] = field(default_factory=list)

    def accept(self, request: ExportTraceServiceRequest, headers: dict[str, str]) -> bool:
        """Note a request; whether to say yes to it."""
        while self.silent.is_set():
            time.sleep(0.01)
        if self.refuses:
            self.refuses -= 1
            return False
        self.requests.append(request)
        self.headers.append(headers)
        return True


def http_endpoint() -> Iterator[Endpoint]:
    class Handler(http.server.BaseHTTPRequestHandler):
        """Answers POST /v1/traces."""

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            is_there = self.path == "/v1/traces"
            yes = made.accept(ExportTraceServiceRequest.FromString(body), dict(self.headers.items()))
            self.send_response(200 if yes and is_there else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = Endpoint(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield made
    made.silent.clear()
    server.shutdown()
    server.server_close()
    thread.join()


def grpc_endpoint() -> Iterator[Endpoint]:
    class Servicer(TraceServiceServicer):
        """Answers TraceService.Export."""

        def Export(self, request: Any, context: Any) -> ExportTraceServiceResponse:  # noqa: N802
            if not made.accept(request, dict(context.invocation_metadata())):
                context.abort(grpc.StatusCode.UNAVAILABLE, "not now\nplease")
            return ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(4))
    add_TraceServiceServicer_to_server(Servicer(), server)  # type: ignore[no-untyped-call]
    made = Endpoint(f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
    server.start()
    yield made
    made.silent.clear()
    server.stop(0).wait()


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SDK_DISABLED", "TRACES_EXPORTER", "EXPORTER_OTLP_PROTOCOL", "EXPORTER_OTLP_TRACES_PROTOCOL"):
        monkeypatch.delenv(f"OTEL_{name}", raising=False)


@pytest.fixture(params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", request.param)
    return str(request.param)


@pytest.fixture
def endpoint(protocol: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    for each in grpc_endpoint() if protocol == "grpc" else http_endpoint():
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", each.url)
        yield each


@pytest.fixture
def nowhere(protocol: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An address that refuses connections: bound, so that nobody else gets it, but not listening."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        yield url


def some_spans(count: int = 3) -> list[ReadableSpan]:
    """Traces of every kind, of two guests."""
    names = builders.names()
    names.guests[99] = Guest(99, "/usr/bin/kvm")
    rich = Request(duration_ns=100_000_000, calls=(Call(submit_ns=50_000_000), Call(submit_ns=60_000_000)))
    bad = write(pid=99, status=2, sense_key=3)
    batch = traces(*[write() for _ in range(count)], rich, bad, orphans=[Call(fields={"return_value": -5})])
    return list(readable(encode(batch, names, Resources(), Ids())))


def client(limits: Limits = AT_ONCE) -> TraceClient:
    return TraceClient(destination(), limits)


def on_the_wire(requests: Sequence[ExportTraceServiceRequest]) -> dict[bytes, tuple[Any, ...]]:
    """Spans by id, as they were decoded."""
    return {
        span.span_id: (
            span.trace_id, span.parent_span_id, span.name, span.kind, span.start_time_unix_nano,
            span.end_time_unix_nano, span.status.code, span.trace_state, attributes(span.attributes),
            attributes(of_resource.resource.attributes), of_scope.scope.name,
        )
        for request in requests
        for of_resource in request.resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    }  # fmt: skip


def as_built(spans: Sequence[ReadableSpan]) -> dict[bytes, tuple[Any, ...]]:
    """The same of the spans that were built."""
    return {
        span.context.span_id.to_bytes(8, "big"): (
            span.context.trace_id.to_bytes(16, "big"), span.parent.span_id.to_bytes(8, "big") if span.parent else b"",
            span.name, span.kind.value + 1, span.start_time,
            span.end_time, span.status.status_code.value, "ot=th:0", dict(span.attributes or {}),
            dict(span.resource.attributes), "otel_qemu",
        )
        for span in spans
    }  # fmt: skip


def attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def is_final(stats: Stats) -> bool:
    return is_conserved(stats) and stats.queued_spans == 0


def test_what_arrives_is_what_was_built(endpoint: Endpoint) -> None:
    spans = some_spans()
    sender = client()
    sender.send(spans)
    assert sender.flush(WAIT_S)
    stats = sender.close()
    assert on_the_wire(endpoint.requests) == as_built(spans)
    assert (stats.sent_spans, stats.lost_spans, stats.sent_traces) == (len(spans), 0, 6)
    assert is_final(stats)


def test_requests_hold_whole_traces_and_few_spans(endpoint: Endpoint) -> None:
    spans = some_spans(40)
    sender = client(Limits(request_spans=20, delay_s=60))
    sender.send(spans)
    sender.close(WAIT_S)
    traces_seen: list[bytes] = []
    for request in endpoint.requests:
        seen = on_the_wire([request])
        assert len(seen) <= 20
        traces_seen += {span[0] for span in seen.values()}
    assert len(traces_seen) == len(set(traces_seen)) == 43


def test_the_exporters_read_their_own_variables(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-scope-orgid=tenant")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    with client() as sender:
        sender.send(some_spans())
        assert sender.flush(WAIT_S)
    assert {key.lower(): value for key, value in endpoint.headers[0].items()}["x-scope-orgid"] == "tenant"
    assert on_the_wire(endpoint.requests)


def test_a_refused_request_is_tried_again(endpoint: Endpoint) -> None:
    endpoint.refuses = 1
    sender = client()
    sender.send(some_spans())
    assert sender.flush(WAIT_S)
    assert sender.close().lost_spans == 0
    assert len(endpoint.requests) == 1


def test_an_endpoint_that_always_refuses_loses_traces_and_nothing_else(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    endpoint.refuses = 10**6
    sender = client()
    sender.send(some_spans())
    assert sender.flush(WAIT_S)
    assert sender.stats.dropped_failed_spans == len(some_spans())
    endpoint.refuses = 0
    sender.send(some_spans())
    assert sender.flush(WAIT_S)
    stats = sender.close()
    assert stats.sent_spans == stats.dropped_failed_spans
    assert is_final(stats)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    text = record.getMessage()
    assert text.startswith(f"traces are being lost: endpoint {endpoint.url}: {stats.lost_spans} spans lost so far (not")
    assert text.isprintable()


def test_with_the_endpoint_down_sending_never_waits(nowhere: str, caplog: pytest.LogCaptureFixture) -> None:
    sender = client(Limits(queue_spans=20, delay_s=0))
    longest_s = 0.0
    for _ in range(100):
        spans = some_spans(10)
        began_s = time.perf_counter()
        sender.send(spans)
        longest_s = max(longest_s, time.perf_counter() - began_s)
        assert is_conserved(sender.stats)
        assert sender.stats.queued_spans <= 20
    assert longest_s < 0.5
    stats = sender.close(timeout_s=4)
    assert stats.lost_spans == stats.produced_spans
    assert stats.dropped_queue_full_spans > 0
    assert is_final(stats)
    assert [record.name for record in caplog.records] == ["otel_qemu.export.losses"]


def test_an_endpoint_that_never_answers_cannot_hold_up_the_close(endpoint: Endpoint) -> None:
    endpoint.silent.set()
    sender = client(Limits(request_spans=8, delay_s=0))
    spans = some_spans(30)
    sender.send(spans)
    assert not sender.flush(0.2)
    assert sender.stats.queued_spans == len(spans)
    began_s = time.monotonic()
    stats = sender.close(timeout_s=1)
    assert time.monotonic() - began_s < 1.5
    assert (stats.sent_spans, stats.dropped_at_close_spans + stats.dropped_failed_spans) == (0, len(spans))
    assert is_final(stats)
    sender.send(spans)
    assert sender.stats.dropped_at_close_spans >= len(spans)
    assert is_final(sender.stats)
    assert sender.close(timeout_s=1) == sender.stats


def test_a_late_answer_changes_no_final_count() -> None:
    """A chunk that was given up at close counts as lost, though its exporter succeeds in the end."""
    answer = threading.Event()
    exporter = Slow(answer)
    sender = TraceClient(Destination(exporter, "slow"), AT_ONCE)
    sender.send(some_spans())
    assert exporter.asked.wait(WAIT_S)
    stats = sender.close(timeout_s=0.2)
    answer.set()
    time.sleep(0.1)
    assert sender.stats == stats
    assert stats.dropped_at_close_spans == stats.produced_spans


def test_an_exporter_that_raises_does_not_end_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    sender = TraceClient(Destination(Raising(2), "broken"), AT_ONCE)
    for _ in range(3):
        sender.send(some_spans())
        assert sender.flush(WAIT_S)
    stats = sender.close()
    assert stats.sent_traces == 6
    assert stats.dropped_failed_traces == 12
    assert len(caplog.records) == 1
    assert "RuntimeError: boom" in caplog.text


def test_losses_are_reported_again_after_the_interval(caplog: pytest.LogCaptureFixture) -> None:
    sender = TraceClient(Destination(Raising(1000), "broken"), AT_ONCE, warn_interval_s=0.1)
    for _ in range(2):
        sender.send(some_spans())
        assert sender.flush(WAIT_S)
    until(lambda: len(caplog.records) == 2)
    time.sleep(0.3)
    assert len(caplog.records) == 2
    assert f"{sender.close().lost_spans} spans lost" in caplog.messages[-1]


def test_the_exporters_log_belongs_to_everyone_again_after_the_close() -> None:
    logger = logging.getLogger("opentelemetry.exporter")
    one, two = (TraceClient(Destination(Raising(0), "x"), AT_ONCE) for _ in range(2))
    assert not logger.propagate
    one.close()
    assert not logger.propagate
    two.close()
    assert logger.propagate
    assert not logger.handlers


def test_few_spans_wait_for_others_but_not_for_long() -> None:
    exporter = Raising(0)
    sender = TraceClient(Destination(exporter, "x"), Limits(delay_s=0.3))
    for _ in range(3):
        sender.send(some_spans())
    until(lambda: sender.stats.sent_traces == 18)
    assert exporter.calls == 1
    sender.close()


class Slow(SpanExporter):
    """Answers, with success, when it is told to."""

    def __init__(self, answer: threading.Event) -> None:
        self.answer = answer
        self.asked = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.asked.set()
        self.answer.wait(WAIT_S)
        return SpanExportResult.SUCCESS


class Raising(SpanExporter):
    """Raises so many times, then succeeds."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.calls = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.calls += 1
        if self.calls <= self.times:
            raise RuntimeError("boom\n")
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        raise OSError("and again")
