# SPDX-License-Identifier: Apache-2.0
"""
An OTLP endpoint on loopback, by gRPC or HTTP, that misbehaves as it is told to.

In: a script, one `Reply` for each of the first requests; after it, all is well.  Out: what arrived, and when.
"""

import contextlib
import gzip
import http.server
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.children import join

GRPC, HTTP = "grpc", "http/protobuf"
TRACES, METRICS = "traces", "metrics"
REQUESTS: dict[str, Any] = {TRACES: ExportTraceServiceRequest, METRICS: ExportMetricsServiceRequest}
SERVICES = {
    TRACES: "opentelemetry.proto.collector.trace.v1.TraceService",
    METRICS: "opentelemetry.proto.collector.metrics.v1.MetricsService",
}
RELEASE_S = 60.0


@dataclass(frozen=True)
class Reply:
    """
    How a request is answered.

    Attributes:
        code: of gRPC, or the status of HTTP; by default all is well.
        takes: whether its spans are kept.
        details: of the error; the reason phrase of HTTP.
        retry_after: of HTTP, as it is written; in seconds of gRPC.
        body: instead of an ``ExportTraceServiceResponse``.
        rejected: spans of a partial success.
        location: of a redirect.
        silent: no answer, until the server ends.
        delay_s: before the answer.
        drips: of HTTP, the answer comes byte by byte and never ends.
        cut: of HTTP, the connection is reset in the middle of the answer.
    """

    code: Any = None
    takes: bool = True
    details: str = ""
    retry_after: str = ""
    body: bytes | None = None
    rejected: int = 0
    location: str = ""
    silent: bool = False
    delay_s: float = 0.0
    drips: bool = False
    cut: bool = False

    @property
    def response(self) -> bytes:
        """The body of the answer."""
        if self.body is not None:
            return self.body
        message = ExportTraceServiceResponse()
        if self.rejected:
            message.partial_success.rejected_spans = self.rejected
            message.partial_success.error_message = "too old\nby far"
        return message.SerializeToString()


Behaviour = Callable[[Any, int], Reply]
"""Of a request and how many there were before: how it is answered."""


@dataclass
class Server:
    """What arrived, and where to send it."""

    behaviour: Behaviour = lambda _request, _index: Reply()
    signal: str = TRACES
    url: str = ""
    taken: list[Any] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    sizes_bytes: list[int] = field(default_factory=list)
    arrivals_s: list[float] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def receive(self, body: bytes, headers: dict[str, str]) -> Reply:
        """Note a request; how to answer it."""
        request = REQUESTS[self.signal].FromString(body)
        with self._lock:
            reply = self.behaviour(request, len(self.arrivals_s))
            self.arrivals_s.append(time.monotonic())
            self.sizes_bytes.append(len(body))
            self.headers.append({key.lower(): value for key, value in headers.items()})
            if reply.takes:
                self.taken.append(request)
        self.released.wait(RELEASE_S if reply.silent else reply.delay_s)
        return reply


def script(*replies: Reply) -> Behaviour:
    """These for the first requests, and then all is well."""
    return lambda _request, index: replies[index] if index < len(replies) else Reply()


@contextlib.contextmanager
def serving(
    protocol: str,
    behaviour: Behaviour | None = None,
    port: int = 0,
    tls: "Tls | None" = None,
    signal: str = TRACES,
) -> Iterator[Server]:
    """A server of a protocol, on a free port or a given one."""
    server = Server(behaviour or script(), signal)
    with (_grpc if protocol == GRPC else _http)(server, port, tls):
        try:
            yield server
        finally:
            server.released.set()


@dataclass(frozen=True)
class Tls:
    """PEM files of a server; with `authority`, clients must have a certificate of it."""

    certificate: str
    key: str
    authority: str = ""

    def context(self) -> ssl.SSLContext:
        """The same for the standard library."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        if self.authority:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.authority)
        return context

    def credentials(self) -> Any:
        """The same for gRPC."""
        pair, authority = (_read(self.key), _read(self.certificate)), _read(self.authority)
        return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)


def _read(path: str) -> bytes | None:
    if not path:
        return None
    with open(path, "rb") as file:
        return file.read()


class _HttpServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: Any) -> None:
        """A client that has left, or was shown a certificate that it does not like, is no news."""


@contextlib.contextmanager
def _http(server: Server, port: int, tls: Tls | None) -> Iterator[None]:
    class Handler(_Handler):
        ours = server

    listener = _HttpServer(("127.0.0.1", port), Handler)
    if tls:
        listener.socket = tls.context().wrap_socket(listener.socket, server_side=True, do_handshake_on_connect=False)
    server.url = f"http{'s' if tls else ''}://localhost:{listener.server_address[1]}/v1/{server.signal}"
    thread = threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown()
        listener.server_close()
        join(thread)


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers POST."""

    ours: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        reply = self.ours.receive(body, dict(self.headers.items()))
        if reply.silent or reply.drips or reply.cut:
            return self._break(reply)
        self.send_response(reply.code or 200, reply.details or None)
        for name, value in {"Retry-After": reply.retry_after, "Location": reply.location}.items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.response)))
        self.end_headers()
        self.wfile.write(reply.response)
        return None

    def _break(self, reply: Reply) -> None:
        self.close_connection = True
        if reply.drips:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            while not self.ours.released.wait(0.02):
                self.wfile.write(b"x")
        if reply.cut:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n\x0a")
            self.connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def _grpc(server: Server, port: int, tls: Tls | None) -> Iterator[None]:
    def export(body: bytes, context: Any) -> bytes:
        reply = server.receive(body, {key: str(value) for key, value in context.invocation_metadata()})
        if reply.code is not None:
            if reply.retry_after:
                context.set_trailing_metadata((("grpc-status-details-bin", _retry_info(reply)),))
            context.abort(reply.code, reply.details or "not now\nplease")
        return reply.response

    pool = ThreadPoolExecutor(4)
    made = grpc.server(pool, options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 16 << 20)])
    method = grpc.unary_unary_rpc_method_handler(export)
    made.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICES[server.signal], {"Export": method}),))
    address = f"127.0.0.1:{port}"
    bound = made.add_secure_port(address, tls.credentials()) if tls else made.add_insecure_port(address)
    assert bound
    server.url = f"http{'s' if tls else ''}://localhost:{bound}"
    made.start()
    try:
        yield
    finally:
        server.released.set()
        assert made.stop(0).wait(60)
        pool.shutdown()


def _retry_info(reply: Reply) -> bytes:
    details = AnyMessage()
    details.Pack(RetryInfo(retry_delay=Duration(nanos=int(float(reply.retry_after) * 1e9) % 10**9)))
    return Status(code=reply.code.value[0], message="later", details=[details]).SerializeToString()
