"""How much may wait, how much is sent at once, and how long is waited."""

from dataclasses import dataclass
from typing import Self

from otel_qemu.export import environment

_GRPC_LIMIT_BYTES = 4 << 20
"""What a gRPC server takes by default, uncompressed."""


@dataclass(frozen=True)
class Limits:
    """
    Bounds of the queue, of the requests that leave it, and of the pauses between them.

    Attributes:
        queue_spans: room for spans that wait or are on their way.
        request_spans: spans a request, unless one trace has more.
        delay_s: how long traces may wait for others to fill a request.
        queue_bytes: room for the same spans, serialised.
        request_bytes: of a request, not compressed, unless one trace has more.
        first_pause_s: the most that is waited after a first failure; it doubles.
        longest_pause_s: up to this.
    """

    queue_spans: int = 16_384
    request_spans: int = 512
    delay_s: float = 1.0
    queue_bytes: int = 32 << 20
    request_bytes: int = _GRPC_LIMIT_BYTES - (1 << 16)
    first_pause_s: float = 1.0
    longest_pause_s: float = 30.0

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
