# SPDX-License-Identifier: Apache-2.0
"""The queue of whole traces: bounds, order, and a count of every span and trace at every moment."""

import random
import threading
import time
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from otel_qemu.export.delivery.batching import Capacity, count_leading, room_bytes
from otel_qemu.export.delivery.fates import Fate, Ledger, Stats, Tally
from otel_qemu.export.delivery.queue import TraceQueue
from otel_qemu.export.spans.encoded import EncodedTrace, request_of
from tests.children import join
from tests.support.encoded_traces import encoded
from tests.support.ledgers import is_conserved
from tests.support.sending import WAIT_S

ROOMY = Capacity(1000, 1 << 20)


def trace(spans: int, size_bytes: int = 0) -> EncodedTrace:
    return EncodedTrace(b"", b"", b"", b"\0" * size_bytes, spans)


def made(spans: int = 1000, size_bytes: int = 1 << 20, closed_as: Fate | None = None) -> tuple[TraceQueue, Ledger]:
    ledger = Ledger()
    return TraceQueue(Capacity(spans, size_bytes), ledger, closed_as), ledger


def take(queue: TraceQueue, spans: int) -> list[int] | None:
    taken = queue.take(Capacity(spans, 1 << 20), timeout_s=0)
    return None if taken is None else [each.span_count for each in taken]


def test_requests_are_whole_traces() -> None:
    queue, _ = made()
    queue.put([trace(4), trace(5), trace(2), trace(600), trace(1)])
    assert [take(queue, 10) for _ in range(5)] == [[4, 5], [2], [600], [1], []]


def test_a_full_queue_drops_whole_new_traces_and_what_is_under_way_takes_room() -> None:
    queue, ledger = made(spans=10)
    queue.put([trace(6), trace(5), trace(4)])
    assert (ledger.stats[Fate.WAITING].spans, ledger.stats[Fate.QUEUE_FULL].spans) == (10, 5)
    assert take(queue, 100) == [6, 4]
    queue.put([trace(1)])
    assert ledger.stats[Fate.QUEUE_FULL].traces == 2
    queue.settle(2, Fate.SENT)
    queue.put([trace(1)])
    assert (ledger.stats[Fate.SENT].spans, ledger.stats[Fate.WAITING].spans) == (10, 1)


def test_a_trace_that_has_waited_long_enough_is_taken() -> None:
    """As soon as it has, not when whoever takes it stops waiting."""
    queue, _ = made()
    queue.put([trace(1)], delay_s=0.1)
    began_s = time.monotonic()
    assert queue.take(ROOMY, timeout_s=600) == [trace(1)]
    assert 0.1 <= time.monotonic() - began_s < 60  # of 600


def test_bytes_are_bounded_as_spans_are() -> None:
    room = 2 * room_bytes(trace(1, 1000))
    queue, ledger = made(size_bytes=room)
    queue.put([trace(1, 1000), trace(1, 1001), trace(1, 1000), trace(1)])
    assert (ledger.stats[Fate.WAITING].traces, ledger.stats[Fate.QUEUE_FULL].traces) == (2, 2)


def test_what_is_put_back_comes_after_the_others() -> None:
    queue, ledger = made()
    queue.put([trace(1), trace(2), trace(3)])
    assert take(queue, 3) == [1, 2]
    queue.put_back(1)
    queue.settle(1, Fate.REFUSED)
    assert [take(queue, 3), take(queue, 3)] == [[3], [1]]
    assert ledger.stats[Fate.REFUSED].spans == 2


@pytest.mark.parametrize((Fate.REJECTED, "spans", "traces"), [(0, 0, 0), (1, 1, 1), (2, 2, 2), (5, 5, 3), (9, 6, 3)])
def test_rejected_spans_hurt_as_many_traces_as_they_can(rejected: int, spans: int, traces: int) -> None:
    """Of three traces of 1, 1 and 4 spans; an answer may claim to have rejected more than it was sent."""
    queue, ledger = made()
    queue.put([trace(1), trace(1), trace(4)])
    take(queue, 100)
    queue.settle(3, Fate.SENT, rejected)
    stats = ledger.stats
    assert (stats[Fate.REJECTED].spans, stats[Fate.REJECTED].traces) == (spans, traces)
    assert (stats[Fate.SENT].spans, stats[Fate.SENT].traces) == (6 - spans, 3 - traces)


def test_a_closed_queue_counts_what_comes_and_what_waited() -> None:
    queue, ledger = made()
    queue.put([trace(3)])
    take(queue, 3)
    queue.put([trace(2)])
    queue.close()
    queue.put([trace(1)])
    assert (ledger.stats[Fate.AT_CLOSE].spans, ledger.stats[Fate.WAITING].spans) == (1, 5)
    queue.recall()
    queue.abandon()
    assert queue.settle(1, Fate.SENT) == []
    assert (ledger.stats[Fate.AT_CLOSE].spans, ledger.stats[Fate.SENT].spans) == (6, 0)
    assert take(queue, 1) is None


def test_a_disabled_queue_counts_too() -> None:
    queue, ledger = made(closed_as=Fate.DISABLED)
    queue.put([trace(3)])
    assert ledger.stats == Stats({**Stats().by_fate, Fate.DISABLED: Tally(3, 1)})
    assert ledger.stats.lost.spans == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 6), st.sampled_from("abc"), st.integers(0, 300)), min_size=1, max_size=30),
    st.integers(1, 40),
    st.integers(600, 4000),
)
def test_requests_stay_below_their_bounds(of: list[tuple[int, str, int]], spans: int, size_bytes: int) -> None:
    """As serialised, with their resources and scope; unless a single trace is larger."""
    traces = [encoded(*each) for each in of]
    count = count_leading(traces, Capacity(spans, size_bytes))
    assert 1 <= count <= len(traces)
    if count > 1:
        assert sum(each.span_count for each in traces[:count]) <= spans
        assert len(request_of(traces[:count])) <= size_bytes
    if count < len(traces):
        too_many = sum(each.span_count for each in traces[: count + 1]) > spans
        assert too_many or len(request_of(traces[: count + 1])) > size_bytes - 4 * 64


def test_a_request_has_room_for_what_stands_around_each_guest() -> None:
    traces = [encoded(1, f"web{index}") for index in range(100)]
    assert count_leading(traces, Capacity(1000, len(request_of(traces)) - 1)) < 100


class QueueMachine(RuleBasedStateMachine):
    """Any calls in any order, against a plain account of what must have become of every trace."""

    @initialize(spans=st.integers(1, 30), size_bytes=st.integers(400, 20_000))
    def begin(self, spans: int, size_bytes: int) -> None:
        self.most = Capacity(spans, size_bytes)
        self.queue, self.ledger = made(spans, size_bytes)
        self.produced: list[int] = []
        self.out: list[EncodedTrace] = []

    @rule(of=st.lists(st.tuples(st.integers(1, 12), st.integers(0, 900)), max_size=6))
    def put(self, of: list[tuple[int, int]]) -> None:
        self.queue.put([trace(*each) for each in of])
        self.produced += [spans for spans, _ in of]

    @rule(spans=st.integers(1, 20))
    def take(self, spans: int) -> None:
        taken = self.queue.take(Capacity(spans, 1 << 20), timeout_s=0)
        assert taken is None or len(taken) <= 1 or sum(each.span_count for each in taken) <= spans
        self.out += taken or []

    @rule(count=st.integers(0, 5), fate=st.sampled_from([Fate.SENT, Fate.REFUSED]), rejected=st.integers(0, 4))
    def settle(self, count: int, fate: Fate, rejected: int) -> None:
        assert list(self.queue.settle(count, fate, rejected)) == self.out[:count]
        self.out = self.out[count:]

    @rule(count=st.integers(0, 5))
    def put_back(self, count: int) -> None:
        self.queue.put_back(count)
        self.out = self.out[count:]

    @rule()
    def close(self) -> None:
        self.queue.close()
        assert self.queue.take(ROOMY, timeout_s=0) is None

    @rule()
    def end(self) -> None:
        self.queue.close()
        self.queue.recall()
        self.queue.abandon()
        self.out = []
        assert self.ledger.stats[Fate.WAITING].traces == 0

    @invariant()
    def nothing_is_lost_unseen(self) -> None:
        stats = self.ledger.stats
        assert is_conserved(stats)
        assert stats.produced == (sum(self.produced), len(self.produced))
        assert stats[Fate.WAITING].spans <= self.most.spans


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def test_counts_are_conserved_at_every_moment() -> None:
    """Three threads, random sizes and fates, and an observer that never sees a span in two places, or in none."""
    queue, ledger = made(spans=60)
    done, looked = threading.Event(), threading.Event()
    broken: list[Stats] = []

    def observe() -> None:
        before = ledger.stats
        while not done.is_set():
            stats = ledger.stats
            if not is_conserved(stats) or stats[Fate.WAITING].spans > 60 or stats.produced < before.produced:
                broken.append(stats)
            before = stats
            looked.set()

    def send() -> None:
        random_ = random.Random(2)
        while (taken := queue.take(Capacity(16, 1 << 20), 0.01)) is not None:
            _end(queue, taken, random_)

    sizes = random.Random(1)
    queue.put([trace(sizes.randint(1, 20)) for _ in range(60)])  # not all fit, as nobody sends yet
    threads = _started([observe, send])
    assert looked.wait(WAIT_S)
    for turn in range(1480):
        queue.put([trace(sizes.randint(1, 20)) for _ in range(3)])
        if turn % 5 == 0:
            assert queue.flush(WAIT_S)  # so the sender has had its turns
    queue.close()
    for thread in threads[1:]:
        join(thread)
    queue.recall()
    queue.abandon()
    done.set()
    join(threads[0])
    stats = ledger.stats
    assert not broken
    assert (stats.produced.traces, stats[Fate.WAITING].spans) == (4500, 0)
    assert min(stats[Fate.SENT].spans, stats[Fate.REFUSED].spans, stats[Fate.QUEUE_FULL].spans) > 0


def _end(queue: TraceQueue, taken: Sequence[EncodedTrace], random_: random.Random) -> None:
    half = len(taken) // 2
    queue.settle(half, random_.choice([Fate.SENT, Fate.REFUSED]), random_.randint(0, 3))
    if random_.random() < 0.2:
        queue.put_back(len(taken) - half)
    else:
        queue.settle(len(taken) - half, Fate.SENT)


def _started(work: Sequence[Callable[[], None]]) -> list[threading.Thread]:
    threads = [threading.Thread(target=each, daemon=True) for each in work]
    for thread in threads:
        thread.start()
    return threads
