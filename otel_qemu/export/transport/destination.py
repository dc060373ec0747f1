# SPDX-License-Identifier: Apache-2.0
"""The transport of traces that the ``OTEL_*`` variables ask for."""

import sys
from dataclasses import dataclass

from otel_qemu.export.transport.answer import Transport
from otel_qemu.export.transport.console import ConsoleTransport
from otel_qemu.export.transport.endpoint import GRPC, Endpoint, Signal
from otel_qemu.export.transport.installed import choose
from otel_qemu.export.transport.span_exporter import open_span_exporter


@dataclass(frozen=True)
class Destination:
    """
    The place that traces are sent to.

    Attributes:
        transport: sends requests there; None: they are thrown away.
        name: of the endpoint, as a person knows it, without the password that its URL may hold.
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


def destination() -> Destination:
    """The destination that the environment asks for; raises as `choose` does."""
    return Destination(*choose(Signal.TRACES, open_transport, lambda: ConsoleTransport(sys.stdout), open_span_exporter))
