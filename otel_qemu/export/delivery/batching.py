# SPDX-License-Identifier: Apache-2.0
"""Traces in a row: how much memory they take, and how many of them go into one request."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from otel_qemu.export.spans.encoded import SCOPE, EncodedTrace

TRACE_BYTES = 320
"""Memory that a trace takes beside its spans: a tuple, two ids, three headers."""
_GUEST_BYTES = len(SCOPE) + 16
"""What a request has for each guest beside its resource: the scope, and generous room for tags and lengths."""


class Capacity(NamedTuple):
    """
    Bounds of a queue or of a request, whichever is reached first.

    Attributes:
        spans: at most.
        bytes: at most, serialised and not compressed.
    """

    spans: int
    bytes: int


def room_bytes(trace: EncodedTrace) -> int:
    """The memory that a trace takes, without its resource, which all traces of a guest share."""
    return len(trace.spans) + TRACE_BYTES


class TraceBuffer:
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
        """Take the first `count` traces out, or all if there are fewer."""
        popped = [self._traces.popleft() for _ in range(min(count, len(self._traces)))]
        self.spans -= sum(trace.span_count for trace in popped)
        self.bytes -= sum(map(room_bytes, popped))
        return popped


def count_leading(traces: Iterable[EncodedTrace], capacity: Capacity) -> int:
    """The number of leading traces that fit into one request of this capacity; at least one, however large it is."""
    resources: set[bytes] = set()
    count = spans = size_bytes = 0
    for trace in traces:
        spans += trace.span_count
        size_bytes += len(trace.spans)
        if trace.resource not in resources:
            resources.add(trace.resource)
            size_bytes += len(trace.resource) + _GUEST_BYTES
        if count and (spans > capacity.spans or size_bytes > capacity.bytes):
            break
        count += 1
    return count


def batches(traces: Sequence[EncodedTrace], capacity: Capacity) -> Iterator[Sequence[EncodedTrace]]:
    """All traces in their order, in parts as large as `count_leading` allows."""
    first = 0
    while first < len(traces):
        count = count_leading(islice(traces, first, None), capacity)
        yield traces[first : first + count]
        first += count
