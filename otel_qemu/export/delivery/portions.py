"""How much goes into one request, or into the queue at once."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from otel_qemu.export.spans.encoded import EncodedTrace

_FRAMING_BYTES = 16
"""Tag and length of a message, for those that a request nests; generous."""


class Bounds(NamedTuple):
    """
    Of a queue or of a request; whichever is reached first.

    Attributes:
        spans: at most.
        bytes: at most, serialised and not compressed.
    """

    spans: int
    bytes: int


def count_leading(traces: Iterable[EncodedTrace], most: Bounds, scope_bytes: int = 0) -> int:
    """
    How many of the first traces fit into one request; at least one, however large it is.

    Args:
        traces: in the order in which they are to go.
        most: of the request.
        scope_bytes: what the scope adds for each guest.
    """
    resources: set[bytes] = set()
    count = spans = size_bytes = 0
    for trace in traces:
        spans += trace.span_count
        size_bytes += trace.size_bytes
        if trace.resource not in resources:
            resources.add(trace.resource)
            size_bytes += len(trace.resource) + scope_bytes + _FRAMING_BYTES
        if count and (spans > most.spans or size_bytes > most.bytes):
            break
        count += 1
    return count


def portions(traces: Sequence[EncodedTrace], most: Bounds) -> Iterator[Sequence[EncodedTrace]]:
    """All of them in the same order, in parts as large as `count_leading` says."""
    first = 0
    while first < len(traces):
        count = count_leading(islice(traces, first, None), most)
        yield traces[first : first + count]
        first += count
