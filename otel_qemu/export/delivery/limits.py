# SPDX-License-Identifier: Apache-2.0
"""How much may wait, how much is sent at once, and how long is waited."""

import sys
from dataclasses import dataclass
from typing import Self

from otel_qemu.export.delivery.batching import TRACE_BYTES, Capacity
from otel_qemu.export.transport import environment

_QUEUE = Capacity(sys.maxsize, 32 << 20)
_REQUEST = Capacity(512, (4 << 20) - (1 << 16))
"""A gRPC server takes 4 MiB by default, uncompressed."""
_BATCH_SPANS = 2048


@dataclass(frozen=True)
class Limits:
    """
    Bounds of the queue, of the requests that leave it, and of the pauses between them.

    Attributes:
        queue: room for what waits or is on its way; by default its bytes alone count.
        request: the most that a request has, unless one trace has more.
        delay_s: how long traces may wait for others to fill a request.
        first_pause_s: the longest pause after a first failure; it doubles with each further one.
        longest_pause_s: the longest pause after any number of failures.
    """

    queue: Capacity = _QUEUE
    request: Capacity = _REQUEST
    delay_s: float = 1.0
    first_pause_s: float = 1.0
    longest_pause_s: float = 30.0

    @property
    def batch(self) -> Capacity:
        """Traces that an empty queue has room for, each with one span or more (`batching.room_bytes`)."""
        size_bytes = self.queue.bytes // 2
        return Capacity(min(_BATCH_SPANS, self.queue.spans, size_bytes // TRACE_BYTES), size_bytes)

    @classmethod
    def from_environment(cls, queue_bytes: int = _QUEUE.bytes) -> Self:
        """
        Limits that the standard ``OTEL_BSP_*`` variables set; our defaults where they do not.

        Args:
            queue_bytes: no standard variable sets it.

        Raises:
            BadInput: a variable is not a number, or out of range.
        """
        return cls(
            Capacity(environment.number(_QUEUE.spans, 1, environment.QUEUE_SPANS, int), queue_bytes),
            _REQUEST._replace(spans=environment.number(_REQUEST.spans, 1, environment.REQUEST_SPANS, int)),
            environment.number(cls.delay_s * 1000, 0.0, environment.DELAY_MS, float) / 1000,
        )
