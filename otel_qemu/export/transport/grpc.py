# SPDX-License-Identifier: Apache-2.0
"""OTLP over gRPC, with the serialised request as it is."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from otel_qemu import __version__
from otel_qemu.export.text import printable
from otel_qemu.export.transport.answer import LONGEST_ANSWER_BYTES, Answer, Outcome, accepted
from otel_qemu.export.transport.endpoint import Endpoint

_METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
RETRYABLE = {
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
}
"""Whatever else they say; RESOURCE_EXHAUSTED only with a RetryInfo (OTLP specification, "OTLP/gRPC Throttling")."""

_TOO_LARGE = "larger than max"  # in the details of RESOURCE_EXHAUSTED, by gRPC's own libraries
_ANSWER_TOO_LARGE = "CLIENT:"  # the same of what the client, we, received
OPTIONS = (
    ("grpc.max_receive_message_length", LONGEST_ANSWER_BYTES),
    ("grpc.enable_retries", 0),
    ("grpc.primary_user_agent", f"otel-qemu/{__version__}"),
    # We decide when to try again: the channel's own pause, which grows to two minutes, would come on top of ours.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class GrpcTransport:
    """
    A channel.

    Args:
        endpoint: to connect to.

    Raises:
        OSError: a certificate cannot be read.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._channel = _channel(endpoint)
        self._metadata = metadata(endpoint)
        # As bytes: the request is serialised already, and an answer that is not OTLP must not raise in gRPC's thread.
        self._export = self._channel.unary_unary(_METHOD)

    def send(self, body: bytes) -> Answer:
        """Send a serialised request, and wait for its answer."""
        compression = grpc.Compression.Gzip if self._endpoint.gzip else grpc.Compression.NoCompression
        try:
            answer = self._export(
                body, timeout=self._endpoint.timeout_s, metadata=self._metadata, compression=compression
            )
        except grpc.RpcError as error:
            return _failure(error)
        except ValueError as error:  # the channel was closed meanwhile
            return Answer(Outcome.RETRY, printable(str(error)))
        return accepted(answer)

    def close(self) -> None:
        """Close the channel, and abort what is on its way."""
        self._channel.close()


def target(endpoint: Endpoint) -> str:
    """Host and port, as a channel takes them."""
    return urlsplit(endpoint.url).netloc.rpartition("@")[2]


def credentials(endpoint: Endpoint) -> Any:
    """
    For a channel by TLS.

    Raises:
        OSError: a certificate cannot be read.
    """
    key = endpoint.client_key or endpoint.client_certificate  # one file may hold both
    read = [
        Path(path).read_bytes() if path else None for path in (endpoint.certificate, key, endpoint.client_certificate)
    ]
    return grpc.ssl_channel_credentials(*read)


def metadata(endpoint: Endpoint) -> tuple[tuple[str, str | bytes], ...]:
    """Its headers: those of binary values as bytes."""
    return tuple((name, value.encode() if name.endswith("-bin") else value) for name, value in endpoint.headers)


def _channel(endpoint: Endpoint) -> Any:
    if not endpoint.secure:
        return grpc.insecure_channel(target(endpoint), OPTIONS)
    return grpc.secure_channel(target(endpoint), credentials(endpoint), OPTIONS)


def _failure(error: Any) -> Answer:
    code, details = error.code(), printable(error.details() or "")
    reason = f"{code.name}: {details}" if details else code.name
    wait_s = _retry_info_s(error)
    exhausted = code is grpc.StatusCode.RESOURCE_EXHAUSTED
    if code in RETRYABLE or (exhausted and wait_s is not None):
        return Answer(Outcome.RETRY, reason, retry_after_s=wait_s)
    too_large = exhausted and _TOO_LARGE in details and _ANSWER_TOO_LARGE not in details
    return Answer(Outcome.TOO_LARGE if too_large else Outcome.REFUSED, reason)


def _retry_info_s(error: Any) -> float | None:
    """The delay of a ``google.rpc.RetryInfo`` among the details of the status; None without one."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            try:
                details = Status.FromString(value).details
            except DecodeError:
                return None
            for detail in details:
                info = RetryInfo()
                if detail.Unpack(info):
                    return max(0.0, float(info.retry_delay.ToNanoseconds()) / 1e9)
    return None
