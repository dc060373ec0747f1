"""The queue of whole traces: bounds, order, and a count of every span and trace at every moment."""

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from otel_qemu.export.delivery.pile import room_bytes
from otel_qemu.export.delivery.portions import Bounds, count_leading
from otel_qemu.export.delivery.queue import TraceQueue
from otel_qemu.export.delivery.stats import FATES, Ledger, Stats
from otel_qemu.export.spans.encoded import SCOPE, EncodedTrace, request_of
from tests.children import join

from .encoded_traces import encoded

ROOMY = Bounds(1000, 1 << 20)


def trace(spans: int, size_bytes: int = 0) -> EncodedTrace:
    return EncodedTrace(b"", b"", b"", b"\0" * size_bytes, spans)


def is_conserved(stats: Stats) -> bool:
    def of(*fates: str) -> tuple[int, int]:
        pairs = [stats.of(fate) for fate in fates]
        return sum(spans for spans, _ in pairs), sum(traces for _, traces in pairs)

    return of("produced", "restored") == of(*FATES) and all(getattr(stats, each.name) >= 0 for each in fields(stats))


def made(spans: int = 1000, size_bytes: int = 1 << 20, closed_as: str | None = None) -> tuple[TraceQueue, Ledger]:
    ledger = Ledger()
    return TraceQueue(Bounds(spans, size_bytes), ledger, closed_as), ledger


def take(queue: TraceQueue, spans: int) -> list[int] | None:
    taken = queue.take(Bounds(spans, 1 << 20), 0, timeout_s=0)
    return None if taken is None else [each.span_count for each in taken]


def test_every_fate_is_counted_in_spans_and_in_traces() -> None:
    names = {each.name for each in fields(Stats)}
    assert names == {f"{fate}_{unit}" for fate in ("produced", "restored", *FATES) for unit in ("spans", "traces")}


def test_requests_are_whole_traces() -> None:
    queue, _ = made()
    queue.put([trace(4), trace(5), trace(2), trace(600), trace(1)])
    assert [take(queue, 10) for _ in range(5)] == [[4, 5], [2], [600], [1], []]


def test_a_full_queue_drops_whole_new_traces_and_what_is_under_way_takes_room() -> None:
    queue, ledger = made(spans=10)
    queue.put([trace(6), trace(5), trace(4)])
    assert (ledger.stats.queued_spans, ledger.stats.dropped_queue_full_spans) == (10, 5)
    assert take(queue, 100) == [6, 4]
    queue.put([trace(1)])
    assert ledger.stats.dropped_queue_full_traces == 2
    queue.settle(2, "sent")
    queue.put([trace(1)])
    assert (ledger.stats.sent_spans, ledger.stats.queued_spans) == (10, 1)


def test_bytes_are_bounded_as_spans_are() -> None:
    room = 2 * room_bytes(trace(1, 1000))
    queue, ledger = made(size_bytes=room)
    queue.put([trace(1, 1000), trace(1, 1001), trace(1, 1000), trace(1)])
    assert (ledger.stats.queued_traces, ledger.stats.dropped_queue_full_traces) == (2, 2)


def test_what_is_put_back_comes_after_the_others() -> None:
    queue, ledger = made()
    queue.put([trace(1), trace(2), trace(3)])
    assert take(queue, 3) == [1, 2]
    queue.put_back(1)
    queue.settle(1, "dropped_refused")
    assert [take(queue, 3), take(queue, 3)] == [[3], [1]]
    assert ledger.stats.dropped_refused_spans == 2


@pytest.mark.parametrize(("rejected", "spans", "traces"), [(0, 0, 0), (1, 1, 1), (2, 2, 2), (5, 5, 3), (9, 6, 3)])
def test_rejected_spans_hurt_as_many_traces_as_they_can(rejected: int, spans: int, traces: int) -> None:
    """Of three traces of 1, 1 and 4 spans; an answer may claim to have rejected more than it was sent."""
    queue, ledger = made()
    queue.put([trace(1), trace(1), trace(4)])
    take(queue, 100)
    queue.settle(3, "sent", rejected)
    stats = ledger.stats
    assert (stats.rejected_spans, stats.rejected_traces) == (spans, traces)
    assert (stats.sent_spans, stats.sent_traces) == (6 - spans, 3 - traces)


def test_a_closed_queue_counts_what_comes_and_what_waited() -> None:
    queue, ledger = made()
    queue.put([trace(3)])
    take(queue, 3)
    queue.put([trace(2)])
    queue.close()
    queue.put([trace(1)])
    assert (ledger.stats.dropped_at_close_spans, ledger.stats.queued_spans) == (1, 5)
    queue.recall()
    queue.abandon()
    assert queue.settle(1, "sent") == []
    assert (ledger.stats.dropped_at_close_spans, ledger.stats.sent_spans) == (6, 0)
    assert take(queue, 1) is None


def test_a_disabled_queue_counts_too() -> None:
    queue, ledger = made(closed_as="dropped_disabled")
    queue.put([trace(3)])
    assert ledger.stats == Stats(3, 1, dropped_disabled_spans=3, dropped_disabled_traces=1)
    assert ledger.stats.lost_spans == 0


def test_the_oldest_are_shed_from_half_of_the_room_on() -> None:
    queue, ledger = made(spans=20)
    queue.put([trace(5), trace(5)])
    assert queue.shed(ROOMY, timeout_s=0) == []
    queue.put([trace(1), trace(2)])
    assert [each.span_count for each in queue.shed(Bounds(6, 1 << 20), timeout_s=0) or ()] == [5]
    assert queue.shed(ROOMY, timeout_s=0) == []
    assert (ledger.stats.spooled_spans, ledger.stats.queued_spans) == (5, 8)
    queue.close()
    assert queue.shed(ROOMY, timeout_s=0) is None
    assert [each.span_count for each in queue.rest(ROOMY)] == [5, 1, 2]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 6), st.sampled_from("abc"), st.integers(0, 300)), min_size=1, max_size=30),
    st.integers(1, 40),
    st.integers(600, 4000),
)
def test_requests_stay_below_their_bounds(of: list[tuple[int, str, int]], spans: int, size_bytes: int) -> None:
    """As serialised, with their resources and scope; unless a single trace is larger."""
    traces = [encoded(*each) for each in of]
    count = count_leading(traces, Bounds(spans, size_bytes), len(SCOPE))
    assert 1 <= count <= len(traces)
    if count > 1:
        assert sum(each.span_count for each in traces[:count]) <= spans
        assert len(request_of(traces[:count], SCOPE)) <= size_bytes
    if count < len(traces):
        too_many = sum(each.span_count for each in traces[: count + 1]) > spans
        assert too_many or len(request_of(traces[: count + 1], SCOPE)) > size_bytes - 4 * 64


class QueueMachine(RuleBasedStateMachine):
    """Any calls in any order, against a plain account of what must have become of every trace."""

    @initialize(spans=st.integers(1, 30), size_bytes=st.integers(400, 20_000))
    def begin(self, spans: int, size_bytes: int) -> None:
        self.most = Bounds(spans, size_bytes)
        self.queue, self.ledger = made(spans, size_bytes)
        self.produced: list[int] = []
        self.out: list[EncodedTrace] = []

    @rule(of=st.lists(st.tuples(st.integers(1, 12), st.integers(0, 900)), max_size=6))
    def put(self, of: list[tuple[int, int]]) -> None:
        self.queue.put([trace(*each) for each in of])
        self.produced += [spans for spans, _ in of]

    @rule(spans=st.integers(1, 20))
    def take(self, spans: int) -> None:
        taken = self.queue.take(Bounds(spans, 1 << 20), 0, timeout_s=0)
        assert taken is None or len(taken) <= 1 or sum(each.span_count for each in taken) <= spans
        self.out += taken or []

    @rule(count=st.integers(0, 5), fate=st.sampled_from(["sent", "dropped_refused"]), rejected=st.integers(0, 4))
    def settle(self, count: int, fate: str, rejected: int) -> None:
        assert list(self.queue.settle(count, fate, rejected)) == self.out[:count]
        self.out = self.out[count:]

    @rule(count=st.integers(0, 5))
    def put_back(self, count: int) -> None:
        self.queue.put_back(count)
        self.out = self.out[count:]

    @rule()
    def shed(self) -> None:
        self.queue.shed(Bounds(5, 1000), timeout_s=0)

    @rule()
    def close(self) -> None:
        self.queue.close()
        assert self.queue.take(ROOMY, 0, timeout_s=0) is None

    @rule()
    def end(self) -> None:
        self.queue.close()
        self.queue.recall()
        self.queue.rest(Bounds(5, 1000))
        self.queue.abandon()
        self.out = []
        assert self.ledger.stats.queued_traces == 0

    @invariant()
    def nothing_is_lost_unseen(self) -> None:
        stats = self.ledger.stats
        assert is_conserved(stats)
        assert stats.of("produced") == (sum(self.produced), len(self.produced))
        assert stats.queued_spans <= self.most.spans


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def test_counts_are_conserved_at_every_moment() -> None:
    """Four threads, random sizes and fates, and an observer that never sees a span in two places, or in none."""
    queue, ledger = made(spans=60)
    done = threading.Event()
    broken: list[Stats] = []

    def observe() -> None:
        while not done.is_set():
            stats = ledger.stats
            if not is_conserved(stats) or stats.queued_spans > 60:
                broken.append(stats)

    def send() -> None:
        random_ = random.Random(2)
        while (taken := queue.take(Bounds(16, 1 << 20), 0, 0.01)) is not None:
            _end(queue, taken, random_)

    def spool() -> None:
        while queue.shed(Bounds(8, 1 << 20), 0.01) is not None:
            pass

    threads = _started([observe, send, spool])
    sizes = random.Random(1)
    for turn in range(1500):
        queue.put([trace(sizes.randint(1, 20)) for _ in range(3)])
        if turn % 5 == 0:
            queue.drain(5)
    queue.close()
    for thread in threads[1:]:
        join(thread)
    queue.recall()
    queue.abandon()
    done.set()
    join(threads[0])
    stats = ledger.stats
    assert not broken
    assert (stats.produced_traces, stats.queued_spans) == (4500, 0)
    assert min(stats.sent_spans, stats.dropped_refused_spans, stats.dropped_queue_full_spans, stats.spooled_spans) > 0


def _end(queue: TraceQueue, taken: Sequence[EncodedTrace], random_: random.Random) -> None:
    half = len(taken) // 2
    queue.settle(half, random_.choice(["sent", "dropped_refused"]), random_.randint(0, 3))
    if random_.random() < 0.2:
        queue.put_back(len(taken) - half)
    else:
        queue.settle(len(taken) - half, "sent")


def _started(work: Sequence[Callable[[], None]]) -> list[threading.Thread]:
    threads = [threading.Thread(target=each, daemon=True) for each in work]
    for thread in threads:
        thread.start()
    return threads
