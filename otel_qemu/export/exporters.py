"""
The SDK's own exporter that the ``OTEL_*`` variables ask for.

Exporters are imported when they are chosen: gRPC alone costs tens of megabytes.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter

from otel_qemu.errors import BadInput
from otel_qemu.export import environment
from otel_qemu.export.text import printable

_GRPC = "grpc"
_HTTP = "http/protobuf"
_DEFAULT_ENDPOINTS = {_GRPC: "http://localhost:4317", _HTTP: "http://localhost:4318"}


@dataclass(frozen=True)
class Destination:
    """
    Where traces go.

    Attributes:
        exporter: sends them; None: they are to be thrown away.
        name: of the endpoint, as a person knows it; without the password that its URL may hold.
    """

    exporter: SpanExporter | None
    name: str


def destination() -> Destination:
    """
    The destination that the environment asks for: OTLP over gRPC to this machine by default.

    Raises:
        BadInput: a variable has a value that it must not have.
    """
    disabled = environment.choice("false", ("true", "false"), environment.DISABLED) == "true"
    kind = environment.choice("otlp", ("otlp", "console", "none"), environment.EXPORTER)
    if disabled or kind == "none":
        return Destination(None, "none")
    if kind == "console":
        return Destination(ConsoleSpanExporter(out=sys.stdout), "console")
    protocol = environment.choice(_GRPC, tuple(_DEFAULT_ENDPOINTS), *environment.PROTOCOLS)
    make: Callable[[], SpanExporter] = _grpc if protocol == _GRPC else _http
    try:
        return Destination(make(), _endpoint(protocol))
    # Whatever their parsers of variables and certificate files raise: that is what a person must read.
    except Exception as error:
        raise BadInput(f"OTEL_EXPORTER_OTLP_*: {printable(str(error) or type(error).__name__)}") from error


def _grpc() -> SpanExporter:
    from grpc import Compression
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    # The specification's "none" is unknown to this exporter's own parser.
    _, compression = environment.setting(*environment.COMPRESSIONS)
    return OTLPSpanExporter(compression=Compression.NoCompression if compression == "none" else None)


def _http() -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


def _endpoint(protocol: str) -> str:
    _, url = environment.setting(*environment.ENDPOINTS)
    url = url or _DEFAULT_ENDPOINTS[protocol]
    _, found, host = urlsplit(url).netloc.rpartition("@")
    return printable(f"{urlsplit(url).scheme}://{host}" if found else url)
