# SPDX-License-Identifier: Apache-2.0
"""Clients for tests: to a URL, in a hurry."""

import time
from collections.abc import Callable
from typing import Any

from otel_qemu.export.delivery.batching import Capacity
from otel_qemu.export.delivery.client import TraceClient
from otel_qemu.export.delivery.fates import Fate, Stats, Tally
from otel_qemu.export.delivery.limits import Limits
from otel_qemu.export.delivery.sender import OnSent
from otel_qemu.export.transport.destination import Destination, open_transport
from otel_qemu.export.transport.endpoint import Endpoint, Signal
from tests.support.ledgers import is_conserved

WAIT_S = 120.0
LIMITS = Limits(delay_s=0.0, first_pause_s=0.01, longest_pause_s=0.05)


def sender_to(
    url: str,
    protocol: str,
    *,
    limits: Limits = LIMITS,
    on_sent: OnSent | None = None,
    **of_endpoint: Any,
) -> TraceClient:
    """A client of an endpoint; what else is given is the endpoint's."""
    place = Endpoint(Signal.TRACES, protocol, url, **of_endpoint)
    return TraceClient(Destination(open_transport(place), place.name), limits, on_sent=on_sent)


def queue_of(spans: int) -> Capacity:
    """A queue's room, in spans; in bytes the default."""
    return Limits.queue._replace(spans=spans)


def requests_of(spans: int) -> Capacity:
    """The most that a request has, in spans; in bytes the default."""
    return Limits.request._replace(spans=spans)


def until(condition: Callable[[], bool]) -> None:
    """Wait for it, with a deadline."""
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def is_final(stats: Stats) -> bool:
    """Everything has a fate, and nothing waits in memory."""
    return is_conserved(stats) and stats[Fate.WAITING] == Tally()
