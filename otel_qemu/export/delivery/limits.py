"""How much may wait, how much is sent at once, and how long is waited."""

import sys
from dataclasses import dataclass
from typing import Self

from otel_qemu.export.delivery.batching import TRACE_BYTES, Capacity
from otel_qemu.export.transport import environment

_GRPC_LIMIT_BYTES = 4 << 20
"""What a gRPC server takes by default, uncompressed."""
_BATCH_SPANS = 2048


@dataclass(frozen=True)
class Limits:
    """
    Bounds of the queue, of the requests that leave it, and of the pauses between them.

    Attributes:
        queue_spans: room for spans that wait or are on their way; by default their bytes alone count.
        request_spans: spans per request, unless one trace has more.
        delay_s: how long traces may wait for others to fill a request.
        queue_bytes: room for the same spans, serialised.
        request_bytes: of a request, not compressed, unless one trace has more.
        first_pause_s: the longest pause after a first failure; it doubles with each further one.
        longest_pause_s: the longest pause after any number of failures.
    """

    queue_spans: int = sys.maxsize
    request_spans: int = 512
    delay_s: float = 1.0
    queue_bytes: int = 32 << 20
    request_bytes: int = _GRPC_LIMIT_BYTES - (1 << 16)
    first_pause_s: float = 1.0
    longest_pause_s: float = 30.0

    @property
    def queue(self) -> Capacity:
        """The queue's room."""
        return Capacity(self.queue_spans, self.queue_bytes)

    @property
    def request(self) -> Capacity:
        """A request's."""
        return Capacity(self.request_spans, self.request_bytes)

    @property
    def batch(self) -> Capacity:
        """Traces that an empty queue has room for, each with one span or more (`batching.room_bytes`)."""
        spans = min(_BATCH_SPANS, self.queue_spans, self.queue_bytes // 2 // TRACE_BYTES)
        return Capacity(spans, self.queue_bytes // 2)

    @classmethod
    def from_environment(cls, queue_bytes: int = 32 << 20) -> Self:
        """
        Limits that the standard ``OTEL_BSP_*`` variables set; our defaults where they do not.

        Args:
            queue_bytes: no standard variable sets it.

        Raises:
            BadInput: a variable is not a number, or out of range.
        """
        return cls(
            environment.number(cls.queue_spans, 1, environment.QUEUE_SPANS, int),
            environment.number(cls.request_spans, 1, environment.REQUEST_SPANS, int),
            environment.number(cls.delay_s * 1000, 0.0, environment.DELAY_MS, float) / 1000,
            queue_bytes,
        )
