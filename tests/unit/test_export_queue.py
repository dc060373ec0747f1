"""The queue of whole traces: bounds, order, and a count of every span at every moment."""

import random
import threading
from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan

from otel_qemu.export.queue import Stats, TraceQueue

FATES = ("sent", "dropped_queue_full", "dropped_failed", "dropped_at_close", "dropped_disabled", "queued")


def trace(spans: int) -> list[ReadableSpan]:
    return [None] * spans  # type: ignore[list-item]  # the queue never looks into a trace


def is_conserved(stats: Stats) -> bool:
    return all(
        getattr(stats, f"produced_{unit}") == sum(getattr(stats, f"{fate}_{unit}") for fate in FATES)
        for unit in ("spans", "traces")
    )


def take(queue: TraceQueue, most_spans: int) -> list[int] | None:
    taken: list[Sequence[ReadableSpan]] | None = queue.take(most_spans, delay_s=0, timeout_s=0)
    return None if taken is None else [len(each) for each in taken]


def test_chunks_are_whole_traces() -> None:
    queue = TraceQueue(1000)
    queue.put([trace(4), trace(5), trace(2), trace(600), trace(1)])
    assert [take(queue, 10), take(queue, 10), take(queue, 10), take(queue, 10), take(queue, 10)] == [
        [4, 5],
        [2],
        [600],
        [1],
        [],
    ]


def test_a_full_queue_drops_whole_new_traces_and_what_is_under_way_takes_room() -> None:
    queue = TraceQueue(10)
    queue.put([trace(6), trace(5), trace(4)])
    assert (queue.stats.queued_spans, queue.stats.dropped_queue_full_spans) == (10, 5)
    assert take(queue, 100) == [6, 4]
    queue.put([trace(1)])
    assert queue.stats.dropped_queue_full_traces == 2
    queue.settle("sent")
    queue.put([trace(1)])
    assert (queue.stats.sent_spans, queue.stats.queued_spans) == (10, 1)


def test_a_closed_queue_counts_what_comes_and_what_waited() -> None:
    queue = TraceQueue(100)
    queue.put([trace(3)])
    take(queue, 3)
    queue.put([trace(2)])
    queue.close()
    queue.put([trace(1)])
    assert (queue.stats.dropped_at_close_spans, queue.stats.queued_spans) == (3, 3)
    queue.abandon()
    queue.settle("sent")
    assert (queue.stats.dropped_at_close_spans, queue.stats.sent_spans) == (6, 0)
    assert take(queue, 1) is None


def test_a_disabled_queue_counts_too() -> None:
    queue = TraceQueue(100, "dropped_disabled")
    queue.put([trace(3)])
    assert queue.stats == Stats(3, 1, dropped_disabled_spans=3, dropped_disabled_traces=1)
    assert queue.stats.lost_spans == 0


def test_counts_are_conserved_at_every_moment() -> None:
    """Three threads, random sizes and fates, and an observer that never sees a span in two places, or in none."""
    queue = TraceQueue(60)
    done = threading.Event()
    broken: list[Stats] = []

    def observe() -> None:
        while not done.is_set():
            stats = queue.stats
            if not is_conserved(stats) or stats.queued_spans > 60:
                broken.append(stats)

    def work() -> None:
        fates = random.Random(2)
        while queue.take(16, 0.0001, 0.01) is not None:
            queue.settle(fates.choice(["sent", "dropped_failed"]))

    threads = [threading.Thread(target=observe), threading.Thread(target=work)]
    for thread in threads:
        thread.start()
    sizes = random.Random(1)
    for _ in range(2000):
        queue.put([trace(sizes.randint(1, 20)) for _ in range(3)])
    queue.close()
    threads[1].join()
    done.set()
    threads[0].join()
    assert not broken
    assert queue.stats.produced_traces == 6000
    assert queue.stats.queued_spans == 0
    assert min(queue.stats.sent_spans, queue.stats.dropped_failed_spans, queue.stats.dropped_queue_full_spans) > 0
