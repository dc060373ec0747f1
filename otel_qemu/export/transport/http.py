# SPDX-License-Identifier: Apache-2.0
"""OTLP over HTTP, as binary protobuf."""

import contextlib
import gzip
import http.client
import select
import socket
import ssl
import threading
import time
import zlib
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from otel_qemu import __version__
from otel_qemu.export.text import printable
from otel_qemu.export.transport.answer import LONGEST_ANSWER_BYTES, Answer, Outcome, accepted
from otel_qemu.export.transport.endpoint import Endpoint
from otel_qemu.export.transport.route import Route, route

_RETRYABLE = {429, 502, 503, 504}  # OTLP specification, "Retryable Response Codes"
_COMPRESSION_LEVEL = 1  # 8.4 times smaller in a third of the default level's time
_GZIP_BITS = 16 + zlib.MAX_WBITS
_HEADERS = {
    "content-type": "application/x-protobuf",
    "user-agent": f"otel-qemu/{__version__}",
    "accept-encoding": "identity",
}


class HttpTransport:
    """
    A connection to an endpoint that is kept, and made anew where the other side has ended it.

    Raises:
        BadInput: a proxy of the environment is not an HTTP proxy.
        OSError: a certificate cannot be read.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._route = route(endpoint.url)
        self._connection = _connection(endpoint, self._route)
        self._headers = _HEADERS | self._route.headers | dict(endpoint.headers)
        if endpoint.gzip:
            self._headers["content-encoding"] = "gzip"
        self._socket: socket.socket | None = None
        self._end_s = 0.0
        self._closed = False

    def send(self, body: bytes) -> Answer:
        """Send a serialised request, and wait for its answer, no longer than the endpoint's timeout in all."""
        if self._closed:
            return Answer(Outcome.RETRY, "the connection is closed")
        # A socket's timeout is for each piece that arrives: an answer byte by byte would never end.
        self._end_s = time.monotonic() + self._endpoint.timeout_s
        cut = threading.Timer(self._endpoint.timeout_s, self._cut)
        cut.daemon = True
        cut.start()
        try:
            return self._post(gzip.compress(body, _COMPRESSION_LEVEL) if self._endpoint.gzip else body)
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: of a name that is no host's
            self._connection.close()
            return Answer(Outcome.RETRY, printable(f"{type(error).__name__}: {error}"))
        finally:
            cut.cancel()

    def close(self) -> None:
        """Close the connection, and abort what is on its way."""
        self._closed = True
        self._cut()
        self._connection.close()

    def _cut(self) -> None:
        """Give whoever waits for the connection, in another thread, an error."""
        for each in (self._socket, self._connection.sock):  # the latter while a proxy is asked
            with contextlib.suppress(OSError):  # it is not connected any more
                if each:
                    socket.socket.shutdown(each, socket.SHUT_RDWR)

    def _connect(self) -> None:
        self._connection.connect()
        self._socket = self._connection.sock  # which it forgets while an answer is still being read
        if time.monotonic() >= self._end_s:  # the cut has come before there was a socket, and comes only once
            raise TimeoutError("connecting took too long")

    def _post(self, body: bytes) -> Answer:
        connection = self._connection
        if connection.sock and _has_ended(connection.sock):
            connection.close()
        if not connection.sock:
            self._connect()
        with contextlib.suppress(BrokenPipeError):  # an endpoint may refuse a request before it has read all of it
            connection.request("POST", self._route.target, body, self._headers)
        answer = connection.getresponse()
        content = _content(answer)
        if not answer.isclosed():
            connection.close()
        if HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
            return accepted(content)
        return _failure(answer)


def _connection(endpoint: Endpoint, way: Route) -> http.client.HTTPConnection:
    if not endpoint.secure:
        return http.client.HTTPConnection(way.host, way.port, timeout=endpoint.timeout_s)
    context = ssl.create_default_context(cafile=endpoint.certificate)
    if endpoint.client_certificate:
        context.load_cert_chain(endpoint.client_certificate, endpoint.client_key)
    connection = http.client.HTTPSConnection(way.host, way.port, timeout=endpoint.timeout_s, context=context)
    if way.tunnel:
        connection.set_tunnel(*way.tunnel, headers=way.tunnel_headers)
    return connection


def _has_ended(connected: socket.socket) -> bool:
    """Whether the other side has closed a connection on which no answer is due."""
    poll = select.poll()
    poll.register(connected, select.POLLIN)
    return bool(poll.poll(0))


def _content(answer: http.client.HTTPResponse) -> bytes:
    """
    The body of an answer, or its first `LONGEST_ANSWER_BYTES`.

    Raises:
        HTTPException: the connection ends before the body does.
    """
    content = answer.read(LONGEST_ANSWER_BYTES)
    if answer.length and len(content) < LONGEST_ANSWER_BYTES:
        raise http.client.IncompleteRead(content, answer.length)
    if answer.headers.get("Content-Encoding", "").lower() == "gzip":  # although nobody asked for it
        with contextlib.suppress(zlib.error):  # then it is not OTLP, which `accepted` says
            return zlib.decompressobj(_GZIP_BITS).decompress(content, LONGEST_ANSWER_BYTES)
    return content


def _failure(answer: http.client.HTTPResponse) -> Answer:
    reason = printable(f"HTTP {answer.status} {answer.reason or ''}".rstrip())
    if answer.status in _RETRYABLE:
        return Answer(Outcome.RETRY, reason, retry_after_s=_retry_after_s(answer.headers.get("Retry-After", "")))
    if answer.status < HTTPStatus.BAD_REQUEST and "Location" in answer.headers:
        reason += ": redirects are not followed, set the endpoint to where it points"
    too_large = answer.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    return Answer(Outcome.TOO_LARGE if too_large else Outcome.REFUSED, reason)


def _retry_after_s(text: str) -> float | None:
    """Seconds, or until a date (RFC 9110 10.2.3); None: it does not say, or not so that it can be read."""
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None
