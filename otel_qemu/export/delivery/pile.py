"""Traces in a row, and how much room they take."""

from collections import deque
from collections.abc import Iterator, Sequence

from otel_qemu.export.spans.encoded import EncodedTrace

TRACE_BYTES = 320
"""Of memory that a trace takes beside its spans: a tuple, two ids, three headers."""


def room_bytes(trace: EncodedTrace) -> int:
    """The memory that a trace takes; its resource is all its guest's."""
    return trace.size_bytes + TRACE_BYTES


class Pile:
    """
    Traces, first in, first out.

    Attributes:
        spans: of them all.
        bytes: of memory that they take.
    """

    def __init__(self) -> None:
        self._traces: deque[EncodedTrace] = deque()
        self.spans = 0
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._traces)

    def __iter__(self) -> Iterator[EncodedTrace]:
        return iter(self._traces)

    def extend(self, traces: Sequence[EncodedTrace]) -> None:
        """Add traces at the end."""
        self._traces.extend(traces)
        self.spans += sum(trace.span_count for trace in traces)
        self.bytes += sum(map(room_bytes, traces))

    def pop(self, count: int) -> list[EncodedTrace]:
        """Take so many of the first out; fewer, if there are not so many."""
        popped = [self._traces.popleft() for _ in range(min(count, len(self._traces)))]
        self.spans -= sum(trace.span_count for trace in popped)
        self.bytes -= sum(map(room_bytes, popped))
        return popped
