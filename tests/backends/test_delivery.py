# SPDX-License-Identifier: Apache-2.0
"""
The real Jaeger stopped and started again under load: nothing is lost, and what was queued stands there afterwards.
"""

import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from otel_qemu.export.delivery.fates import Fate
from otel_qemu.export.delivery.limits import Limits
from otel_qemu.export.spans.encoded import EncodedTrace
from tests.children import join
from tests.support.encoded_traces import encoded
from tests.support.otlp_server import GRPC, HTTP
from tests.support.sending import is_final, queue_of, sender_to

from .jaeger import Jaeger, wait_for

LIMITS = Limits(queue=queue_of(100_000), delay_s=0.01, first_pause_s=0.05, longest_pause_s=0.2)
BATCH, OUTAGE_TRACES = 20, 2_000


class Load:
    """
    Traces of a service, 20 at a time, until it is told to stop; slower when much waits in memory.

    Attributes:
        produced, sent: of the client, by trace id.
    """

    def __init__(self, url: str, protocol: str, service: str) -> None:
        self.produced: list[str] = []
        self.sent: list[str] = []
        self._service = service
        self._stopping = threading.Event()
        self.client = sender_to(url, protocol, limits=LIMITS, on_sent=self._note, timeout_s=2)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        join(self._thread)

    def _note(self, traces: Sequence[EncodedTrace]) -> None:
        self.sent += [trace.trace_id.hex() for trace in traces]

    def _run(self) -> None:
        while not self._stopping.wait(0.002):
            if self.client.stats[Fate.WAITING].spans < LIMITS.queue.spans * 3 / 4:
                batch = [encoded(2, self._service) for _ in range(BATCH)]
                self.client.send(batch)
                self.produced += [trace.trace_id.hex() for trace in batch]


def stored(jaeger: Jaeger, service: str) -> Counter[str]:
    """How many spans of each trace it has."""
    return Counter({trace.trace_id: len(trace.spans) for trace in jaeger.traces(service, 0, 10_000_000_000)})


@pytest.mark.parametrize("protocol", [GRPC, HTTP])
def test_an_outage_under_load_costs_nothing(binary: Path, tmp_path: Path, service: str, protocol: str) -> None:
    """Sent + lost = produced, lost = 0; all that Jaeger had not taken when it ended is there, whole, once."""
    with Jaeger.start(binary, tmp_path / "jaeger") as jaeger:
        url = jaeger.otlp_grpc if protocol == GRPC else f"{jaeger.otlp_http}/v1/traces"
        load = Load(url, protocol, service)
        wait_for(lambda: len(load.sent) > 500, 120, "traces in Jaeger")
        before = set(load.sent)
        assert before <= set(stored(jaeger, service))
        jaeger.stop()
        taken = set(load.sent)
        begun = len(load.produced)
        wait_for(lambda: len(load.produced) > begun + OUTAGE_TRACES, 120, "traces during the outage")
        assert set(load.sent) == taken
        jaeger.launch()
        wait_for(lambda: len(load.sent) > len(taken) + OUTAGE_TRACES, 120, "traces that waited")
        load.stop()
        wait_for(lambda: len(load.sent) == len(load.produced), 120, "the rest of them")
        stats = load.client.close()
        found = stored(jaeger, service)
    assert is_final(stats)
    assert (stats.produced.traces, stats[Fate.SENT].traces, stats.lost.spans) == (len(load.produced), len(load.sent), 0)
    assert len(load.sent) == len(set(load.sent))
    assert found == Counter(dict.fromkeys(set(load.produced) - taken, 2))
