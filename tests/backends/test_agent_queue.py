# SPDX-License-Identifier: Apache-2.0
"""The agent of collector/ while its gateway is away and it is killed: nothing that a sidecar made is lost."""

import contextlib
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from otel_qemu.export.delivery.client import TraceClient
from otel_qemu.export.delivery.fates import Fate, Tally
from otel_qemu.export.delivery.limits import Limits
from tests.support.encoded_traces import encoded
from tests.support.otlp_server import GRPC, Server, serving
from tests.support.sending import is_final, queue_of, sender_to

from .collector import Collector
from .config import LOOPBACK
from .jaeger import wait_for

WAIT_S = 60.0
MEMORY_MIB = 96
SIDECAR_SPANS = 2_000
"""Room that the sidecar has; more than that waits at the agent, or is lost."""
BATCH, SPANS, PADDING_BYTES = 100, 2, 2_000


class Load:
    """
    A sidecar's traces for an agent, no more at once than its small queue has room for.

    Attributes:
        produced: ids of the traces.
        size_bytes: theirs.
    """

    def __init__(self, agent: Collector, service: str) -> None:
        limits = Limits(queue=queue_of(SIDECAR_SPANS), delay_s=0.0, first_pause_s=0.05, longest_pause_s=0.2)
        self.client: TraceClient = sender_to(agent.otlp_grpc, GRPC, limits=limits)
        self.produced: list[bytes] = []
        self.size_bytes = 0
        self._service = service

    def send(self, size_bytes: int) -> None:
        """Send traces of this size, each when there is room for it."""
        end_bytes = self.size_bytes + size_bytes
        while self.size_bytes < end_bytes:
            batch = [encoded(SPANS, self._service, PADDING_BYTES) for _ in range(BATCH)]
            wait_for(self._has_room, WAIT_S, "room in the sidecar's queue")
            self.client.send(batch)
            self.produced += [trace.trace_id for trace in batch]
            self.size_bytes += sum(len(trace.spans) for trace in batch)

    def _has_room(self) -> bool:
        return self.client.stats[Fate.WAITING].spans + BATCH * SPANS <= SIDECAR_SPANS


@contextlib.contextmanager
def held_port() -> Iterator[int]:
    """A port that nobody else gets, on which nobody listens."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((LOOPBACK, 0))
        yield held.getsockname()[1]


def span_counts(server: Server) -> Counter[bytes]:
    """How many spans of each trace have arrived."""
    return Counter(
        span.trace_id
        for request in server.taken
        for of_resource in request.resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    )


def test_an_outage_longer_than_memory_and_a_kill_lose_nothing(otelcol: Path, tmp_path: Path, service: str) -> None:
    """
    Traces wait on disk: more than the agent may have in memory, through a kill, until the gateway is there.

    In the gateway's place is a server that notes what it gets.  What was under way at the kill may arrive twice.
    """
    with held_port() as port:
        address = f"[{LOOPBACK}:{port}]"
        with Collector.start(
            otelcol, tmp_path, "agent.yaml", OTELCOL_GATEWAYS=address, OTELCOL_MEMORY_MIB=str(MEMORY_MIB)
        ) as agent:
            load = Load(agent, service)
            load.send(MEMORY_MIB << 19)
            agent.kill()
            agent.launch()
            load.send(MEMORY_MIB << 20)
            assert load.client.flush(WAIT_S)
            stats = load.client.close()
            agent.kill()
            agent.launch()
            with serving(GRPC, port=port) as gateway:
                wait_for(lambda: len(span_counts(gateway)) >= len(load.produced), WAIT_S, "all traces at the gateway")
                agent.stop()
                found = span_counts(gateway)
    assert is_final(stats)
    assert stats.lost == Tally()
    assert load.size_bytes > MEMORY_MIB << 20
    assert found.keys() == set(load.produced)
    assert {count % SPANS for count in found.values()} == {0}
