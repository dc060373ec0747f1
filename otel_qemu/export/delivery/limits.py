"""How much may wait, how much is sent at once, and how long is waited."""

import sys
from dataclasses import dataclass
from typing import Self

from otel_qemu.export.delivery.pile import TRACE_BYTES
from otel_qemu.export.delivery.portions import Bounds
from otel_qemu.export.transport import environment

_GRPC_LIMIT_BYTES = 4 << 20
"""What a gRPC server takes by default, uncompressed."""
_PORTION_SPANS = 2048


@dataclass(frozen=True)
class Limits:
    """
    Bounds of the queue, of the requests that leave it, and of the pauses between them.

    Attributes:
        queue_spans: room for spans that wait or are on their way; by default their bytes alone count.
        request_spans: spans a request, unless one trace has more.
        delay_s: how long traces may wait for others to fill a request.
        queue_bytes: room for the same spans, serialised.
        request_bytes: of a request, not compressed, unless one trace has more.
        first_pause_s: the most that is waited after a first failure; it doubles.
        longest_pause_s: up to this.
    """

    queue_spans: int = sys.maxsize
    request_spans: int = 512
    delay_s: float = 1.0
    queue_bytes: int = 32 << 20
    request_bytes: int = _GRPC_LIMIT_BYTES - (1 << 16)
    first_pause_s: float = 1.0
    longest_pause_s: float = 30.0

    @property
    def queue(self) -> Bounds:
        """The queue's room."""
        return Bounds(self.queue_spans, self.queue_bytes)

    @property
    def request(self) -> Bounds:
        """A request's."""
        return Bounds(self.request_spans, self.request_bytes)

    @property
    def portion(self) -> Bounds:
        """Traces that an empty queue has room for, each with a span at least: `pile.room_bytes` is their memory."""
        spans = min(_PORTION_SPANS, self.queue_spans, self.queue_bytes // 2 // TRACE_BYTES)
        return Bounds(spans, self.queue_bytes // 2)

    @classmethod
    def from_environment(cls, queue_bytes: int = 32 << 20) -> Self:
        """
        Limits that the standard ``OTEL_BSP_*`` variables set; our defaults where they do not.

        Args:
            queue_bytes: for which there is no such variable.

        Raises:
            BadInput: one is not a number, or out of range.
        """
        return cls(
            environment.number(cls.queue_spans, 1, environment.QUEUE_SPANS, int),
            environment.number(cls.request_spans, 1, environment.REQUEST_SPANS, int),
            environment.number(cls.delay_s * 1000, 0.0, environment.DELAY_MS, float) / 1000,
            queue_bytes,
        )
