# SPDX-License-Identifier: Apache-2.0
"""A million traces for an endpoint that never answers: nobody waits, and memory stays as it is."""

import itertools
import os
from pathlib import Path

import pytest

from otel_qemu.export.delivery.fates import Fate
from otel_qemu.export.delivery.limits import Limits
from otel_qemu.export.spans.encoded import EncodedTrace
from tests.support.encoded_traces import encoded
from tests.support.ledgers import is_conserved
from tests.support.otlp_server import GRPC, HTTP, Reply, serving
from tests.support.sending import is_final, sender_to, until

TRACES, BATCH = 1_000_000, 2_000
BODY = encoded(2, padding_bytes=300).spans
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def batch(first: int) -> list[EncodedTrace]:
    """Traces of two spans, which share nothing."""
    return [
        EncodedTrace(index.to_bytes(16, "big"), index.to_bytes(8, "big"), b"", bytes(bytearray(BODY)), 2)
        for index in range(first, first + BATCH)
    ]


@pytest.mark.parametrize("protocol", [GRPC, HTTP])
def test_memory_is_flat(protocol: str) -> None:
    """The request hangs for an hour: whoever waited for it would not end.  Growth is under 1 % of the data."""
    with serving(protocol, lambda *_: Reply(silent=True, takes=False)) as server:
        sender = sender_to(server.url, protocol, timeout_s=3600, limits=Limits(delay_s=0))
        sender.send(batch(0))
        until(lambda: len(server.arrivals_s) == 1)
        sizes_bytes = []
        for first in range(BATCH, TRACES, BATCH):
            sender.send(batch(first))
            sizes_bytes.append(resident_bytes())
        stats = sender.stats
        assert is_conserved(stats)
        assert stats.produced.traces == TRACES
        assert stats[Fate.WAITING].spans <= Limits().queue.spans
        assert stats[Fate.QUEUE_FULL].traces > 0
        assert len(server.arrivals_s) == 1
        stats = sender.close(2)
    assert is_final(stats)
    produced_bytes = TRACES * len(BODY)
    filled = len(sizes_bytes) // 10
    growth_bytes = max(sizes_bytes) - max(itertools.islice(sizes_bytes, filled))
    assert growth_bytes * 100 < produced_bytes
    assert not stats[Fate.SENT].traces
