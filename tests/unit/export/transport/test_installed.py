# SPDX-License-Identifier: Apache-2.0
"""Exporters of other packages, by their entry points: what they are given, and what their results come to."""

import contextlib
import http.server
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from otel_qemu import cli
from otel_qemu.errors import BadInput
from otel_qemu.export.delivery.client import TraceClient
from otel_qemu.export.delivery.fates import Fate, Tally
from otel_qemu.export.resources import Resources
from otel_qemu.export.spans.encode import encode
from otel_qemu.export.spans.encoded import EncodedTrace, request_of
from otel_qemu.export.spans.ids import Ids
from otel_qemu.export.transport.destination import Destination, destination
from otel_qemu.export.transport.readable import readable_spans
from otel_qemu.export.transport.span_exporter import SpanExporterTransport
from otel_qemu.trace.pipeline import Pipeline
from otel_qemu.trace.recording import Recording
from tests.children import join
from tests.support.encoded_traces import encoded, many
from tests.support.sending import LIMITS, WAIT_S, is_final, until

RECORDINGS = sorted((Path(__file__).parents[3] / "replay/recordings").glob("*.otq"))


REASONS = {
    "fails": "the exporter has failed, and gives no reason",
    "logs": "last reason: status code: 418",
    "raises": r"ConnectionError: nobody\nthere",
    "exits": "SystemExit: no token",
}
"""What is said of guests for which the exporter below fails; nothing of it is logged by anybody else."""


class Exporter(SpanExporter):
    """In a package's place: notes what it is given; fails, raises or hangs for guests by their names."""

    def __init__(self) -> None:
        self.given: list[tuple[str, list[str]]] = []
        self.goes_on = threading.Event()
        self.shut_down = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        (guest,) = {str(span.resource.attributes["service.name"]) for span in spans}
        self.given.append((guest, [span.name for span in spans]))
        if guest == "hangs":
            self.goes_on.wait(WAIT_S)
        if guest == "logs":
            logging.getLogger("opentelemetry.exporter.of.a.package").error("status code: %d", 418)
        if guest == "raises":
            raise ConnectionError("nobody\nthere")
        if guest == "exits":
            sys.exit("no token")
        return SpanExportResult.FAILURE if guest in ("fails", "logs") else SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.shut_down.set()


class NotAnExporter:
    """What a package may offer by mistake."""


class Broken(SpanExporter):
    """Of a package that misses something."""

    def __init__(self) -> None:
        raise KeyError("TOKEN")


class Exiting(SpanExporter):
    """Of a package that takes itself for a program."""

    def __init__(self) -> None:
        sys.exit("no token")


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have entry points of the names of classes in this module, and set the variable to one of them."""

    def offered(group: str) -> list[EntryPoint]:
        names = ("Exporter", "NotAnExporter", "Broken", "Exiting") if group == "opentelemetry_traces_exporter" else ()
        return [EntryPoint(name, f"{__name__}:{name}", group) for name in names]

    def choose(name: str) -> None:
        monkeypatch.setattr("otel_qemu.export.transport.installed.entry_points", offered)
        monkeypatch.setenv("OTEL_TRACES_EXPORTER", name)

    return choose


def client(exporter: Exporter, timeout_s: float = WAIT_S, on_sent: Any = None) -> TraceClient:
    target = Destination(SpanExporterTransport(exporter, timeout_s), "exporter")
    return TraceClient(target, LIMITS, on_sent=on_sent)


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.stem)
def test_readable_spans_are_what_stands_on_the_wire(recording: Path) -> None:
    """The SDK's own encoder makes the same request of them, field by field; flags are more than the SDK writes."""
    opened, resources, ids = Recording.open(recording), Resources(), Ids()
    compared = 0
    for traces in Pipeline().traces_of(opened.batches()):
        for trace in encode(traces, opened.names, resources, ids):
            ours = ExportTraceServiceRequest.FromString(request_of([trace]))
            (spans,) = readable_spans(ours.SerializeToString())
            sdks = ExportTraceServiceRequest.FromString(encode_spans(spans).SerializeToString())
            for request in (ours, sdks):
                for span in request.resource_spans[0].scope_spans[0].spans:
                    span.flags = 0
            assert sdks == ours
            assert {span.context.trace_flags for span in spans} == {0x03}
            compared += len(spans)
    assert compared > 50


def test_each_guest_is_exported_by_itself_in_whole_traces() -> None:
    """An exporter may take the first span's resource for all of them."""
    exporter, told = Exporter(), list[EncodedTrace]()
    sender = client(exporter, on_sent=told.extend)
    traces = many(6, spans=3)
    sender.send(traces)
    assert sender.flush(WAIT_S)
    assert sender.close()[Fate.SENT] == Tally(18, 6)
    assert sorted(exporter.given) == [(guest, ["0/3", "1/3", "2/3"] * 3) for guest in ("web0", "web1")]
    assert told == traces
    assert exporter.shut_down.is_set()


@pytest.mark.parametrize("guest", REASONS)
def test_a_failure_is_a_refusal(guest: str, caplog: pytest.LogCaptureFixture) -> None:
    """Of all, or of a guest: its spans are rejected then, and nobody hears of the request's traces as sent."""
    told: list[EncodedTrace] = []
    sender = client(Exporter(), on_sent=told.extend)
    sender.send([encoded(2, guest)])
    assert sender.flush(WAIT_S)
    assert sender.stats[Fate.REFUSED] == Tally(2, 1)
    sender.send([encoded(3, guest), encoded(4, "web1")])
    assert sender.flush(WAIT_S)
    stats = sender.close()
    assert (stats[Fate.REJECTED].spans, stats[Fate.SENT].spans) == (3, 4)
    assert is_final(stats)
    assert not told
    assert caplog.messages[0].endswith(REASONS[guest])
    assert {record.name for record in caplog.records} == {"otel_qemu.export.delivery.losses"}


def test_an_exporter_that_hangs_is_away() -> None:
    """It is not called meanwhile; what waited for it is sent when it has come back."""
    exporter = Exporter()
    sender = client(exporter, timeout_s=0.05)
    sender.send([encoded(1, "hangs")])
    until(lambda: bool(exporter.given))
    for _ in range(20):
        sender.send(many(2))
    assert not sender.flush(0.3)
    assert len(exporter.given) == 1
    exporter.goes_on.set()
    assert sender.flush(WAIT_S)
    assert sender.close()[Fate.SENT] == Tally(81, 41)


def test_an_exporter_that_hangs_delays_no_close() -> None:
    """Neither while it exports nor while it shuts down."""

    class Stuck(Exporter):
        def shutdown(self) -> None:
            self.goes_on.wait(WAIT_S)

    exporter = Stuck()
    sender = client(exporter, timeout_s=3600)
    sender.send([encoded(1, "hangs")])
    until(lambda: bool(exporter.given))
    began_s = time.monotonic()
    stats = sender.close(0.5)
    assert time.monotonic() - began_s < WAIT_S / 2
    exporter.goes_on.set()
    assert stats[Fate.AT_CLOSE] == Tally(1, 1)
    assert is_final(stats)


def test_it_is_chosen_by_its_name(install: Callable[[str], None]) -> None:
    """That of its entry point, as it is written."""
    install("Exporter")
    target = destination()
    assert isinstance(target.transport, SpanExporterTransport)
    assert target.name == "Exporter"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("jaeger", ["'jaeger'", "otlp, console, none, Broken, Exiting, Exporter, NotAnExporter"]),
        ("exporter", ["'exporter'", "Exporter"]),
        ("NotAnExporter", ["its package makes no exporter of traces"]),
        ("Broken", ["cannot make it: KeyError: 'TOKEN'"]),
        ("Exiting", ["cannot make it: SystemExit: no token"]),
    ],
)
def test_what_cannot_be_is_refused_at_the_start(name: str, words: list[str], install: Callable[[str], None]) -> None:
    """With what is installed."""
    install(name)
    with pytest.raises(BadInput, match=r"^OTEL_TRACES_EXPORTER is ") as raised:
        destination()
    assert all(word in str(raised.value) for word in words)


@pytest.mark.parametrize("name", ["otlp", "console", "none", "NONE"])
def test_our_own_names_are_ours(name: str, install: Callable[[str], None]) -> None:
    """Although packages offer them too."""
    install(name)
    assert not isinstance(destination().transport, SpanExporterTransport)


class Zipkin(http.server.ThreadingHTTPServer):
    """Imitates Zipkin's POST /api/v2/spans, which a real one would need Java for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[dict[str, Any]] = []


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Zipkin

    def do_POST(self) -> None:
        assert self.path == "/api/v2/spans"
        self.server.spans += json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def zipkin() -> Iterator[Zipkin]:
    with Zipkin() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield made
        finally:
            made.shutdown()
            join(thread)


def test_zipkins_exporter_gets_a_recording(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """opentelemetry-exporter-zipkin-json, named by the variable: all that OTLP would have, with parents and tags."""
    (recording,) = (path for path in RECORDINGS if path.stem == "two-disks")
    with zipkin() as server:
        monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin_json")
        monkeypatch.setenv("OTEL_EXPORTER_ZIPKIN_ENDPOINT", f"http://127.0.0.1:{server.server_port}/api/v2/spans")
        assert cli.main(["replay", str(recording), "--otlp"]) == 0
    opened = Recording.open(recording)
    expected = [
        span
        for traces in Pipeline().traces_of(opened.batches())
        for trace in encode(traces, opened.names, Resources(), Ids())
        for of_guest in readable_spans(request_of([trace]))
        for span in of_guest
    ]
    assert capsys.readouterr().err == f"{len(server.spans)} spans sent to zipkin_json, 0 lost\n"
    assert sorted(span["name"] for span in server.spans) == sorted(span.name for span in expected)
    known = {span["id"] for span in server.spans}
    parents = [span["parentId"] for span in server.spans if span.get("parentId")]
    assert len(parents) == sum(span.parent is not None for span in expected)
    assert set(parents) <= known
    kinds = {span["name"].split(".")[0]: span["kind"] for span in server.spans}
    assert (kinds["rbd"], kinds["WRITE"]) == ("CLIENT", "SERVER")
    images = {span["tags"].get("ceph.rbd.image") for span in server.spans if span["name"].startswith("rbd.")}
    assert images == {
        (span.attributes or {}).get("ceph.rbd.image") for span in expected if span.name.startswith("rbd.")
    }
