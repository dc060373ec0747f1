# SPDX-License-Identifier: Apache-2.0
"""The sink between the loop, or a recording, and the client: everything is passed on, nothing twice."""

import itertools
import random
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from otel_qemu.events import NO_RECORDS, Batch, RbdOperation
from otel_qemu.export.delivery.batching import Capacity, batches
from otel_qemu.export.delivery.client import TraceClient
from otel_qemu.export.delivery.fates import Fate, Stats, Tally
from otel_qemu.export.delivery.limits import Limits
from otel_qemu.export.resources import Resources
from otel_qemu.export.sink import ExportSink, slices
from otel_qemu.export.spans.encode import encode
from otel_qemu.export.spans.encoded import EncodedTrace
from otel_qemu.export.spans.ids import Ids
from otel_qemu.export.transport.destination import Destination
from otel_qemu.trace.traces import Join, Traces
from tests.support import builders
from tests.support.builders import Call, Request, traces, write
from tests.support.decoded import spans_in
from tests.support.otlp_server import HTTP, serving
from tests.support.sending import WAIT_S, queue_of, sender_to

NOTHING = Batch(NO_RECORDS, 0)


class FakeClient(TraceClient):
    """
    Imitates a client whose network is under the test's control: it notes what it is given, and each `flush` sends
    what came since the last one.

    Attributes:
        given: to each call of `send`.
        flushes: how often `flush` was called.
    """

    def __init__(self, takes: bool = True, sent_spans: int = 0, lost_spans: int = 0, batch_spans: int = 5) -> None:
        """`takes` False: the endpoint takes nothing, and nothing is given up either."""
        super().__init__(Destination(None, "http://collector:4317"))
        self.sent_spans, self.lost_spans = sent_spans, lost_spans
        self.given: list[Sequence[EncodedTrace]] = []
        self.flushed = self.flushes = 0
        self.closed = False
        self._takes, self._batch_spans = takes, batch_spans

    @property
    def batch(self) -> Capacity:
        return Capacity(self._batch_spans, 1 << 30)

    @property
    def stats(self) -> Stats:
        of = {Fate.SENT: Tally(self.sent_spans), Fate.REFUSED: Tally(self.lost_spans)}
        return Stats({**Stats().by_fate, **of})

    @property
    def waiting(self) -> int:
        """Batches that no flush has sent."""
        return len(self.given) - self.flushed

    def send(self, traces: Sequence[EncodedTrace]) -> None:
        self.given.append(traces)

    def flush(self, timeout_s: float) -> bool:
        self.flushes += 1
        if self._takes:
            self.sent_spans += sum(trace.span_count for some in self.given[self.flushed :] for trace in some)
            self.flushed = len(self.given)
        return self._takes

    def close(self, timeout_s: float = 5.0) -> Stats:
        self.closed = True
        return self.stats

    @property
    def names(self) -> list[str]:
        return [span.name for span in spans_in(trace for some in self.given for trace in some)]


def rich(count: int) -> Traces:
    """Requests with 0, 1, 2, 0, ... calls, in which the sizes count up; and as many calls without one."""
    requests = [
        Request(calls=tuple(Call(RbdOperation.READ) for _ in range(n % 3)), fields={"bytes": n}) for n in range(count)
    ]
    return traces(*requests, orphans=[Call(join=Join.INTERNAL, fields={"length": n}) for n in range(count)])


def test_a_batch_goes_to_the_client_whole() -> None:
    client = FakeClient()
    with closing(ExportSink(client=client)) as sink:
        sink.take(NOTHING, traces(write(), orphans=[Call(join=Join.INTERNAL)]), builders.names())
        sink.take(NOTHING, traces(write()), builders.names())
        assert not client.closed
    assert client.closed
    assert client.names == ["WRITE", "rbd.aio_write", "rbd.aio_write", "WRITE", "rbd.aio_write"]
    assert client.flushes == 0  # the loop waits for nobody


def test_orphaned_calls_are_left_out_and_said() -> None:
    client = FakeClient(sent_spans=4, lost_spans=3)
    sink = ExportSink(client=client)
    assert sink.summary() == "4 spans sent to http://collector:4317, 3 lost"
    for _ in range(2):
        sink.take(NOTHING, traces(write(), orphans=[Call(join=Join.PARENT_LOST)]), builders.names())
    assert sink.orphaned_calls == 2
    assert sink.summary().endswith("3 lost; 2 RBD calls left out, for their request was lost")
    assert client.names == ["WRITE", "rbd.aio_write"] * 2


def test_a_large_batch_is_encoded_slice_by_slice() -> None:
    client = FakeClient()
    ExportSink(client=client, slice_requests=7).take(NOTHING, rich(20), builders.names())
    assert [len(some) for some in client.given] == [7, 7, 6, 7, 7, 6]
    assert client.names == [span.name for span in spans_in(encode(rich(20), builders.names(), Resources(), Ids()))]


@pytest.mark.parametrize("most", [1, 2, 3, 7, 19, 20, 21])
def test_slices_are_the_same_traces(most: int) -> None:
    whole = rich(20)
    found = list(slices(whole, most))
    assert all(len(some.requests) <= most and len(some.orphans) <= most for some in found)
    for name in ("bytes", "submit_ns"):
        assert np.concatenate([some.requests[name] for some in found]).tolist() == whole.requests[name].tolist()
    calls = [some.calls_of(index).tolist() for some in found for index in range(len(some.requests))]
    assert [len(own) for own in calls] == [n % 3 for n in range(20)]
    for some in found:
        assert some.unix_offset_ns == whole.unix_offset_ns
        for index in range(len(some.requests)):
            assert (some.calls_of(index)["parent"] == index).all()
    assert np.concatenate([some.orphans for some in found]).tolist() == whole.orphans.tolist()


def test_nothing_gives_nothing() -> None:
    client = FakeClient()
    ExportSink(client=client).take(NOTHING, traces(), builders.names())
    assert sum(map(len, client.given)) == 0


@pytest.mark.parametrize("most_spans", [1, 2, 3, 5, 100])
def test_batches_are_whole_traces(most_spans: int) -> None:
    encoded = encode(rich(20), builders.names(), Resources(), Ids(random.Random(1)))
    found = list(batches(encoded, Capacity(most_spans, 1 << 30)))
    assert [trace for some in found for trace in some] == encoded
    assert all(sum(trace.span_count for trace in some) <= most_spans or len(some) == 1 for some in found)
    joined = [[*one, *other] for one, other in itertools.pairwise(found)]
    assert all(sum(trace.span_count for trace in both) > most_spans for both in joined)
    assert list(batches([], Capacity(most_spans, 1 << 30))) == []


def test_a_recording_is_sent_no_faster_than_it_is_taken() -> None:
    most_waiting = 0

    class Watching(FakeClient):
        """Notes how much waits at once."""

        def send(self, traces: Sequence[EncodedTrace]) -> None:
            nonlocal most_waiting
            super().send(traces)
            most_waiting = max(most_waiting, self.waiting)

    client = Watching()
    ExportSink(client=client).resend([rich(20), traces(), rich(4)], builders.names())
    assert most_waiting == 1
    assert client.sent_spans == len(client.names) == 20 + 19 + 20 + 4 + 4 + 3


@pytest.mark.parametrize(
    "limits", [Limits(queue=queue_of(7)), Limits(queue=Capacity(1000, 3000)), Limits(queue=queue_of(30))]
)
def test_a_small_queue_loses_nothing_of_a_recording(limits: Limits) -> None:
    """It is given no more than it has room for, however little that is."""
    with serving(HTTP) as server:
        client = sender_to(server.url, HTTP, limits=replace(limits, delay_s=0.0))
        sink = ExportSink(client=client)
        sink.resend([rich(20)], builders.names())
        stats = client.close(WAIT_S)
    assert (stats[Fate.SENT].spans, stats.lost.spans) == (59, 0)


def test_an_endpoint_that_takes_nothing_is_not_waited_for_without_end() -> None:
    client = FakeClient(takes=False)
    ExportSink(client=client).resend([rich(20)], builders.names(), patience_s=0.0)
    assert len(client.names) == 59  # all of it is passed on, to be counted
    assert client.flushes < len(client.given)


def test_an_endpoint_that_gets_on_is_waited_for() -> None:
    class Slow(FakeClient):
        """Every second look finds one span more, until ten are sent."""

        def flush(self, timeout_s: float) -> bool:
            self.flushes += 1
            self.sent_spans = self.flushes // 2
            return self.sent_spans >= 10

    client = Slow(batch_spans=100)
    ExportSink(client=client).resend([rich(5)], builders.names(), patience_s=5.0)
    assert client.flushes == 20
