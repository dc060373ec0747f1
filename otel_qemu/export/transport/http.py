"""OTLP over HTTP, as binary protobuf."""

import contextlib
import gzip
import socket
import threading
import time
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from otel_qemu import __version__
from otel_qemu.export.text import printable
from otel_qemu.export.transport.answer import LONGEST_ANSWER_BYTES, Answer, Outcome, accepted
from otel_qemu.export.transport.endpoint import Endpoint

_RETRYABLE = {429, 502, 503, 504}  # OTLP specification, "Retryable Response Codes"
_COMPRESSION_LEVEL = 1  # 8.4 times smaller at a third of the time that the default takes
_HEADERS = {
    "Content-Type": "application/x-protobuf",
    "User-Agent": f"otel-qemu/{__version__}",
    "Accept-Encoding": "identity",
}


class HttpTransport:
    """
    A session that keeps its connection.

    Args:
        endpoint: to send to.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._closed = False
        self._wire = _Wire()
        self._session = requests.Session()
        self._session.mount("http://", _Adapter(self._wire))
        self._session.mount("https://", _Adapter(self._wire))
        self._session.headers.update(_HEADERS)
        self._session.headers.update(dict(endpoint.headers))
        if "authorization" in dict(endpoint.headers):
            self._session.auth = _as_it_is  # or else an entry in ~/.netrc would replace it
        if endpoint.client_certificate:
            self._session.cert = endpoint.client_certificate, endpoint.client_key or endpoint.client_certificate

    def send(self, body: bytes) -> Answer:
        """Send a serialised request, and wait for its answer, no longer than the endpoint's timeout in all."""
        if self._closed:
            return Answer(Outcome.RETRY, "the connection is closed")
        # The library's timeout is for each piece that arrives: an answer byte by byte would never end.
        cut = threading.Timer(self._endpoint.timeout_s, self._wire.cut)
        cut.daemon = True
        cut.start()
        try:
            return self._post(body)
        except Exception as error:  # requests' own, urllib3's while reading, and the standard library's
            return Answer(Outcome.RETRY, printable(f"{type(error).__name__}: {error}"))
        finally:
            cut.cancel()

    def close(self) -> None:
        """Close the connection, and abort what is on its way."""
        self._closed = True
        self._wire.cut()
        self._session.close()

    def _post(self, body: bytes) -> Answer:
        headers = {}
        if self._endpoint.gzip:
            body, headers = gzip.compress(body, _COMPRESSION_LEVEL), {"Content-Encoding": "gzip"}
        with self._session.post(
            self._endpoint.url, data=body, headers=headers, stream=True, allow_redirects=False,
            timeout=self._endpoint.timeout_s,
            # With each request: a session's own gives way to REQUESTS_CA_BUNDLE.
            verify=self._endpoint.certificate,
        ) as answer:  # fmt: skip
            content = _content(answer.raw)
        if HTTPStatus.OK <= answer.status_code < HTTPStatus.MULTIPLE_CHOICES:
            return accepted(self._endpoint.signal, content)
        return _failure(answer)


class _Wire:
    """The connection in use, which may be cut from another thread."""

    def __init__(self) -> None:
        self._connection: Any = None

    def opened(self, connection: Any) -> None:
        """Remember the last connection: there is one at a time."""
        self._connection = connection

    def cut(self) -> None:
        """Have whoever waits for it get an error."""
        with contextlib.suppress(OSError, AttributeError):  # it is not connected, or not any more
            self._connection.sock.shutdown(socket.SHUT_RDWR)


class _Adapter(HTTPAdapter):  # type: ignore[misc]
    """Makes connections that a `_Wire` knows, by urllib3's ``pool_classes_by_scheme``."""

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire
        super().__init__(pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the manager of direct connections."""
        super().init_poolmanager(*args, **kwargs)
        self._watch(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        """Make the manager of connections through a proxy."""
        return self._watch(super().proxy_manager_for(*args, **kwargs))

    def _watch(self, manager: Any) -> Any:
        classes = manager.pool_classes_by_scheme
        manager.pool_classes_by_scheme = {scheme: _watched(pool, self._wire) for scheme, pool in classes.items()}
        return manager


def _watched(pool: Any, wire: _Wire) -> Any:
    class Connection(pool.ConnectionCls):  # type: ignore[misc]
        """Tells the wire that it is there."""

        def connect(self) -> None:
            super().connect()
            wire.opened(self)

    return type(pool.__name__, (pool,), {"ConnectionCls": Connection})


def _as_it_is(request: Any) -> Any:
    return request


def _content(raw: Any) -> bytes:
    """
    The body of an answer, or as much of it as is ever wanted.

    Raises:
        Exception: urllib3's, if the connection ends before the body does.
    """
    raw.enforce_content_length = True
    content = bytearray()
    while len(content) < LONGEST_ANSWER_BYTES and (piece := raw.read(LONGEST_ANSWER_BYTES, decode_content=True)):
        content += piece
    return bytes(content)


def _failure(answer: Any) -> Answer:
    reason = printable(f"HTTP {answer.status_code} {answer.reason or ''}".rstrip())
    if answer.status_code in _RETRYABLE:
        return Answer(Outcome.RETRY, reason, retry_after_s=_retry_after_s(answer.headers.get("Retry-After", "")))
    if answer.is_redirect:
        reason += ": redirects are not followed, set the endpoint to where it points"
    too_large = answer.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    return Answer(Outcome.TOO_LARGE if too_large else Outcome.REFUSED, reason)


def _retry_after_s(text: str) -> float | None:
    """Seconds, or until a date (RFC 9110 10.2.3); None: it does not say, or not so that it can be read."""
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None
