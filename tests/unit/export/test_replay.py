# SPDX-License-Identifier: Apache-2.0
"""`otel-qemu replay --otlp`: what stands in a recording arrives at an endpoint, and what does not is told."""

import gzip
import http.server
import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_qemu import cli
from tests.children import join

RECORDING = Path(__file__).parents[2] / "replay/recordings/throttled.otq"


class Endpoint(http.server.ThreadingHTTPServer):
    """Takes OTLP over HTTP, or refuses all of it."""

    answer = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[Span] = []


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.server.spans += [span for scope in resource.scope_spans for span in scope.spans]
        self.send_response(self.server.answer)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    with Endpoint() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{made.server_port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        yield made
        made.shutdown()
        join(thread)


def replay(*options: str) -> int:
    return cli.main(["replay", str(RECORDING), *options])


def test_a_recording_arrives(endpoint: Endpoint, capsys: pytest.CaptureFixture[str]) -> None:
    """Every trace that `--json` shows, with its calls."""
    assert replay("--json") == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    assert replay("--otlp") == 0
    said = capsys.readouterr()
    roots = Counter(span.name for span in endpoint.spans if not span.parent_span_id)
    alone = [f"rbd.aio_{line['children'][0]['operation']}" for line in shown if line["operation"] is None]
    assert roots == Counter([*(line["operation"] for line in shown if line["operation"]), *alone])
    calls = [span for span in endpoint.spans if span.name.startswith("rbd.")]
    assert len(calls) == sum(len(line["children"]) for line in shown)
    assert said.err.startswith(f"{len(endpoint.spans)} spans sent to http://127.0.0.1:{endpoint.server_port}")
    assert said.err.endswith(", 0 lost\n")
    assert said.out == ""


def test_the_slowest_alone_can_be_sent(endpoint: Endpoint) -> None:
    """With their calls."""
    assert replay("--otlp", "--slowest", "3") == 0
    assert sum(not span.parent_span_id for span in endpoint.spans) == 3


def test_what_is_lost_is_told_by_the_exit_status(endpoint: Endpoint, capsys: pytest.CaptureFixture[str]) -> None:
    """An endpoint that refuses everything: nothing sent, all lost, 1."""
    endpoint.answer = 400
    assert replay("--otlp", "--slowest", "3") == 1
    refused = len(endpoint.spans)
    assert refused >= 3
    said = capsys.readouterr().err
    assert said.startswith("0 spans sent to ")
    assert said.endswith(f", {refused} lost\n")


def test_a_wrong_variable_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is sent."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "smoke")
    assert replay("--otlp") == 2
    assert "OTEL_EXPORTER_OTLP_PROTOCOL" in capsys.readouterr().err
