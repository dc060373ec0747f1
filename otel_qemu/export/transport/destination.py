"""The transport that the ``OTEL_*`` variables ask for, of either signal."""

import sys
from dataclasses import dataclass

from otel_qemu.export.transport import environment
from otel_qemu.export.transport.answer import Transport
from otel_qemu.export.transport.console import ConsoleTransport
from otel_qemu.export.transport.endpoint import GRPC, Endpoint, Signal, endpoint


@dataclass(frozen=True)
class Destination:
    """
    Where a signal goes.

    Attributes:
        transport: takes requests there; None: they are to be thrown away.
        name: of the endpoint, as a person knows it; without the password that its URL may hold.
    """

    transport: Transport | None
    name: str


def open_transport(endpoint: Endpoint) -> Transport:
    """A transport to an endpoint; nothing is connected before the first request."""
    if endpoint.protocol == GRPC:
        from otel_qemu.export.transport.grpc import GrpcTransport

        return GrpcTransport(endpoint)
    from otel_qemu.export.transport.http import HttpTransport

    return HttpTransport(endpoint)


def exporter(signal: Signal) -> str:
    """
    ``otlp``, ``console`` or ``none``.

    Raises:
        BadInput: a variable has a value that it must not have.
    """
    disabled = environment.choice("false", ("true", "false"), environment.DISABLED) == "true"
    kind = environment.choice("otlp", ("otlp", "console", "none"), f"OTEL_{signal.upper()}_EXPORTER")
    return "none" if disabled else kind


def destination(signal: Signal) -> Destination:
    """
    The destination that the environment asks for: OTLP over gRPC to this machine by default.

    Raises:
        BadInput: a variable has a value that it must not have.
    """
    kind = exporter(signal)
    if kind == "otlp":
        place = endpoint(signal)
        return Destination(open_transport(place), place.name)
    return Destination(ConsoleTransport(signal, sys.stdout) if kind == "console" else None, kind)
