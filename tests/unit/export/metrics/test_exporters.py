# SPDX-License-Identifier: Apache-2.0
"""Metrics by the SDK's exporters, to real endpoints on loopback, and by exporters that others wrote."""

import gzip
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import grpc
import pytest

from otel_qemu.errors import BadInput
from otel_qemu.export.metrics.client import MetricsClient
from otel_qemu.export.transport import installed
from otel_qemu.trace.histograms import DEFAULT_BOUNDS_S
from tests.children import join
from tests.support.made_certificates import Authority
from tests.support.metering import READ, WRITE, Kernel, by_series, data_points
from tests.support.metric_clients import SCSI, snapshot, wait_for_failures, wait_until
from tests.support.otlp_server import GRPC, HTTP, METRICS, Behaviour, Reply, Server, Tls, script, serving

WAIT_S = 15.0
MOST_BYTES = 4_000
BOTH = pytest.mark.parametrize("protocol", [GRPC, HTTP])
BUSY = {GRPC: Reply(grpc.StatusCode.UNAVAILABLE, takes=False), HTTP: Reply(503, takes=False)}


@pytest.fixture
def kernel() -> Kernel:
    kernel = Kernel(DEFAULT_BOUNDS_S)
    kernel.request(READ, 5_000)
    return kernel


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., MetricsClient]]:
    """Makes clients of an endpoint by the environment, which are closed in the end."""
    made: list[MetricsClient] = []

    def open_to(url: str, protocol: str, **variables: str) -> MetricsClient:
        usual = {"PROTOCOL": protocol, "ENDPOINT": url, "TIMEOUT": "10000"}
        for name, value in {**usual, **variables}.items():
            monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_METRICS_{name}", value)
        monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "1")
        made.append(MetricsClient.from_environment())
        return made[-1]

    yield open_to
    for client in made:
        client.close(1.0)
    for thread in threading.enumerate():
        if thread.name in ("metrics", "export-shutdown"):
            thread.join(WAIT_S)


def read_counts(server: Server) -> list[int]:
    """Of READ in every request that was taken."""
    found = [by_series(request).get((SCSI, "read ua-ceph-root sda READ")) for request in server.taken]
    return [point.count for point in found if point]


@BOTH
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_it_arrives(opened: Any, protocol: str, compression: str, kernel: Kernel) -> None:
    """With the headers that the environment asks for, compressed if it asks for that."""
    with serving(protocol, signal=METRICS) as server:
        client = opened(server.url, protocol, COMPRESSION=compression, HEADERS="api-key=a%20b,x-bin=c")
        client.measure(snapshot(kernel, last=True))
        client.close(WAIT_S)
    assert read_counts(server) == [1]
    assert server.headers[0]["api-key"] == "a b"
    assert client.report.summary() == f"{len(list(data_points(server.taken[0])))} data points sent to {server.url}"
    if protocol == HTTP:
        assert server.headers[0].get("content-encoding", "none") == compression


@BOTH
def test_an_endpoint_that_is_busy_is_asked_again(opened: Any, protocol: str, kernel: Kernel) -> None:
    """By the SDK, within the time of one request; no try is in the log."""
    with serving(protocol, script(BUSY[protocol]), signal=METRICS) as server:
        client = opened(server.url, protocol)
        client.measure(snapshot(kernel))
        wait_until(lambda: read_counts(server) == [1])
    assert len(server.arrivals_s) == 2
    assert client.report.failed == 0


@BOTH
def test_a_failure_is_one_line_with_its_reason(
    opened: Any, protocol: str, kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    """Once a minute, whatever the SDK logs; and the next export has everything."""
    no = Reply(grpc.StatusCode.PERMISSION_DENIED if protocol == GRPC else 403, takes=False, details="who are you")
    with serving(protocol, script(no, no, no), signal=METRICS) as server:
        client = opened(server.url, protocol)
        for failed in range(1, 4):
            client.measure(snapshot(kernel))
            wait_for_failures(client, failed)
        client.measure(snapshot(kernel))
        wait_until(lambda: read_counts(server) == [1])
    (message,) = caplog.messages
    assert message.startswith(f"metrics are not getting through: endpoint {server.url}: Failed to export metrics")
    assert "who are you" in message


@BOTH
def test_a_dead_endpoint_costs_the_time_that_was_said(opened: Any, protocol: str, kernel: Kernel) -> None:
    """In milliseconds, as the specification says; the loop's thread has none of it."""
    with serving(protocol, signal=METRICS) as server:
        url = server.url
    client = opened(url, protocol, TIMEOUT="500")
    began_s = time.monotonic()
    client.measure(snapshot(kernel))
    assert time.monotonic() - began_s < 0.5
    wait_for_failures(client, 1)


@BOTH
def test_a_silent_endpoint_delays_no_end(opened: Any, protocol: str, kernel: Kernel) -> None:
    """Also while the SDK would wait for it much longer."""
    with serving(protocol, lambda _request, _index: Reply(silent=True), signal=METRICS) as server:
        client = opened(server.url, protocol, TIMEOUT="60000")
        client.measure(snapshot(kernel, last=True))
        began_s = time.monotonic()
        client.close(0.5)
        assert time.monotonic() - began_s < 5
    assert client.report.summary().endswith("the last export did not arrive")


def too_large(most_bytes: int, reply: Reply) -> Behaviour:
    return lambda request, _index: reply if request.ByteSize() > most_bytes else Reply()


@pytest.mark.parametrize(
    ("protocol", "reply"),
    [
        (GRPC, Reply(grpc.StatusCode.RESOURCE_EXHAUSTED, False, "SERVER: Received message larger than max (9 vs. 8)")),
        (HTTP, Reply(413, takes=False, details="Payload Too Large")),
    ],
)
def test_what_is_too_large_is_halved(opened: Any, protocol: str, reply: Reply, kernel: Kernel) -> None:
    """By what gRPC's servers and HTTP's say; everything arrives with the same export, and nothing twice."""
    kernel.request(WRITE, 5, wait_ns=1, completion_ns=1)
    with serving(protocol, too_large(MOST_BYTES, reply), signal=METRICS) as server:
        client = opened(server.url, protocol)
        client.measure(snapshot(kernel, last=True))
        client.close(WAIT_S)
    everything = [(name, metric.name, str(point.attributes)) for request in server.taken
                  for name, metric, point in data_points(request)]  # fmt: skip
    assert len(everything) == len(set(everything)) == client.report.sent_points
    assert client.report.failed == 0
    refused = [size for size in server.sizes_bytes if size > MOST_BYTES]
    assert refused == sorted(set(refused), reverse=True)  # none is tried again as it is
    assert len(server.taken) > 1


def test_a_redirect_is_no_success(opened: Any, kernel: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    """The SDK neither follows it nor says that nothing was taken."""
    elsewhere = Reply(308, takes=False, location="http://localhost:1/")
    with serving(HTTP, lambda _request, _index: elsewhere, signal=METRICS) as server:
        client = opened(server.url, HTTP)
        client.measure(snapshot(kernel))
        wait_for_failures(client, 1)
    assert "redirects are not followed" in caplog.text


@BOTH
@pytest.mark.parametrize("in_one_file", [False, True])
def test_tls_with_certificates_of_our_own(
    opened: Any, protocol: str, kernel: Kernel, tmp_path: Path, in_one_file: bool
) -> None:
    """Both sides show one of the authority that the variables name; a certificate's file may hold its key."""
    authority = Authority(tmp_path, "authority")
    theirs, ours = authority.sign("server"), authority.sign("client")
    keys = {} if in_one_file else {"CLIENT_KEY": ours.key}
    if in_one_file:
        Path(ours.certificate).write_text(Path(ours.certificate).read_text() + Path(ours.key).read_text())
    tls = Tls(theirs.certificate, theirs.key, authority.certificate)
    with serving(protocol, tls=tls, signal=METRICS) as server:
        client = opened(
            server.url, protocol, CERTIFICATE=authority.certificate, CLIENT_CERTIFICATE=ours.certificate, **keys
        )
        client.measure(snapshot(kernel))
        wait_until(lambda: read_counts(server) == [1])


class Receiver(http.server.BaseHTTPRequestHandler):
    """Imitates a receiver of OTLP/JSON over HTTP, which `opentelemetry-exporter-otlp-json-http` sends to."""

    requests: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        assert (self.path, self.headers["Content-Type"]) == ("/v1/metrics", "application/json")
        self.requests.append(json.loads(body))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Its URL, and what it has received."""
    requests: list[dict[str, Any]] = []
    handler = type("Handler", (Receiver,), {"requests": requests})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listener:
        thread = threading.Thread(target=listener.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://localhost:{listener.server_address[1]}", requests
        listener.shutdown()
        join(thread)


@pytest.mark.parametrize("preference", ["cumulative", "delta"])
def test_an_installed_exporter_gets_everything(
    monkeypatch: pytest.MonkeyPatch, receiver: tuple[str, list[dict[str, Any]]], kernel: Kernel, preference: str
) -> None:
    """One from PyPI by its name: it is configured as it says itself, and says itself which temporality it wants."""
    url, requests = receiver
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "otlp_json_http")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", preference)
    kernel.request(READ, 7_000)
    with closing(MetricsClient.from_environment()) as client:
        client.measure(snapshot(kernel, last=True))
    assert client.report.summary().endswith("data points sent to otlp_json_http")
    (histogram,) = (metric["histogram"] for resource in requests[0]["resourceMetrics"]
                    for metric in resource["scopeMetrics"][0]["metrics"] if metric["name"] == SCSI)  # fmt: skip
    assert histogram["aggregationTemporality"] == {"cumulative": 2, "delta": 1}[preference]
    (point,) = histogram["dataPoints"]
    assert (int(point["count"]), point["sum"], sum(map(int, point["bucketCounts"]))) == (2, 12e-6, 2)
    assert point["explicitBounds"] == list(DEFAULT_BOUNDS_S)


def test_an_unknown_exporter_is_refused_with_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, by the variable's name."""
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "carrier pigeon")
    with pytest.raises(BadInput) as refused:
        MetricsClient.from_environment()
    assert str(refused.value) == (
        "OTEL_METRICS_EXPORTER is 'carrier pigeon': it must be one of otlp, console, none, "
        "otlp_json_http, otlp_proto_grpc, otlp_proto_http, or a package must offer it"
    )


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("opentelemetry.sdk.metrics.export:InMemoryMetricReader", "its package makes no exporter of metrics"),
        ("opentelemetry.sdk.metrics.export:MetricExporter", "its package cannot make it: TypeError: Can't instantiate"),
        ("nowhere:Exporter", "its package cannot make it: ModuleNotFoundError: No module named 'nowhere'"),
    ],
)
def test_an_installed_one_that_is_of_no_use_is_refused(monkeypatch: pytest.MonkeyPatch, value: str, why: str) -> None:
    """An entry point that a package may have: a reader, or one that does not work here."""
    made = EntryPoint("theirs", value, "opentelemetry_metrics_exporter")
    monkeypatch.setattr(installed, "entry_points", lambda group: [made])
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "theirs")
    with pytest.raises(BadInput, match=f"^OTEL_METRICS_EXPORTER is 'theirs': {why}"):
        MetricsClient.from_environment()
