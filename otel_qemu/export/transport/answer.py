# SPDX-License-Identifier: Apache-2.0
"""
The outcome of one OTLP request.

Source: OpenTelemetry protocol specification 1.x, "OTLP/gRPC" and "OTLP/HTTP": which answers may be tried again.  The
libraries of gRPC and HTTP are imported when they are chosen: gRPC alone costs tens of megabytes.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol

from google.protobuf.json_format import Parse, ParseError
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from otel_qemu.export.text import printable
from otel_qemu.export.transport.sdk_log import logged

LONGEST_ANSWER_BYTES = 1 << 16
log = logging.getLogger(__name__)


class Outcome(Enum):
    """The outcome of a request."""

    SENT = auto()
    RETRY = auto()
    """Not now: the endpoint is not there, or too busy."""
    TOO_LARGE = auto()
    """Never as it is; in parts it may be taken."""
    REFUSED = auto()
    """Never."""


@dataclass(frozen=True)
class Answer:
    """
    The outcome of a request, and what comes with it.

    Attributes:
        outcome: of the request.
        reason: why it was not sent, or why part of it was rejected; one printable line.
        rejected: the number of spans or data points that the endpoint rejected of a request that it took.
        retry_after_s: how long the endpoint asks to be left alone; None: it does not say.
    """

    outcome: Outcome
    reason: str = ""
    rejected: int = 0
    retry_after_s: float | None = None


class Transport(Protocol):
    """A connection to an endpoint, for one thread."""

    def send(self, body: bytes) -> Answer:
        """Send a serialised request; never raises for what the network or the endpoint does."""

    def close(self) -> None:
        """Let go of the connection; a request on its way in another thread may be aborted."""


def abandon(close: Callable[[], None]) -> threading.Thread:
    """Close a transport or an exporter, and abort what is on its way, in a thread of its own, which may hang."""
    closing = threading.Thread(target=_close, args=(close,), name="export-shutdown", daemon=True)
    closing.start()
    return closing


def _close(close: Callable[[], None]) -> None:
    with logged():
        try:
            close()
        except (Exception, SystemExit) as error:  # an installed exporter may do anything
            log.debug("closing the transport: %s", error)


def accepted(body: bytes) -> Answer:
    """
    An answer that says yes, but perhaps not to all.

    Args:
        body: of the answer, a serialised ``ExportTraceServiceResponse``.
    """
    try:
        partial = _response(body).partial_success
    except (DecodeError, ParseError, UnicodeDecodeError):
        return Answer(Outcome.REFUSED, "its answer is not OTLP: something else listens there")
    return Answer(Outcome.SENT, printable(partial.error_message), max(0, partial.rejected_spans))


def _response(body: bytes) -> Any:
    """The answer's message; some endpoints answer in JSON, whatever they are sent."""
    if body[:1] == b"{":  # in protobuf it begins a group, which OTLP has none of
        return Parse(body, ExportTraceServiceResponse(), ignore_unknown_fields=True)
    return ExportTraceServiceResponse.FromString(body)
